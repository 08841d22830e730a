"""Laws of adapters that are taught: they start as nothing, and every number of them can move."""

import pytest
import torch
from torch import nn

from adapters_tiny import KINDS, OUT, convolution, filled, linear, seen_by, with_delta
from models_tiny import distance, random
from safelight.adapters.deltas import Decomposed, Delta, Kronecker, LowRank, NormDifference
from safelight.adapters.live import live
from safelight.adapters.targets import WORDS, targets
from safelight.adapters.trainable import KINDS as TAUGHT
from safelight.adapters.trainable import Size, trainable
from safelight.errors import CheckpointError, RequestError
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.models.layers import Conv2d, LayerNorm, Linear
from safelight.models.unet import UNet
from unet_published import FAMILIES, randomise, tiny

SIZE = Size(rank=2, alpha=1.0)


def network() -> nn.Module:
    return nn.ModuleDict({"flat": linear(), "conv": convolution(), "norm": filled(LayerNorm(OUT))})


def parameters(deltas: dict[str, Delta]) -> list[nn.Parameter]:
    return [p for delta in deltas.values() for p in delta.parameters()]


@pytest.mark.parametrize("tucker", [False, True])
@pytest.mark.parametrize("kind", TAUGHT)
def test_what_is_to_be_taught_starts_as_nothing_and_all_of_it_learns(
    kind: str, tucker: bool
) -> None:
    net = network()
    rng = torch.Generator().manual_seed(0)
    size = Size(rank=2, alpha=1.0, tucker=tucker)
    deltas = trainable(net, kind, ["flat", "conv"], size=size, generator=rng)
    xs = {name: seen_by(net[name]) for name in deltas}  # type: ignore[index]
    plain = {name: net[name](x) for name, x in xs.items()}  # type: ignore[index]
    goal = {name: random(*y.shape, seed=9) for name, y in plain.items()}
    assert all(p.dtype == torch.float32 and p.requires_grad for p in parameters(deltas))
    optimiser = torch.optim.Adam(parameters(deltas), lr=0.02)
    before = [p.detach().clone() for p in parameters(deltas)]
    losses = []
    with live(net, deltas):
        for name, x in xs.items():
            assert distance(net[name](x).detach(), plain[name]) < 1e-4  # type: ignore[index]
        for _ in range(8):
            optimiser.zero_grad()
            errors = [(net[n](x) - goal[n]).square().mean() for n, x in xs.items()]  # type: ignore
            loss = torch.stack(errors).sum()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        taught = {name: net[name](x).detach() for name, x in xs.items()}  # type: ignore[index]
    assert losses[-1] < losses[0]
    moved = [not torch.equal(a, b) for a, b in zip(before, parameters(deltas), strict=True)]
    assert all(moved)
    for name, x in xs.items():
        assert torch.equal(net[name](x), plain[name])  # type: ignore[index]
        again = with_delta(net[name], x, deltas[name])  # type: ignore[index]
        assert distance(again, taught[name]) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_live_is_attached(kind: str) -> None:
    for layer in (linear(), convolution()):
        delta, x = KINDS[kind](layer), seen_by(layer)
        net = nn.ModuleDict({"layer": layer})
        names = set(net.state_dict())
        with torch.no_grad(), live(net, {"layer": delta}, strength=0.7):
            answer = layer(x)
        assert distance(answer, with_delta(layer, x, delta, 0.7)) < 1e-5
        assert set(net.state_dict()) == names


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_changed_weight(kind: str) -> None:
    layer = linear()
    delta, x = KINDS[kind](layer), seen_by(layer)
    net = nn.ModuleDict({"layer": layer})
    with live(net, {"layer": delta}):
        layer(x).square().sum().backward()
    through_live = [p.grad.clone() for p in delta.parameters() if p.grad is not None]
    delta.zero_grad()
    bias = delta.bias_change(layer.bias)
    moved = layer.bias if bias is None else layer.bias + bias
    weight = layer.weight + delta.change(layer.weight)
    nn.functional.linear(x, weight, moved).square().sum().backward()
    direct = [p.grad for p in delta.parameters() if p.grad is not None]
    assert len(direct) == len(through_live) == len(list(delta.parameters()))
    for a, b in zip(direct, through_live, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_under_autocast_and_in_half_types_the_change_is_made_in_float32() -> None:
    layer = linear()
    delta, x = KINDS["loha"](layer), seen_by(layer)
    net = nn.ModuleDict({"layer": layer})
    exact = with_delta(layer, x, delta)
    with live(net, {"layer": delta}), torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)
    assert mixed.dtype == torch.bfloat16
    assert distance(mixed.detach().float(), exact) < 0.1
    half = linear().to(torch.bfloat16)
    with live(nn.ModuleDict({"layer": half}), {"layer": delta}):
        y = half(x)
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in delta.parameters())


