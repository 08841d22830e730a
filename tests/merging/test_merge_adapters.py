"""Adapters joined and resized do what they did together, and what PEFT makes of them."""

from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

import adapters_made as made
from adapters_made import CONV, LINEAR, NORM, TEXT, change, family, layer, lora_of, loras, on
from models_tiny import distance, random
from safelight.adapters.adapter import Adapter
from safelight.adapters.deltas import (
    Difference,
    Hadamard,
    LowRank,
    NormDifference,
)
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.adapter_bias import WithBias
from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.adapter_save import save_adapter
from safelight.errors import CheckpointError, RequestError
from safelight.merging.adapter_files import Output, convert_adapter, merge_adapters, resize_adapter
from safelight.merging.adapter_inputs import family_for, is_adapter, strengths_of
from safelight.merging.adapters import Joining, combined, resized
from safelight.merging.low_rank import RankRule
from safelight.merging.plan import Taken
from safelight.merging.weights import Weights

PLACES = made.PLACES


def joined(
    *order: tuple[Adapter, Strengths], method: Joining = "sum", **options: object
) -> Adapter:
    return combined(order, family(), name="both", method=method, **options).adapter  # type: ignore[arg-type]


# -- joining ---------------------------------------------------------------------------------------


def test_a_sum_of_loras_is_exact_and_of_all_their_ranks() -> None:
    a, b = loras(4), loras(3, seed=50, name="other")
    both = joined((a, Strengths(0.7, 0.4)), (b, Strengths(-0.5, 1.0)))
    for part, path in PLACES:
        one, two = (0.7, -0.5) if part == "unet" else (0.4, 1.0)
        wanted = one * change(a, part, path) + two * change(b, part, path)
        assert distance(change(both, part, path), wanted) < 1e-5
        delta = both.deltas[part][path]
        assert isinstance(delta, LowRank) and delta.rank == 7


def test_a_sum_at_a_rank_is_the_best_of_that_rank() -> None:
    a, b = loras(4), loras(3, seed=50)
    both = joined((a, Strengths()), (b, Strengths()), rule=RankRule(2))
    for part, path in PLACES:
        whole = (change(a, part, path) + change(b, part, path)).flatten(1).double()
        u, s, v = torch.linalg.svd(whole, full_matrices=False)
        best = ((u[:, :2] * s[:2]) @ v[:2]).float()
        assert distance(change(both, part, path).flatten(1), best) < 1e-4


def test_layers_of_one_alone_are_its_own() -> None:
    a = on({("unet", LINEAR): lora_of(layer("unet", LINEAR).shape, 4)})
    b = on({("unet", CONV): lora_of(layer("unet", CONV).shape, 2)})
    both = joined((a, Strengths(0.5)), (b, Strengths(2)))
    assert distance(change(both, "unet", LINEAR), 0.5 * change(a, "unet", LINEAR)) < 1e-6
    assert distance(change(both, "unet", CONV), 2 * change(b, "unet", CONV)) < 1e-6


def test_kinds_mix_and_become_loras_of_the_greatest_rank() -> None:
    shape = layer("unet", CONV).shape
    loha = Hadamard(
        random(32, 2, seed=1), random(2, 288, seed=2), random(32, 2, seed=3), random(2, 288, seed=4)
    )
    a, b = on({("unet", CONV): loha}), on({("unet", CONV): lora_of(shape, 32)})
    both = joined((a, Strengths()), (b, Strengths(0.3)))
    delta = both.deltas["unet"][CONV]
    assert isinstance(delta, LowRank) and delta.rank == 32, "which is as much as there can be"
    wanted = change(a, "unet", CONV) + 0.3 * change(b, "unet", CONV)
    assert distance(change(both, "unet", CONV), wanted) < 1e-4


def test_norms_biases_and_whole_differences_add_up_too() -> None:
    shape = layer("unet", LINEAR).shape
    norm = NormDifference(random(32), random(32, seed=2))
    out = LINEAR.replace("to_k", "to_out.0")
    a = on({("unet", NORM): norm, ("unet", out): WithBias(lora_of((32, 32), 2), random(32))})
    b = on({("unet", NORM): norm, ("unet", out): Difference(bias=random(32, seed=3))})
    both = joined((a, Strengths(0.5)), (b, Strengths(2)))
    assert distance(change(both, "unet", NORM), 2.5 * norm.weight) < 1e-6
    bias = both.deltas["unet"][out].requires_grad_(False).bias_change(torch.zeros(32))
    assert bias is not None
    assert distance(bias, 0.5 * random(32) + 2 * random(32, seed=3)) < 1e-6
    whole = on({("unet", LINEAR): Difference(random(*shape))})
    assert (
        distance(change(joined((whole, Strengths(3))), "unet", LINEAR), 3 * random(*shape)) < 1e-6
    )


def test_a_kind_that_depends_on_the_weight_is_refused_by_name() -> None:
    for go in (
        lambda: joined((made.every_kind(), Strengths())),
        lambda: resized(made.every_kind(), family(), RankRule(2)),
    ):
        with pytest.raises(
            CheckpointError, match=r"many holds (DoRA|IA3|OFT).*depends.*merge it into a"
        ):
            go()


