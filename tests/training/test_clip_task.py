"""Teaching a CLIP: what it is shown, what it learns, and what it does not depend on."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from clip_tiny import EOS, SIDE, TEACHER, VOCABULARY, tiny_batch, tiny_clip, tiny_tokens
from safelight.errors import RequestError
from safelight.models.clip import ClipVisionConfig, similarity
from safelight.text.bpe import Tokenizer
from safelight.training.clip import gathering
from safelight.training.clip.augment import binomial, cropped, roughened, thinned
from safelight.training.clip.contrastive import contrastive_loss
from safelight.training.clip.judging import agreement, nearest_names, retrieval
from safelight.training.clip.network import TEXT_TOWER, ClipNetwork
from safelight.training.clip.phrase_data import PhraseData, PhraseTable, TaughtPairs, token_rows
from safelight.training.clip.task import PLAYER, ClipBatch, ClipSettings, ClipTask
from safelight.training.clip.teacher import Teacher
from safelight.training.clip.vocabulary import learn_vocabulary
from safelight.training.draw import Draw

UNCHANGED = ClipSettings(crop=1.0, blur=0.0, noise=0.0, thinned=0.0)
PHRASES = {"a red apple": 3, "a green apple": 3, "a puppy": 2, "a dog": 2, "a car": 2, "red car": 1}


def learned(task: ClipTask, batch: ClipBatch, steps: int, rate: float = 3e-3) -> list[float]:
    """Losses of AdamW on one batch."""
    optimizer = torch.optim.AdamW(task.network.parameters(), lr=rate)
    totals = []
    for step in range(steps):
        loss = task.loss(PLAYER, batch, Draw(0, step, total=8)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(float(loss.detach()))
    return totals


# -- what is shown ---------------------------------------------------------------------------------


def test_the_whole_crop_is_the_picture() -> None:
    pictures = torch.rand(3, 3, SIDE, SIDE)
    same = cropped(pictures, SIDE, 1.0, Draw(0, 0, total=3))
    assert torch.allclose(same, pictures, atol=1e-6)


def test_a_crop_is_a_square_part_of_at_least_its_share() -> None:
    """On a ramp the difference of neighbours tells the scale, and the values where it lies."""
    row = (torch.arange(64) + 0.5) / 64
    ramp = torch.stack([row.expand(64, 64), row[:, None].expand(64, 64)])[None].repeat(200, 1, 1, 1)
    seen = cropped(ramp, 16, 0.7, Draw(1, 0, total=200))
    assert seen.shape == (200, 2, 16, 16)
    across = (seen[:, 0, 8, 12] - seen[:, 0, 8, 4]) * 2
    down = (seen[:, 1, 12, 8] - seen[:, 1, 4, 8]) * 2
    assert torch.allclose(across, down, atol=1e-3)
    area = across * down
    assert 0.699 < float(area.min()) < 0.75 and 0.95 < float(area.max()) <= 1.001
    corner = seen[:, :, 0, 0]
    assert float(corner.min()) >= 0 and float(corner.std(0).min()) > 0.02


def test_colours_are_kept_and_noise_has_its_deviation() -> None:
    plain = torch.tensor([0.2, -0.5, 0.9])[:, None, None].expand(400, 3, SIDE, SIDE)
    rough = roughened(plain, 1.0, 0.1, Draw(0, 0, total=400))
    assert torch.allclose(rough.mean((0, 2, 3)), plain[0, :, 0, 0], atol=2e-3)
    deviations = rough.std((1, 2, 3), correction=0)
    amounts = (rough - plain).std((1, 2, 3))
    assert float(amounts.max()) < 0.11 and 0.04 < float(amounts.mean()) < 0.06
    assert float(deviations.min()) > 0


def test_the_blur_keeps_sums_and_is_binomial() -> None:
    dot = torch.zeros(1, 2, 5, 5)
    dot[:, :, 2, 2] = 16
    expected = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert torch.equal(binomial(dot)[0, 1, 1:4, 1:4], expected)


def test_thinning_leaves_out_inner_tokens_alone() -> None:
    tokens = torch.tensor(
        [[58, 1, 2, 3, EOS, EOS], [58, 4, 5, 6, 7, EOS], [58, EOS, EOS, EOS, EOS, EOS]]
    )
    chance = torch.ones(3, 6)
    assert torch.equal(thinned(tokens, 0.5, EOS, chance), tokens)
    chance[0, 2] = chance[1, 1] = chance[1, 4] = 0.0
    expected = torch.tensor(
        [[58, 1, 3, EOS, EOS, EOS], [58, 5, 6, EOS, EOS, EOS], [58, EOS, EOS, EOS, EOS, EOS]]
    )
    assert torch.equal(thinned(tokens, 0.5, EOS, chance), expected)
    everything = thinned(tokens, 2.0, EOS, torch.zeros(3, 6))
    assert torch.equal(everything, tokens[2].expand(3, -1))


def test_thinning_takes_its_share() -> None:
    tokens = torch.full((4000, 22), 5)
    tokens[:, 0], tokens[:, -1] = VOCABULARY - 2, EOS
    left = thinned(tokens, 0.05, EOS, Draw(0, 0, total=4000).uniform("x", 22))
    assert float((left == 5).sum() / 80_000) == pytest.approx(0.95, abs=0.005)


def test_in_evaluation_nothing_is_changed() -> None:
    task = ClipTask(tiny_clip().eval(), ClipSettings(noise=1.0, thinned=0.9))
    batch = tiny_batch()
    pictures, tokens, phrases = task.changed(batch, Draw(0, 0, total=8))
    assert pictures is batch.pictures and tokens is batch.tokens and phrases is batch.phrase_tokens


# -- the network -----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    one, same, other = (dict(tiny_clip(seed).named_parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(weight, same[name]) for name, weight in one.items())
    assert not torch.equal(one["head.weight"], other["head.weight"])


@torch.no_grad()
def test_initial_weights_have_openais_deviations() -> None:
    network = ClipNetwork(TEXT_TOWER)
    words = network.text.text_model
    assert float(words.embeddings.token_embedding.weight.std()) == pytest.approx(0.02, rel=0.02)
    block = words.encoder.layers[0]
    assert float(block.self_attn.q_proj.weight.std()) == pytest.approx(256**-0.5, rel=0.02)
    assert float(block.mlp.fc2.weight.std()) == pytest.approx(256**-0.5 * 8**-0.5, rel=0.02)
    assert float(block.mlp.fc1.bias.abs().max()) == 0
    drawn = network.vision.vision_model
    assert float(drawn.embeddings.class_embedding.std()) == pytest.approx(160**-0.5, rel=0.2)
    assert float(drawn.pre_layrnorm.weight.min()) == 1


def test_towers_of_different_projections_are_refused() -> None:
    with pytest.raises(ValueError, match="got 256 and 64"):
        ClipNetwork(TEXT_TOWER, ClipVisionConfig(projection=64))


def test_captions_and_phrases_in_one_call_are_those_in_two() -> None:
    network, rng = tiny_clip().eval(), torch.Generator().manual_seed(0)
    tokens, phrases = tiny_tokens(3, rng), tiny_tokens(5, rng, 5)
    both = network(tokens=tokens, phrases=phrases)
    assert torch.allclose(both.texts, network(tokens=tokens).texts, atol=1e-5)
    assert torch.allclose(both.phrases, network(phrases=phrases).phrases, atol=1e-5)
    assert both.pictures is None and both.taught.shape == (5, TEACHER)


# -- the loss --------------------------------------------------------------------------------------


def test_the_loss_is_the_contrast_of_what_the_towers_say() -> None:
    task, batch = ClipTask(tiny_clip().eval(), UNCHANGED), tiny_batch()
    batch = replace(batch, phrase_tokens=None, phrase_vectors=None)
    with torch.no_grad():
        loss = task.loss(PLAYER, batch, Draw(0, 0, total=8))
        features = task.network(batch.pictures, batch.tokens)
        logits = similarity(features.pictures, features.texts) / 0.07
    right = torch.eye(8).bool()
    right[:2, :2] = right[2:4, 2:4] = True  # one group; one caption
    expected = contrastive_loss(logits, logits.T, right, right)
    assert torch.allclose(loss.total, expected, atol=1e-5)
    hits = right.gather(1, logits.argmax(1, keepdim=True)).float().mean()
    assert torch.allclose(loss.figures["text_recall@1"], hits)


def test_what_a_caption_leaves_unsaid_makes_it_right_for_more() -> None:
    task, batch = ClipTask(tiny_clip().eval(), UNCHANGED), tiny_batch()
    groups = torch.stack([torch.arange(8) % 2, torch.arange(8)], 1)
    said = groups.clone()
    said[:, 1] = -1
    exact, vague = replace(batch, groups=groups), replace(batch, groups=groups, said=said)
    found = [
        task.loss(PLAYER, b, Draw(0, 0, total=8)).figures["text_recall@5"] for b in (exact, vague)
    ]
    assert float(found[1]) > float(found[0]) and float(found[1]) == 1.0  # 4 of 8 are right


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_eight_pairs_are_learned(kind) -> None:
    network = tiny_clip().train()
    if kind == "sigmoid":
        network.for_sigmoid_loss()
    task = ClipTask(network, replace(UNCHANGED, loss=kind))
    batch = replace(tiny_batch(), phrase_tokens=None, phrase_vectors=None)
    totals = learned(task, batch, 40)
    assert totals[-1] < 0.6 * totals[0]
    assert retrieval(network, [batch])["text_recall@1"] == 1.0
    assert network.training


def test_a_student_learns_its_teachers_vectors_from_text_alone() -> None:
    task, batch = ClipTask(tiny_clip().train(), UNCHANGED), tiny_batch(pairs=False)
    before = agreement(task.network, batch.phrase_tokens, batch.phrase_vectors)
    learned(task, batch, 60)
    shown = task.loss(PLAYER, batch, Draw(0, 0, total=8)).figures
    assert set(shown) == {"taught", "matched"} and float(shown["taught"]) < 0.1
    after = agreement(task.network, batch.phrase_tokens, batch.phrase_vectors)
    assert after > 0.9 > 0.5 > before


def test_the_head_and_the_vision_tower_learn_only_from_their_parts() -> None:
    task = ClipTask(tiny_clip().train())
    task.loss(PLAYER, tiny_batch(pairs=False), Draw(0, 0, total=8)).total.backward()
    assert task.network.head.weight.grad is not None
    assert all(weight.grad is None for weight in task.network.vision.parameters())


def test_a_step_depends_on_its_draw_alone() -> None:
    task, batch = ClipTask(tiny_clip().train()), tiny_batch()
    torch.manual_seed(1)
    first = task.loss(PLAYER, batch, Draw(3, 7, total=8)).total
    torch.manual_seed(2)
    again = task.loss(PLAYER, batch, Draw(3, 7, total=8)).total
    other = task.loss(PLAYER, batch, Draw(3, 8, total=8)).total
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_network_in_bfloat16_gives_a_float32_loss_near_that_of_float32() -> None:
    batch, draw = tiny_batch(), Draw(0, 0, total=8)
    exact = ClipTask(tiny_clip().eval()).loss(PLAYER, batch, draw).total
    half = ClipTask(tiny_clip().eval().to(torch.bfloat16)).loss(PLAYER, batch, draw).total
    assert half.dtype == torch.float32
    assert torch.allclose(exact, half, rtol=0.03)


@pytest.mark.slow
def test_the_network_is_one_graph_for_a_compiler() -> None:
    plain, compiled = tiny_clip().train(), tiny_clip().train()
    compiled.compile(backend="aot_eager", fullgraph=True)
    losses = [
        ClipTask(network).loss(PLAYER, tiny_batch(), Draw(0, 0, total=8)).total
        for network in (plain, compiled)
    ]
    assert torch.allclose(*losses, atol=1e-5)


def test_a_batch_of_nothing_and_a_batch_that_ranks_cannot_share_are_refused(monkeypatch) -> None:
    task = ClipTask(tiny_clip())
    with pytest.raises(ValueError, match="neither"):
        task.loss(PLAYER, ClipBatch(), Draw(0, 0, total=8))
    monkeypatch.setattr("safelight.training.clip.task.ranks", lambda: 3)
    with pytest.raises(RequestError, match="multiple of 3"):
        task.loss(PLAYER, tiny_batch(), Draw(0, 0, total=8))
    assert gathering.ranks() == 1


# -- phrases as data, and judging ------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(vocabulary=learn_vocabulary(PHRASES, 540))


@pytest.fixture(scope="module")
def table(tokenizer: Tokenizer) -> PhraseTable:
    vectors = F.normalize(torch.randn(len(PHRASES), 4, generator=torch.Generator().manual_seed(0)))
    return PhraseTable.of(Teacher(tuple(PHRASES), vectors), tokenizer, length=12)


def test_rows_of_tokens_start_end_and_are_cut(tokenizer: Tokenizer) -> None:
    bos, eos = tokenizer.vocabulary.bos, tokenizer.vocabulary.eos
    own = tokenizer.encode("a red apple")
    rows = token_rows(["a red apple", "", "apple " * 100], tokenizer, 6)
    assert rows[0].tolist() == [bos, *own, *[eos] * (5 - len(own))]
    assert rows[1].tolist() == [bos] + [eos] * 5
    assert rows[2].tolist() == [bos, *tokenizer.encode("apple " * 100)[:4], eos]
    assert token_rows([], tokenizer, 6).shape == (0, 6)


def test_phrases_are_drawn_evenly_and_rows_do_not_depend_on_the_division(table) -> None:
    tokens, _ = table.drawn(2, Draw(0, 0, total=3000))
    kinds, counts = tokens.unique(dim=0, return_counts=True)
    assert len(kinds) == len(PHRASES) and float(counts.min()) > 850  # of 1,000 each
    whole = table.drawn(2, Draw(0, 5, total=8))
    parts = [table.drawn(2, Draw(0, 5, total=8, start=at, count=4)) for at in (0, 4)]
    for one, of_parts in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(one, torch.cat(of_parts))


def test_data_of_phrases_gives_them_by_number_and_beside_pairs(table) -> None:
    batch = PhraseData(table).batch([4, 0], Draw(0, 0, total=2))
    assert torch.equal(batch.phrase_tokens, table.tokens[[4, 0]]) and batch.pictures is None

    class Pairs:
        def __len__(self) -> int:
            return 8

        def batch(self, indices, draw) -> ClipBatch:
            return replace(tiny_batch(), phrase_tokens=None, phrase_vectors=None)

    data = TaughtPairs(Pairs(), table, each=3)
    both = data.batch(range(8), Draw(0, 0, total=8))
    assert len(data) == 8 and both.phrase_tokens.shape == (24, 12) and both.pictures is not None
    network = ClipNetwork(
        replace(tiny_clip().text.config, vocabulary=540, eos_id=539),
        tiny_clip().vision.config,
        teacher_width=4,
    )
    loss = ClipTask(network.train()).loss(PLAYER, both, Draw(0, 0, total=8))
    assert bool(loss.total.isfinite()) and {"contrastive", "taught"} <= set(loss.figures)


def test_retrieval_counts_equal_captions_once_and_does_not_depend_on_batches() -> None:
    network, batch = tiny_clip().eval(), tiny_batch()
    whole = retrieval(network, [batch])
    halves = [
        ClipBatch(batch.pictures[at : at + 4], batch.tokens[at : at + 4], batch.groups[at : at + 4])
        for at in (0, 4)
    ]
    assert retrieval(network, halves) == whole
    assert whole["pairs"] == 8 and whole["captions"] == 7
    with pytest.raises(ValueError, match="pictures and captions"):
        retrieval(network, [tiny_batch(pairs=False)])


def test_the_nearest_name_of_a_name_is_itself(tokenizer: Tokenizer) -> None:
    config = replace(tiny_clip().text.config, vocabulary=540, eos_id=539, context=77)
    network = ClipNetwork(config, tiny_clip().vision.config).eval()
    found = nearest_names(network, tokenizer, list(PHRASES), ["a dog", "a car"], count=2)
    assert {word: names[0] for word, names in found.items()} == {"a dog": "a dog", "a car": "a car"}
    assert all(len(names) == 2 for names in found.values())