def test_draws_follow_their_seed() -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        rng = torch.Generator().manual_seed(seed)
        made = trainable(network(), "lora", ["flat", "conv"], size=SIZE, generator=rng)
        return [p.detach() for p in parameters(made)]

    assert all(torch.equal(a, b) for a, b in zip(drawn(1), drawn(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(drawn(1), drawn(2), strict=True))


def test_convolutions_have_their_own_rank_and_norms_their_own_kind() -> None:
    size = Size(rank=4, alpha=2.0, conv_rank=2, conv_alpha=4.0)
    made = trainable(network(), "lora", ["flat", "conv", "norm"], size=size)
    flat, conv = made["flat"], made["conv"]
    assert isinstance(flat, LowRank) and (flat.rank, flat.scale, flat.alpha) == (4, 0.5, 2.0)
    assert isinstance(conv, LowRank) and (conv.rank, conv.scale, conv.alpha) == (2, 2.0, 4.0)
    assert isinstance(made["norm"], NormDifference)
    dora = trainable(network(), "dora", ["flat"])["flat"]
    assert isinstance(dora, Decomposed) and isinstance(dora.inner, LowRank)
    assert Size().of((8, 8)) == (16, 1.0)


def test_lokr_shares_a_side_in_near_halves_or_by_its_factor() -> None:
    def first(factor: int | None) -> tuple[int, ...]:
        delta = trainable(network(), "lokr", ["flat"], size=Size(1, factor=factor))["flat"]
        assert isinstance(delta, Kronecker) and delta.w1 is not None
        return tuple(delta.w1.shape)

    assert first(None) == (4, 3)
    assert first(2) == (2, 2)
    assert first(1) == (1, 1)


@pytest.mark.parametrize(
    ("features", "rank", "block"), [(16, 4, 4), (16, 5, 4), (160, 16, 10), (160, 8, 10), (96, 8, 6)]
)
def test_boft_takes_the_greatest_block_of_its_rank_or_the_least_there_is(
    features: int, rank: int, block: int
) -> None:
    net = nn.ModuleDict({"one": Linear(4, features)})
    blocks = next(iter(trainable(net, "boft", ["one"], size=Size(rank))["one"].parameters()))
    count = features // block
    assert tuple(blocks.shape) == (count.bit_length(), count, block, block)


def test_what_cannot_be_taught_is_refused() -> None:
    net = network()
    with pytest.raises(RequestError, match=r"unknown kind of adapter lara; choose lora, loha"):
        trainable(net, "lara", ["flat"])
    with pytest.raises(RequestError, match="third is no layer"):
        trainable(net, "lora", ["third"])
    odd = nn.ModuleDict({"odd": Linear(4, 9)})
    with pytest.raises(RequestError, match="BOFT turns features in pairs, and a layer has 9"):
        trainable(odd, "boft", ["odd"], size=SIZE)
    for settings, word in (({"rank": 0}, "rank"), ({"alpha": -1.0}, "alpha"), ({"factor": 0}, "f")):
        with pytest.raises(RequestError, match=word):
            Size(**settings)  # type: ignore[arg-type]
    deltas = {"flat": KINDS["lora"](linear()), "gone": KINDS["lora"](linear())}
    with pytest.raises(CheckpointError, match="no layer gone"), live(net, deltas):
        raise AssertionError("nothing is entered")
    with (
        pytest.raises(CheckpointError, match="does not fit conv"),
        live(net, {"conv": deltas["flat"]}),
    ):
        raise AssertionError("nothing is entered")
    assert not any(m.deltas for m in net.modules() if isinstance(m, (Linear, Conv2d)))


# -- choosing --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unet() -> UNet:
    made = UNet(tiny(FAMILIES["sd15"].ours)).eval()
    randomise(made)
    return made


def test_words_choose_what_the_field_calls_so(unet: UNet) -> None:
    attention = targets(unet, ["attention"])
    assert len(attention) == 16 * 8  # transformers, times two attentions of four
    assert all(isinstance(unet.get_submodule(p), Linear) for p in attention)
    assert targets(unet, ["cross-attention"]) == [p for p in attention if ".attn2." in p]
    transformer = targets(unet, ["transformer"])
    assert set(attention) < set(transformer)
    ends = {p.split(".", 4)[-1] for p in set(transformer) - set(attention)}
    assert {"proj_in", "proj_out"} <= {p.rpartition(".")[2] for p in transformer}
    assert any(end.endswith("ff.net.0.proj") for end in ends)
    assert len(transformer) == 16 * 12
    convolutions = targets(unet, ["convolutions"])
    assert not set(convolutions) & set(transformer) and "conv_in" in convolutions
    everything = targets(unet, ["all"])
    matrices = [p for p, m in unet.named_modules() if isinstance(m, (Linear, Conv2d))]
    assert everything == matrices
    assert not set(targets(unet, ["norms"])) & set(everything)
    assert targets(unet, ["norms", "all"]) == targets(unet, ["all", "norms"])


def test_words_choose_in_a_text_encoder_too() -> None:
    text = ClipText(ClipTextConfig(2, 16, 2, 24, "gelu", 12, 30, 16, 29))
    assert len(targets(text, ["attention"])) == 2 * 4
    assert len(targets(text, ["transformer"])) == 2 * 6
    with pytest.raises(RequestError, match="no layer is chosen by convolutions"):
        targets(text, ["convolutions"])


def test_patterns_choose_by_path(unet: UNet) -> None:
    chosen = targets(unet, ["up_blocks.*.attn2.to_?", "conv_in"])
    assert "conv_in" in chosen and len(chosen) == 1 + 9 * 3
    with pytest.raises(RequestError, match=r"no layer is chosen by up_block\..*attention"):
        targets(unet, ["up_block.*"])
    assert set(WORDS) == {
        "attention",
        "cross-attention",
        "transformer",
        "convolutions",
        "all",
        "norms",
    }
