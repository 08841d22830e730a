"""Textual inversion: a word gets vectors, and nothing else of the model moves by a bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import teaching_lab as lab
from diffusion_lab import backbone, conditioner, process, shapes
from safelight.checkpoints.embedding_file import embedding_for, read_embedding
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.load import load
from safelight.errors import InputError, RequestError
from safelight.models.clip import ClipText
from safelight.text.conditioner import Conditioner
from safelight.training.diffusion_task import DiffusionSettings, DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.inversion import (
    PLAYER,
    TABLE,
    InvertedText,
    Word,
    begun,
    first_new,
    with_word,
)
from safelight.training.latent_cache import weights_hash
from safelight.training.loop import train
from safelight.training.text_states import tokens_of
from training_tiny import files_equal

CAPTIONS = ["a picture of <ball>", "<ball>", "no such thing", "a <ball> and a <ball>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.write_model(tmp_path_factory.mktemp("models") / "own")


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return lab.furnished(tmp_path, model, monkeypatch)


def inverted(count: int = 3, initial: str | None = "red ball") -> tuple[InvertedText, Word]:
    plain = conditioner()
    word = begun(plain, count, initial=initial, seed=1)
    return InvertedText(with_word(plain, "<ball>", word), word), word


def with_rows(word: Word) -> Conditioner:
    """The oracle: a tower whose own table has the new rows, and a tokenizer that knows of them."""
    plain = conditioner()
    tower = plain.encoders[0]
    state = tower.state_dict()
    state[TABLE] = torch.cat([state[TABLE], word.vectors[0].detach()])
    rows = len(state[TABLE])
    made = ClipText(replace(tower.config, vocabulary=rows))
    made.load_state_dict(state)
    ids = range(rows - len(word.vectors[0]), rows)
    return Conditioner(plain.spec, [made], plain.tokenizer.with_triggers({"<ball>": ids}))


# -- what is read ----------------------------------------------------------------------------------


def test_a_word_is_read_as_a_tower_with_its_vectors_reads_it() -> None:
    """The oracle: a table to which the rows were added, and the conditioner that draws."""
    text, word = inverted()
    whole = with_rows(word)
    ids = tokens_of(text.conditioner, CAPTIONS).ids
    assert (ids >= first_new(text.conditioner)).sum(1).tolist() == [3, 3, 0, 6]
    with torch.no_grad():
        states = text.states(ids)
    assert torch.equal(states.context, whole(CAPTIONS).context)


def test_vectors_begin_as_those_of_the_initial_word() -> None:
    text, word = inverted(3, "red ball")
    ids = conditioner().tokenizer.encode("red ball")
    assert len(ids) == 2
    with torch.no_grad():
        told = text.states(tokens_of(text.conditioner, ["a <ball>"]).ids)
    plain = conditioner()(["a red ball red"]).context
    assert torch.equal(told.context, plain)
    assert word.vectors[0].shape == (3, 32)


def test_vectors_without_an_initial_word_lie_near_the_mean() -> None:
    table = conditioner().encoders[0].text_model.embeddings.token_embedding.weight.detach()
    made, again = (
        begun(conditioner(), 4, initial=None, seed=1).vectors[0].detach() for _ in range(2)
    )
    distance = ((made - table.mean(0)) / table.std(0)).abs()
    assert torch.equal(made, again) and 0 < float(distance.max()) < 0.5
    assert not torch.equal(made[0], made[1])


@pytest.mark.parametrize("word", ["", " ", " ball", "\t"])
def test_a_word_that_no_prompt_could_say_is_refused(word: str) -> None:
    with pytest.raises(RequestError, match=r"inversion\.word must be a word"):
        with_word(conditioner(), word, begun(conditioner(), 1, initial=None, seed=0))


def test_an_initial_word_without_a_token_is_refused() -> None:
    with pytest.raises(RequestError, match=r"inversion\.initial has no token"):
        begun(conditioner(), 1, initial="  ", seed=0)


# -- what learns -----------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_rows_of_a_table_and_of_no_other() -> None:
    """The oracle: all rows learn, in a table of the tower; only the new ones are compared."""
    text, word = inverted()
    ids = tokens_of(text.conditioner, CAPTIONS).ids
    network = backbone(3)
    network.unet.requires_grad_(False)
    settings = DiffusionSettings(caption_dropout=0.0)
    task = DiffusionTask(network, process(), text, settings, word)
    batch = LatentBatch(shapes(4), ids)
    draw = Draw(0, 0, 4)
    loss = task.loss(PLAYER, batch, draw).total
    loss.backward()

    whole = with_rows(word)
    table = whole.encoders[0].text_model.embeddings.token_embedding.weight
    table.requires_grad_(True)
    context = whole(CAPTIONS).context
    other = DiffusionTask(network, process(), None, settings, torch.nn.Linear(1, 1))
    told = other.loss(PLAYER, LatentBatch(shapes(4), context=context), draw).total
    told.backward()
    assert table.grad is not None and word.vectors[0].grad is not None
    assert loss.item() == pytest.approx(told.item(), rel=1e-6)
    ours, theirs = word.vectors[0].grad, table.grad[-3:]
    assert (ours - theirs).abs().max() < 1e-4 * theirs.std()
    assert bool(theirs.any(1).all())


def test_only_the_new_rows_move(place: Path) -> None:
    """After ten steps of AdamW with weight decay, every other number of the model has its bits."""
    told = lab.values("textual_inversion", inversion={"word": "<ball>", "vectors": 2})
    told["training"] |= {"steps": 10, "weight_decay": 0.5, "learning_rate": 0.1}
    made = lab.job(told)
    task = made.task
    towers = [weights_hash(t) for t in task.text.conditioner.encoders]
    unet = weights_hash(task.network.unet)
    before = task.text.word.vectors[0].detach().clone()
    file = lab.trained(told, made)
    assert [weights_hash(t) for t in task.text.conditioner.encoders] == towers
    assert weights_hash(task.network.unet) == unet
    assert set(made.task.players) == {PLAYER}
    after = task.text.word.vectors[0].detach()
    assert bool(((after - before).abs().mean(1) > 0.1).all())
    fresh = load("old")
    assert [weights_hash(t) for t in fresh.text.encoders] == towers
    with open_weights(file) as weights:
        assert torch.equal(weights.read("emb_params"), after)


def test_weight_decay_leaves_the_vectors_alone(place: Path) -> None:
    told = lab.values("textual_inversion")
    told["data"]["captions"] = {"templates": ["<ball>"]}
    told["training"] |= {"steps": 3, "weight_decay": 0.9}
    results = []
    for decay in (0.0, 0.9):
        told["training"]["weight_decay"] = decay
        told["folder"] = f"run-{decay}"
        with open_weights(lab.trained(told)) as weights:
            results.append(weights.read("emb_params", copy=True))
    assert torch.equal(*results)


# -- runs ------------------------------------------------------------------------------------------


def test_a_resumed_run_has_the_same_bits(place: Path) -> None:
    told = lab.values("textual_inversion", inversion={"word": "<ball>", "initial": "a"})
    told["training"] |= {"steps": 4, "ema": ["classic:0.9"], "validate_every": 2}
    made = lab.job(told)
    train(made.task, made.data, made.settings, Path("whole"), order=made.order)
    for steps in (2, 4):
        told["training"]["steps"] = steps
        made = lab.job(told)
        train(made.task, made.data, made.settings, Path("parts"), order=made.order)
    name = "checkpoints/step-00000004"
    assert files_equal(Path("whole") / name, Path("parts") / name)


def test_the_loss_goes_down_and_previews_show_the_word(place: Path) -> None:
    told = lab.values("textual_inversion", previews={"prompts": ["<ball>"], "steps": 2})
    told["data"] |= {"held_out": 0.4}
    told["training"] |= {"validate_every": 1, "steps": 2}
    made = lab.job(told)

    watch = lab.Looking(made)
    train(made.task, made.data, made.settings, Path("run"), order=made.order, watch=watch)
    assert len(watch.seen) == 2
    assert watch.seen[0]["held_out/loss"] != watch.seen[1]["held_out/loss"]
    assert len(list(Path("run/previews").glob("*.png"))) == 2


@pytest.mark.parametrize(("layout", "name"), [("kohya", "emb_params"), ("diffusers", "<ball>")])
def test_the_file_is_named_after_the_word_and_in_the_layout_asked_for(
    place: Path, layout: str, name: str
) -> None:
    file = lab.trained(lab.values("textual_inversion", export={"layout": layout, "dtype": "fp16"}))
    assert file.name == "ball.safetensors"
    with open_weights(file) as weights:
        assert list(weights.header) == [name]
        assert weights.header[name].shape == (1, 64)
        assert weights.header[name].dtype == torch.float16


def test_captions_that_never_say_the_word_are_refused(place: Path) -> None:
    told = lab.values("textual_inversion", inversion={"word": "<cat>"})
    with pytest.raises(RequestError, match="no caption says '<cat>'"):
        lab.job(told)
    told["data"]["captions"] = {"templates": ["a picture of <cat>"]}
    lab.job(told)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("vectors", 0, "inversion.vectors must be from 1 to 75; got 0"),
        ("vectors", 76, "inversion.vectors must be from 1 to 75; got 76"),
        ("wrod", "x", "did you mean word?"),
    ],
)
def test_a_mistake_is_named(key: str, value: object, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("?", r"\?")):
        lab.job(lab.values("textual_inversion", inversion={"word": "<ball>", key: value}))


def test_what_is_written_draws_what_was_learned(place: Path) -> None:
    """The file, read as any other, tells the network what the run's own text side does."""
    told = lab.values("textual_inversion", inversion={"word": "<ball>", "vectors": 2})
    made = lab.job(told)
    file = lab.trained(told, made)
    model = load("old")
    drawn = model.text.with_embeddings([embedding_for(model, read_embedding(file), "<ball>")])
    text = made.task.text
    with torch.no_grad():
        learned = text.states(tokens_of(text.conditioner, CAPTIONS).ids).context
    assert torch.equal(drawn(CAPTIONS).context, learned)


def test_diffusers_opens_what_is_written_for_it(place: Path) -> None:
    """The oracle: its pipeline, whose tokenizer gets the word and whose encoder gets the rows."""
    from diffusers import StableDiffusionPipeline

    told = lab.values("textual_inversion", inversion={"word": "<ball>", "vectors": 2})
    told["export"] = {"layout": "diffusers"}
    file = lab.trained(told)
    pipeline = StableDiffusionPipeline.from_pretrained(place / "old", safety_checker=None)
    pipeline.load_textual_inversion(file.parent, weight_name=file.name)
    theirs, _ = pipeline.encode_prompt("a picture of <ball>", "cpu", 1, False)
    model = load("old")
    ours = model.text.with_embeddings([embedding_for(model, read_embedding(file), "<ball>")])
    context = ours(["a picture of <ball>"]).context
    assert (theirs - context).abs().max() < 1e-4 * context.std()