def test_strengths_of_nothing_leave_nothing_to_write() -> None:
    with pytest.raises(RequestError, match="change nothing at these strengths"):
        joined((loras(), Strengths(0, 0)))


# -- PEFT ------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """A linear layer and a convolution of the shapes of the tiny model's."""

    def __init__(self) -> None:
        super().__init__()
        conv, linear = layer("unet", CONV).shape, layer("unet", LINEAR).shape
        self.conv = nn.Conv2d(conv[1], conv[0], 3, padding=1, bias=False)
        self.linear = nn.Linear(linear[1], linear[0], bias=False)


def theirs(
    weights: list[float], kind: str, **options: object
) -> tuple[dict[str, Tensor], list[Adapter]]:
    """The changes of PEFT's combination of two LoRAs, and the two as ours."""
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=["conv", "linear"])
    model = peft.get_peft_model(Layers(), config, "one")  # type: ignore[arg-type]
    model.add_adapter("two", config)
    paths = {"conv": CONV, "linear": LINEAR}
    rng = torch.Generator().manual_seed(4)
    ours = []
    for name in ("one", "two"):
        deltas = {}
        for short, path in paths.items():
            module = getattr(model.base_model.model, short)
            up, down = module.lora_B[name].weight, module.lora_A[name].weight
            with torch.no_grad():
                for tensor in (up, down):
                    tensor.copy_(0.2 * torch.randn(tensor.shape, generator=rng))
            deltas["unet", path] = LowRank(up.detach().clone(), down.detach().clone(), scale=0.5)
        ours.append(on(deltas, name))
    model.add_weighted_adapter(["one", "two"], weights, "joined", combination_type=kind, **options)
    found = {
        path: getattr(model.base_model.model, short).get_delta_weight("joined").detach()
        for short, path in paths.items()
    }
    return found, ours


# PEFT elects signs before it weighs; where all weights are one the order does not matter.
@pytest.mark.filterwarnings("ignore:The density 1.0 is greater than or equal to 1")
@pytest.mark.parametrize(
    ("kind", "method", "density", "weights"),
    [
        ("cat", "sum", None, [0.7, 0.4]),
        ("svd", "sum", None, [0.7, 0.4]),
        ("ties_svd", "ties", 0.3, [0.6, 0.6]),
        ("ties_svd", "ties", 1.0, [1.0, 1.0]),
        ("dare_linear_svd", "dare", 1.0, [0.7, 0.4]),
        ("dare_ties_svd", "dare-ties", 1.0, [0.6, 0.6]),
    ],
)
def test_pefts_combinations_are_ours(
    kind: str, method: Joining, density: float | None, weights: list[float]
) -> None:
    rank = 8 if kind == "cat" else 5
    options: dict[str, object] = {} if density is None else {"density": density}
    wanted, (a, b) = theirs(weights, kind, svd_rank=None if kind == "cat" else rank, **options)
    rule = None if kind == "cat" else RankRule(rank)
    both = joined(
        (a, Strengths(weights[0])),
        (b, Strengths(weights[1])),
        method=method,
        rule=rule,
        density=1.0 if density is None else density,
    )
    for path, tensor in wanted.items():
        assert distance(change(both, "unet", path), tensor) < 1e-4


def test_dare_drops_by_its_seed_and_keeps_the_mean() -> None:
    a, b = loras(4), loras(4, seed=50)
    order = ((a, Strengths()), (b, Strengths()))
    ran = [
        joined(*order, method="dare", density=0.5, seed=seed, rule=RankRule(32))
        for seed in (1, 1, 2)
    ]
    one, again, other = (change(adapter, "unet", LINEAR) for adapter in ran)
    assert torch.equal(one, again) and not torch.equal(one, other)
    whole = change(a, "unet", LINEAR) + change(b, "unet", LINEAR)
    many = [
        change(
            joined(*order, method="dare", density=0.5, seed=s, rule=RankRule(32)), "unet", LINEAR
        )
        for s in range(60)
    ]
    assert distance(torch.stack(many).mean(0), whole) < 1.0
    assert float((torch.stack(many).mean() - whole.mean()).abs()) < 0.05 * float(whole.std())


# -- resizing --------------------------------------------------------------------------------------


def test_a_resized_lora_is_the_best_of_its_rank_and_the_same_at_its_own() -> None:
    adapter = loras(6)
    same = resized(adapter, family(), RankRule(6)).adapter
    for part, path in PLACES:
        assert distance(change(same, part, path), change(adapter, part, path)) < 1e-5
    small = resized(adapter, family(), RankRule(2))
    for part, path in PLACES:
        u, s, v = torch.linalg.svd(change(adapter, part, path).flatten(1), full_matrices=False)
        best = (u[:, :2] * s[:2]) @ v[:2]
        assert distance(change(small.adapter, part, path).flatten(1), best) < 1e-4
    assert small.tally.most == 2


def test_a_greater_rank_than_there_is_is_not_made_up() -> None:
    larger = resized(loras(4), family(), RankRule(128)).adapter
    assert {delta.rank for _, _, delta in larger if isinstance(delta, LowRank)} == {4}


