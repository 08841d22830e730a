"""What is put into a model comes out of it again, and merging is what attaching is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import adapters_made as made
from adapters_made import CONV, LINEAR, NORM, POINT, TEXT, change, family, loras
from cli_tiny import tiny_model
from models_tiny import distance
from safelight.adapters.adapter import Adapter
from safelight.adapters.attach import attached
from safelight.adapters.deltas import LowRank, NormDifference
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.adapter_bias import WithBias
from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.adapter_save import save_adapter
from safelight.checkpoints.load import load
from safelight.checkpoints.save import save
from safelight.errors import CheckpointError
from safelight.merging.adapter_files import Output, extract_adapter
from safelight.merging.extract import Scope, extract
from safelight.merging.low_rank import RankRule
from safelight.merging.merge import merge
from safelight.merging.plan import Taken, checked_plan
from safelight.merging.weights import Weights

pytestmark = pytest.mark.slow

EMBEDDINGS = "text_model.embeddings."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models, a and b, as folders."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        save(tiny_model(seed), folder / name, "diffusers")
    return folder


def put_in(model: Path, target: str, *adapters: Taken, dtype: torch.dtype | None = None) -> Path:
    plan = checked_plan([Taken(model)], adapted=True)
    merge(plan, Path(target), "diffusers", adapters=adapters, dtype=dtype)
    return Path(target)


def test_a_merge_tells_of_each_tensor_once(models: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    plan = checked_plan([Taken(models / "a"), Taken(models / "b")])
    merge(
        plan,
        tmp_path / "m.safetensors",
        "ldm",
        progress=lambda done, all_: told.append((done, all_)),
    )
    whole = len(load_file(tmp_path / "m.safetensors"))
    assert told[-1] == (whole, whole) and {count for count, _ in told} == set(range(1, whole + 1))


def tensors(folder: Path, part: str) -> dict[str, Tensor]:
    (file,) = (folder / part).glob("*.safetensors")
    return load_file(file)


# -- merge is attach -------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [Weights(), Weights(0.3, text=-1.0, blocks="M00:0.5")])
def test_merging_every_kind_is_attaching_it_bit_for_bit(
    models: Path, place: Path, weights: Weights
) -> None:
    many, style = made.every_kind(), loras(name="style")
    for adapter in (many, style):
        save_adapter(adapter, f"{adapter.name}.safetensors", family())
    one, two = (Path(f"{adapter.name}.safetensors") for adapter in (many, style))
    merged = put_in(models / "a", "merged", Taken(one, weights), Taken(two))
    model = load(models / "a")
    parts = {"unet": model.network.unet, "text_encoder": model.text.encoders[0]}
    unet = 1.0 if weights.weight is None else weights.weight
    blocks = {"mid_block": 0.5} if weights.blocks else {}
    strengths = Strengths(unet, 1.0 if weights.text is None else weights.text, blocks)
    order = [
        (load_adapter(one, family()).adapter, strengths),
        (load_adapter(two, family()).adapter, Strengths()),
    ]
    with attached(parts, order, mode="fold"):
        for part, network in parts.items():
            there, state = tensors(merged, part), network.state_dict()
            assert there.keys() == state.keys()
            for name, tensor in there.items():
                assert torch.equal(tensor, state[name]), name
    before = tensors(models / "a", "unet")
    changed = {n for n, t in tensors(merged, "unet").items() if not torch.equal(t, before[n])}
    assert {f"{path}.weight" for path in (LINEAR, POINT, CONV, NORM)} <= changed
    assert all(name.startswith("mid_block.") for name in changed)


def test_a_model_of_a_half_type_is_rounded_once(models: Path, place: Path) -> None:
    save_adapter(loras(), "style.safetensors", family())
    merged = put_in(models / "a", "half", Taken(Path("style.safetensors")), dtype=torch.bfloat16)
    before = tensors(models / "a", "unet")[f"{LINEAR}.weight"]
    wanted = (before + change(loras(), "unet", LINEAR)).to(torch.bfloat16)
    assert torch.equal(tensors(merged, "unet")[f"{LINEAR}.weight"], wanted)


def test_models_and_adapters_merge_together(models: Path, place: Path) -> None:
    save_adapter(loras(), "style.safetensors", family())
    plan = checked_plan([Taken(models / "a"), Taken(models / "b", Weights(0.25))], adapted=True)
    low = [Taken(Path("style.safetensors"), Weights(0.5))]
    done = merge(plan, Path("m"), "diffusers", adapters=low)
    a, b = (tensors(models / name, "unet")[f"{CONV}.weight"] for name in "ab")
    wanted = 0.75 * a + 0.25 * b + 0.5 * change(loras(), "unet", CONV)
    assert distance(tensors(Path("m"), "unet")[f"{CONV}.weight"], wanted) < 1e-5
    assert [each.role for each in done.made.inputs] == ["model", "model", "adapter"]
    assert any("matched 12 of 12 tensors (100 %)" in note for note in done.notes)


def test_an_adapter_of_another_family_is_refused_and_nothing_is_written(
    models: Path, place: Path
) -> None:
    wide = replace(family(), backbone=replace(family().backbone, context_width=128))
    save_adapter(loras(), "style.safetensors", family())
    state = load_file("style.safetensors")
    name = f"lora_unet_{LINEAR.replace('.', '_')}.lora_down.weight"
    state[name] = torch.randn(4, 128)
    save_file(state, "wide.safetensors")
    assert wide != family()
    with pytest.raises(CheckpointError, match=r"wide\.safetensors.*does not fit"):
        put_in(models / "a", "m", Taken(Path("wide.safetensors")))
    assert not Path("m").exists()


# -- extracting ------------------------------------------------------------------------------------


def test_what_was_merged_is_extracted_again(models: Path, place: Path) -> None:
    style = loras(5)
    save_adapter(style, "style.safetensors", family())
    merged = put_in(models / "a", "merged", Taken(Path("style.safetensors")))
    found = extract(merged, models / "a", RankRule(5))
    assert {(part, path) for part, path, _ in found.adapter} == set(made.PLACES)
    for part, path in made.PLACES:
        delta = found.adapter.deltas[part][path]
        assert isinstance(delta, LowRank) and delta.rank == 5
        assert distance(change(found.adapter, part, path), change(style, part, path)) < 1e-4
    assert found.notes == ()


def test_an_energy_of_nearly_all_finds_the_rank_itself(models: Path, place: Path) -> None:
    save_adapter(loras(5), "style.safetensors", family())
    merged = put_in(models / "a", "merged", Taken(Path("style.safetensors")))
    found = extract(merged, models / "a", RankRule(energy=0.999999))
    assert {delta.rank for _, _, delta in found.adapter if isinstance(delta, LowRank)} == {5}


def test_with_the_rest_a_whole_model_comes_back(models: Path, place: Path) -> None:
    output = Output(Path("whole.safetensors"), dtype=torch.float32)
    rule, scope = RankRule(frobenius=1.0), Scope(rest=True)
    done = extract_adapter(models / "b", models / "a", output, rule, scope)
    back = put_in(models / "a", "back", Taken(output.path))
    for part in ("unet", "text_encoder"):
        ours, wanted = tensors(back, part), tensors(models / "b", part)
        for name, tensor in ours.items():
            if not name.startswith(EMBEDDINGS):
                assert float((tensor - wanted[name]).abs().max()) < 1e-5, name
    (note,) = done.made.notes
    assert "2 embeddings (no adapter carries them)" in note and "token_embedding" in note


def test_less_rank_keeps_less_and_the_share_is_told(models: Path, place: Path) -> None:
    shares = []
    for rank in (1, 4, 16, 64):
        tally = extract(models / "b", models / "a", RankRule(rank)).tally
        shares.append(tally.kept / tally.whole)
    assert shares == sorted(shares) and shares[0] < 0.5
    assert shares[-1] == pytest.approx(1, abs=1e-6)


def test_the_best_of_a_rank_is_taken_of_each_layer(models: Path, place: Path) -> None:
    found = extract(models / "b", models / "a", RankRule(3, conv_rank=2)).adapter
    for part, path in made.PLACES:
        a, b = (tensors(models / name, part)[f"{path}.weight"] for name in "ab")
        rank = 2 if path == CONV else 3
        u, s, v = torch.linalg.svd((b - a).flatten(1).double(), full_matrices=False)
        best = ((u[:, :rank] * s[:rank]) @ v[:rank]).float()
        assert distance(change(found, part, path).flatten(1), best) < 1e-4


@pytest.mark.parametrize(
    ("scope", "there", "gone"),
    [
        (Scope(conv=False), {LINEAR, POINT, TEXT}, {CONV, NORM}),
        (Scope(text=False), {LINEAR, CONV}, {TEXT, NORM}),
        (Scope(unet=False), {TEXT}, {LINEAR, CONV}),
        (Scope(rest=True), {LINEAR, CONV, TEXT, NORM}, set()),
    ],
)
def test_only_what_is_asked_for_is_taken(
    models: Path, place: Path, scope: Scope, there: set[str], gone: set[str]
) -> None:
    found = extract(models / "b", models / "a", RankRule(1), scope)
    paths = {path for _, path, _ in found.adapter}
    assert there <= paths and not gone & paths
    told = " ".join(found.notes)
    assert ("--rest takes them" in told) == (not scope.rest)
    assert ("--conv takes them" in told) == (not scope.conv)
    if scope.rest:
        assert isinstance(found.adapter.deltas["unet"][NORM], NormDifference)
        assert isinstance(found.adapter.deltas["unet"][CONV], WithBias)


def test_models_that_do_not_differ_give_no_adapter(models: Path, place: Path) -> None:
    with pytest.raises(CheckpointError, match="do not differ in what an adapter can carry"):
        extract(models / "a", models / "a", RankRule(4))


def test_an_extracted_adapter_acts_as_its_model_does(models: Path, place: Path) -> None:
    found: Adapter = extract(models / "b", models / "a", RankRule(), Scope(rest=True)).adapter
    model, wanted = load(models / "a"), load(models / "b")
    parts = {"unet": model.network.unet, "text_encoder": model.text.encoders[0]}
    x, time = torch.randn(1, 4, 8, 8), torch.tensor([500.0])
    context = torch.randn(1, 7, 64)
    with torch.no_grad(), attached(parts, [(found, Strengths())]):
        ours = model.network.unet(x, time, context)
    assert distance(ours, wanted.network.unet(x, time, context)) < 1e-3
