"""The recipes "lora" and "lcm": from a config to a file that others open, the model untouched."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import teaching_lab as lab
import tiny
from safelight.adapters.adapter import AdapterFacts
from safelight.adapters.attach import attached
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.embedding_file import embedding_for, read_embedding
from safelight.checkpoints.load import load
from safelight.condition import Condition
from safelight.errors import InputError, RequestError
from safelight.training.latent_cache import weights_hash
from safelight.training.loop import train
from safelight.training.recipes.estimate import estimate
from safelight.training.recipes.job import Job
from safelight.training.taught_layers import PLAYER
from training_tiny import files_equal

pytestmark = pytest.mark.slow

KINDS = ["lora", "locon", "loha", "lokr", "dora", "ia3", "glora", "oft", "full"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.write_model(tmp_path_factory.mktemp("models") / "own")


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return lab.furnished(tmp_path, model, monkeypatch)


def values(**adapter: Any) -> dict[str, Any]:
    told = lab.values("lora", adapter={"rank": 2, **adapter})
    told["training"] |= {"steps": 3}
    return told


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x, context = torch.randn(2, 8, 8, 8, generator=rng), torch.randn(2, 77, 64, generator=rng)
    return x, torch.tensor([300.0, 700.0]), context


def drawn_by(made: Job) -> torch.Tensor:
    """What the network of a run answers, as it is now."""
    x, time, context = inputs()
    made.task.players[PLAYER].eval()
    with torch.no_grad():
        answer: torch.Tensor = made.task.network(x, time, Condition(context))
    return answer


def run(made: Job, folder: str) -> None:
    train(made.task, made.data, made.settings, Path(folder), order=made.order)


# -- what is written -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_acts_as_what_was_learned(place: Path, kind: str) -> None:
    told = values(kind=kind, **({"conv_rank": 3} if kind == "locon" else {}))
    made = lab.job(told)
    file = lab.trained(told, made)
    learned = drawn_by(made)
    model = load("old")
    found = load_adapter(file, model)
    assert found.matched == found.total > 0 and not found.unmatched
    parts = {"unet": model.network.unet}
    x, time, context = inputs()
    with torch.no_grad():
        plain = model.network(x, time, Condition(context))
        with attached(parts, [(found.adapter, Strengths())]):
            led = model.network(x, time, Condition(context))
    assert (led - learned).abs().max() < 1e-4 * learned.std()
    assert (led - plain).abs().max() > 1e-2 * plain.std()


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_diffusers_opens_it_and_draws_the_same(place: Path, layout: str) -> None:
    from diffusers import StableDiffusionPipeline

    told = values(text=True, alpha=1.0)
    told["export"] = {"layout": layout}
    told["training"]["learning_rate"] = 0.05
    made = lab.job(told)
    file = lab.trained(told, made)
    pipeline = StableDiffusionPipeline.from_pretrained(place / "old", safety_checker=None)
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    x, time, context = inputs()
    learned = drawn_by(made)
    with torch.no_grad():
        theirs = pipeline.unet(x, time, encoder_hidden_states=context).sample
        told_theirs, _ = pipeline.encode_prompt("a red ball", "cpu", 1, False)
        told_ours = made.task.text.conditioner(["a red ball"]).context
        told_before = load("old").text(["a red ball"]).context
    assert (theirs - learned).abs().max() < 1e-4 * learned.std()
    assert (told_theirs - told_ours).abs().max() < 1e-4 * told_ours.std()
    assert (told_ours - told_before).abs().max() > 1e-2 * told_ours.std()


def test_the_model_that_is_taught_keeps_its_bits(place: Path) -> None:
    before = {p: p.read_bytes() for p in (place / "old").rglob("*") if p.is_file()}
    base = load("old")
    told = values(kind="dora", text=True)
    made = lab.job(told)
    lab.trained(told, made)
    assert {p: p.read_bytes() for p in (place / "old").rglob("*") if p.is_file()} == before
    unet = made.task.network.unet
    known = base.network.unet.state_dict()
    assert all(torch.equal(unet.get_parameter(n), t) for n, t in known.items())
    towers = zip(base.text.encoders, made.task.text.conditioner.encoders, strict=True)
    for old, taught in towers:
        assert all(torch.equal(taught.get_parameter(n), t) for n, t in old.state_dict().items())


def test_facts_of_the_run_stand_in_the_file(place: Path) -> None:
    told = values(kind="lora", alpha=4.0)
    told["export"] = {"dtype": "bf16", "name": "my ball"}
    file = lab.trained(told)
    assert file.name == "my ball.safetensors"
    found = load_adapter(file, load("old"))
    assert found.adapter.about.metadata["steps"] == "3"
    assert found.adapter.about.metadata["ss_network_dim"] == "2"
    deltas = found.adapter.deltas["unet"].values()
    assert {d.scale for d in deltas} == {2.0}  # type: ignore[union-attr]
    assert {p.dtype for d in deltas for p in d.parameters()} == {torch.bfloat16}


def test_an_average_is_written_if_the_run_keeps_one(place: Path) -> None:
    told = values()
    told["training"] |= {"ema": ["classic:0.5"]}
    made = lab.job(told)
    file = lab.trained(told, made)
    last = made.task.players[PLAYER].state_dict()
    told["export"] = {"weights": "last"}
    found = load_adapter(file, load("old")).adapter.deltas["unet"]
    path = next(iter(found))
    assert torch.equal(found[path].up, last[f"unet.{path}.up"])  # type: ignore[arg-type]


# -- which layers ----------------------------------------------------------------------------------


def test_targets_and_blocks_choose_the_layers(place: Path) -> None:
    layers = lab.job(values(targets=["*.attn2.to_?"], blocks=["up_blocks.0", "mid_block"]))
    found = list(layers.task.players[PLAYER].deltas["unet"])
    assert found
    assert all(".attn2.to_" in p and p.startswith(("up_blocks.0", "mid_block")) for p in found)
    with pytest.raises(RequestError, match="hold none of the layers"):
        lab.job(values(blocks=["down_blocks.9"]))
    with pytest.raises(RequestError, match="no layer is chosen by atention"):
        lab.job(values(targets=["atention"]))


def test_locon_teaches_convolutions_too_and_a_rank_of_their_own(place: Path) -> None:
    made = lab.job(values(kind="locon", conv_rank=3))
    deltas = made.task.players[PLAYER].deltas["unet"]
    ranks = {name.rpartition(".")[2]: delta.rank for name, delta in deltas.items()}
    assert ranks["conv1"] == 3 and ranks["to_q"] == 2
    plain = lab.job(values()).task.players[PLAYER].deltas["unet"]
    assert not any("conv" in path for path in plain)


def test_rates_name_blocks_and_parts(place: Path) -> None:
    told = values(text=True)
    told["training"] |= {"rates": {"unet.down_blocks": 0.0, "text_encoder": 0.5, "*.up": 2.0}}
    made = lab.job(told)
    before = {n: p.detach().clone() for n, p in made.task.players[PLAYER].named_parameters()}
    run(made, "run")
    moved = {
        name: not torch.equal(p, before[name])
        for name, p in made.task.players[PLAYER].named_parameters()
    }
    assert not any(there for name, there in moved.items() if name.startswith("unet.down_blocks"))
    assert moved["text_encoder.text_model.encoder.layers.0.self_attn.q_proj.up"]
    assert any(there for name, there in moved.items() if name.startswith("unet.up_blocks"))


def test_a_rate_of_what_does_not_learn_is_refused(place: Path) -> None:
    told = values()
    told["training"] |= {"rates": {"text_encoder": 0.5}}
    with pytest.raises(RequestError, match="'text_encoder' stands for nothing that learns"):
        lab.job(told)


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "adapter",
    [{"kind": "lora", "dropout": 0.3, "text": True}, {"kind": "dora"}],
    ids=["lora with dropout and text", "dora"],
)
def test_a_resumed_run_has_the_same_bits(place: Path, adapter: dict[str, Any]) -> None:
    told = values(**adapter)
    told["training"] |= {"steps": 4, "ema": ["power:0.1"]}
    run(lab.job(told), "whole")
    for steps in (2, 4):
        told["training"]["steps"] = steps
        run(lab.job(told), "parts")
    name = "checkpoints/step-00000004"
    assert files_equal(Path("whole") / name, Path("parts") / name)


def test_an_adapter_goes_on_learning_from_its_file(place: Path) -> None:
    first = lab.trained(values(kind="locon", rank=3, text=True))
    told = lab.values("lora", adapter={"checkpoint": str(first)}, folder="next")
    made = lab.job(told)
    before = load_adapter(first, load("old")).adapter
    layers = made.task.players[PLAYER]
    assert {part: set(found) for part, found in layers.deltas.items()} == {
        part: set(found) for part, found in before.deltas.items()
    }
    for part, path, delta in before:
        for name, tensor in delta.named_parameters():
            assert torch.equal(layers.get_parameter(f"{part}.{path}.{name}"), tensor)
    again = lab.trained(told, made)
    after = load_adapter(again, load("old")).adapter
    assert len(after) == len(before) and after.about.kinds == before.about.kinds
    assert isinstance(after.about, AdapterFacts)


def test_previews_and_figures_see_what_was_learned(place: Path) -> None:
    told = values()
    told["data"]["held_out"] = 0.4
    told["previews"] = {"prompts": ["a ball"], "steps": 2}
    told["training"] |= {"validate_every": 1, "steps": 2, "learning_rate": 0.1}
    made = lab.job(told)
    watch = lab.Looking(made)
    train(made.task, made.data, made.settings, Path("run"), order=made.order, watch=watch)
    assert watch.seen[0]["held_out/loss"] != watch.seen[1]["held_out/loss"]
    sheets = sorted(Path("run/previews").glob("*.png"))
    assert len(sheets) == 2 and sheets[0].read_bytes() != sheets[1].read_bytes()


def test_a_check_counts_what_learns_and_leaves_nothing_behind(place: Path) -> None:
    with ExitStack() as stack:
        made = lab.job(values(), trial=True, stack=stack)
        found = estimate(made, torch.device("cpu"))
    learning = sum(p.numel() for p in made.task.players[PLAYER].parameters())
    assert found.weights == {PLAYER: learning} and found.flop > 0
    assert learning < 0.2 * sum(p.numel() for m in made.frozen for p in m.parameters())
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ({"kind": "loha", "dropout": 0.1}, "dropout is of lora and locon"),
        ({"kind": "lora", "factor": 4}, "factor is of lokr"),
        ({"kind": "lorra"}, "adapter.kind must be one of"),
        ({"rank": 0}, "adapter.rank must be 1 or more"),
        ({"checkpoint": "x.safetensors", "rank": 4}, "so leave out rank"),
    ],
)
def test_a_mistake_is_named(adapter: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        lab.job(lab.values("lora", adapter=adapter))


@pytest.mark.parametrize("recipe", ["lora", "lcm"])
@pytest.mark.parametrize("kind", ["ia3", "glora", "oft", "boft", "full"])
def test_a_layout_that_has_no_names_for_a_kind_is_refused_before_it_is_taught(
    kind: str, recipe: str
) -> None:
    told = lab.values(recipe, adapter={"kind": kind}, export={"layout": "diffusers"})
    with pytest.raises(InputError, match=rf"^c\.toml: export\.layout diffusers has no .* {kind};"):
        lab.job(told)


@pytest.mark.parametrize("recipe", ["lora", "lcm"])
def test_who_does_not_open_it_is_said_before_it_is_taught(place: Path, recipe: str) -> None:
    told = lab.values(recipe, adapter={"kind": "dora", "rank": 2})
    (found,) = [fact for fact in lab.job(told).facts if "kohya" in fact]
    assert "draws something else; for Diffusers give --layout diffusers" in found
    other = lab.job({**told, "export": {"layout": "diffusers"}})
    assert not any("kohya" in fact for fact in other.facts)


def test_layers_that_a_layout_has_no_names_for_are_refused_before_they_are_taught(
    place: Path,
) -> None:
    told = lab.values("lora", adapter={"targets": ["norms"]}, export={"layout": "diffusers"})
    with pytest.raises(InputError, match="the kind norm has no names in Diffusers'"):
        lab.job(told)
    assert not Path("run/checkpoints").exists()


def test_fsdp_is_not_for_what_is_small(place: Path) -> None:
    told = values()
    told["training"]["parallel"] = "fsdp"
    with pytest.raises(RequestError, match="use ddp"):
        lab.job(told)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_run_in_bfloat16_learns_in_float32(place: Path, kind: str) -> None:
    told = values(kind=kind, text=True)
    told["training"] |= {"precision": "bf16"}
    made = lab.job(told)
    assert made.task.network.unet.dtype == torch.bfloat16
    file = lab.trained(told, made)
    found = load_adapter(file, load("old")).adapter
    assert {p.dtype for _, _, d in found for p in d.parameters()} == {torch.float32}
    moved = [p for _, _, d in found for n, p in d.named_parameters() if n.endswith("up")]
    assert any(not torch.equal(p, p.bfloat16().float()) for p in moved)


# -- distillation ----------------------------------------------------------------------------------


def test_a_lora_of_lcm_is_written_with_how_it_is_drawn_with(place: Path) -> None:
    told = lab.values("lcm", export={"name": "quick"})
    made = lab.job(told)
    unet = weights_hash(load("old").network.unet)
    file = lab.trained(told, made)
    found = load_adapter(file, load("old"))
    assert found.speed is not None
    hint = found.speed.hint
    assert (hint.sampler, hint.steps, hint.guidance_scale) == ("lcm", 4, 1.0)
    assert found.matched == found.total and len(found.adapter) > 20
    assert weights_hash(load("old").network.unet) == unet


def test_a_resumed_distillation_has_the_same_bits_with_its_average(place: Path) -> None:
    told = lab.values("lcm", distillation={"solver_steps": 10, "target": 0.7})
    told["data"]["held_out"] = 0.4
    told["training"] |= {"steps": 4, "count_flops": True, "validate_every": 1}
    made = lab.job(told)
    watch = lab.Looking(made)
    train(made.task, made.data, made.settings, Path("whole"), order=made.order, watch=watch)
    for steps in (2, 4):
        told["training"]["steps"] = steps
        run(lab.job(told), "parts")
    name = "checkpoints/step-00000004"
    assert files_equal(Path("whole") / name, Path("parts") / name)
    assert len({round(seen["held_out/loss"], 12) for seen in watch.seen}) == 4


def test_a_network_that_is_not_told_the_scale_cannot_learn_it(place: Path) -> None:
    told = lab.values("lcm", distillation={"embedding": True})
    with pytest.raises(RequestError, match="told the guidance scale, and this one is not"):
        lab.job(told)


def test_the_whole_may_be_distilled_and_told_the_scale(place: Path) -> None:
    told = lab.values("lcm", adapter=False)
    told["distillation"] |= {"embedding": True, "guidance": [2.0, 8.0]}
    told["training"] |= {"rates": {"unet.down_blocks": 0.0}}
    made = lab.job(told)
    task = made.task
    assert task.network.unet is not task.teacher.unet
    x, time, context = inputs()
    with torch.no_grad():
        plain = task.teacher(x, time, Condition(context))
        asked = Condition(context, guidance=torch.tensor([3.0, 3.0]))
        student = task.network(x, time, asked)
    # a network that learns has kernels of its own, which round otherwise
    torch.testing.assert_close(student, plain, rtol=1e-5, atol=1e-5)
    folder = lab.trained(told, made)
    model = load(folder)
    assert model.family.backbone.guidance_width == 256
    hint = model.family.hint
    assert (hint.sampler, hint.steps, hint.guidance_scale) == ("lcm", 4, 5.0)
    learned = task.student.learner.state_dict()
    drawn = model.network.unet.state_dict()
    assert all(torch.equal(learned[f"unet.{name}"], tensor) for name, tensor in drawn.items())
    base = load("old").network.unet.state_dict()
    same = {name for name, tensor in base.items() if torch.equal(tensor, drawn[name])}
    assert {name for name in base if name.startswith("down_blocks")} <= same
    assert "conv_in.weight" not in same and bool(drawn["time_embedding.cond_proj.weight"].any())
    with torch.no_grad():
        low, high = (
            model.network(x, time, Condition(context, guidance=torch.full((2,), scale)))
            for scale in (2.0, 8.0)
        )
    assert not torch.equal(low, high)


def test_a_resumed_distillation_of_the_whole_has_the_same_bits(place: Path) -> None:
    told = lab.values("lcm", adapter=False)
    told["training"] |= {"steps": 4, "precision": "bf16"}
    run(lab.job(told), "whole")
    for steps in (2, 4):
        told["training"]["steps"] = steps
        run(lab.job(told), "parts")
    name = "checkpoints/step-00000004"
    assert files_equal(Path("whole") / name, Path("parts") / name)


# -- other families --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lora", "textual_inversion", "lcm"])
@pytest.mark.parametrize("name", ["sd15", "sd2-v", "sdxl"])
def test_other_families_are_taught_with_what_they_are_told(
    place: Path, name: str, recipe: str
) -> None:
    tiny.write_folder(tiny.oracle(name), place / "other")
    told = lab.values(recipe, model={"checkpoint": "other"})
    told["data"] |= {"multiple": 64, "size": 64}
    if recipe == "lora":
        told["adapter"] |= {"text": True, "kind": "locon"}
        told["prior"] = {"prompt": "a ball", "count": 1, "steps": 2}
    file = lab.trained(told)
    model = load("other")
    if recipe == "textual_inversion":
        word = embedding_for(model, read_embedding(file), "<ball>")
        assert len(word.vectors) == len(model.text.encoders)
        return
    found = load_adapter(file, model)
    assert found.matched == found.total and not found.unmatched
    if recipe == "lora":
        parts = {"unet", "text_encoder", "text_encoder_2"}
        assert set(found.adapter.deltas) == (
            parts if name == "sdxl" else parts - {"text_encoder_2"}
        )


def test_a_compiled_run_compiles_the_network_that_deltas_are_in(place: Path) -> None:
    made = lab.job(values())
    assert made.task.parts(PLAYER) == (made.task.network.unet,)