def test_a_share_gives_each_layer_the_rank_that_it_needs() -> None:
    shape = layer("unet", LINEAR).shape
    strong = lora_of(shape, 1)
    weak = LowRank(0.01 * random(shape[0], 3, seed=5), random(3, shape[1], seed=6))
    stacked = joined(
        (on({("unet", LINEAR): strong}), Strengths()), (on({("unet", LINEAR): weak}), Strengths())
    )
    for share, rank in ((0.9, 1), (1.0, 4)):
        delta = resized(stacked, family(), RankRule(energy=share)).adapter.deltas["unet"][LINEAR]
        assert isinstance(delta, LowRank) and delta.rank == rank


def test_what_has_no_rank_stays_when_an_adapter_is_resized() -> None:
    norm = NormDifference(random(32), random(32, seed=2))
    bias = WithBias(lora_of((32, 32), 4), random(32))
    out = LINEAR.replace("to_k", "to_out.0")
    small = resized(on({("unet", NORM): norm, ("unet", out): bias}), family(), RankRule(1)).adapter
    assert small.deltas["unet"][NORM] is norm
    delta = small.deltas["unet"][out]
    assert isinstance(delta, WithBias) and torch.equal(delta.bias, random(32))
    assert isinstance(delta.inner, LowRank) and delta.inner.rank == 1


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture
def model(place: Path) -> Path:
    from cli_tiny import tiny_model
    from safelight.checkpoints.save import save

    save(tiny_model(), place / "model", "diffusers")
    return place / "model"


def test_files_are_merged_resized_and_renamed(place: Path, model: Path) -> None:
    a, b = loras(4), loras(3, seed=50, name="other")
    for adapter in (a, b):
        save_adapter(adapter, f"{adapter.name}.safetensors", family())
    both = Output(Path("both.safetensors"), "diffusers", torch.float32)
    taken = [Taken(Path("style.safetensors"), Weights(0.5)), Taken(Path("other.safetensors"))]
    written = merge_adapters(taken, both, model=model)
    assert any("style: LoRA, LoCon, matched 12 of 12 tensors (100 %)" in n for n in written.notes)
    small = Output(Path("small.safetensors"))
    resize_adapter(both.path, small, RankRule(7), model=model)
    convert_adapter(small.path, Output(Path("again.safetensors"), "diffusers"), model=model)
    for path in (both.path, small.path, Path("again.safetensors")):
        loaded = load_adapter(path, family())
        assert not loaded.unmatched
        for part, place_ in PLACES:
            wanted = 0.5 * change(a, part, place_) + change(b, part, place_)
            assert distance(change(loaded.adapter, part, place_), wanted) < 1e-5
        assert "safelight.recipe" in loaded.adapter.about.metadata
    assert [each.role for each in written.made.inputs] == ["adapter", "adapter"]


def test_remarks_stay_but_hashes_of_other_tensors_do_not(place: Path, model: Path) -> None:
    remarks = {"ss_steps": "700", "sshs_model_hash": "ab", "modelspec.hash_sha256": "0xab"}
    save_adapter(loras(), "style.safetensors", family(), metadata=remarks)
    resize_adapter(
        Path("style.safetensors"), Output(Path("s.safetensors")), RankRule(1), model=model
    )
    found = load_adapter("s.safetensors", family()).adapter.about.metadata
    assert found["ss_steps"] == "700" and found["ss_network_dim"] == "1"
    assert not {"sshs_model_hash", "modelspec.hash_sha256"} & found.keys()


def test_the_family_is_found_by_the_layers_or_asked_for(place: Path, model: Path) -> None:
    save_adapter(loras(), "tiny.safetensors", family())
    with pytest.raises(RequestError, match=r"is for no published family of models.*--model"):
        family_for([Path("tiny.safetensors")])
    assert family_for([Path("tiny.safetensors")], model).backbone == family().backbone


def test_an_adapter_is_told_from_a_model(place: Path, model: Path) -> None:
    save_adapter(loras(), "style.safetensors", family())
    save_adapter(loras(), "folder/pytorch_lora_weights.safetensors", family(), layout="diffusers")
    assert is_adapter(Path("style.safetensors")) and is_adapter(Path("folder"))
    assert not is_adapter(model) and not is_adapter(model / "unet")


def test_block_weights_of_an_adapter_are_factors() -> None:
    from safelight.merging.adapter_inputs import _modules

    modules = _modules(family())
    weights = Weights(0.8, text=0.5, blocks="M00:0.5,down_blocks.0:0")
    strengths = strengths_of(weights, modules)
    assert strengths.of("unet", LINEAR) == pytest.approx(0.4)
    assert strengths.of("unet", "down_blocks.0.resnets.0.conv1") == 0
    assert strengths.of("unet", "up_blocks.0.resnets.0.conv1") == pytest.approx(0.8)
    assert strengths.of("text_encoder", TEXT) == 0.5
    with pytest.raises(RequestError, match="vae= is for models"):
        strengths_of(Weights(vae=1.0), modules)
