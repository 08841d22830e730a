"""Eight bits: what is rounded, how it is chosen, and what is remembered of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cli_tiny import tiny_model
from models_tiny import distance, random, randomised
from safelight.engines import openvino, openvino_int8, private_note
from safelight.engines import openvino_runtime as runtime
from safelight.engines.openvino import UNetRunner
from safelight.engines.openvino_eight import (
    EightBits,
    Rounding,
    Scales,
    rounded_weight,
    with_zero,
)
from safelight.engines.openvino_graph import graph_of
from safelight.engines.openvino_runtime import missing
from safelight.engines.openvino_scales_file import kept, remembered
from safelight.engines.openvino_watching import Layer, Seen, judged
from safelight.engines.private_folder import digest
from safelight.errors import RequestError
from safelight.families import X4_UPSCALER
from safelight.model import Model
from safelight.models.unet import UNet, UNetConfig

pytestmark = pytest.mark.slow

needs_int8 = pytest.mark.skipif(
    missing("INT8", "BF16") is not None, reason="this processor multiplies no bytes"
)
SMALL = UNetConfig(channels=(16, 32), depths=((1,), (1,)), heads=(2, 2), context_width=12, groups=4)
KEY = "0" * 64


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_rounded_input_is_off_by_half_a_level_at_most() -> None:
    x = random(4, 6, 8)
    rounding = Rounding(torch.linspace(0.5, 2.0, 8), -9.0, 11.0)
    off = (rounding.apply(x, 2) - x / rounding.factors).abs().max()
    assert 0 < off <= 0.5 * 20.0 / 255 + 1e-6


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_a_rounded_weight_is_off_by_half_a_step_of_its_own_channel(kernel: tuple[int, ...]) -> None:
    ones = [1] * len(kernel)
    weight = random(6, 5, *kernel) * (10.0 ** torch.arange(6)).reshape(-1, 1, *ones)
    factors = torch.linspace(0.5, 2.0, 5)
    numbers, step = rounded_weight(weight, factors)
    wide = weight * factors.reshape(1, -1, *ones)
    assert numbers.dtype == torch.int8
    assert step.shape == (6, 1, *ones)
    assert bool(((numbers.float() * step - wide).abs() <= 0.5 * step * 1.001).all())


def seen_of(x: Tensor, weight: Tensor) -> Seen:
    seen = Seen([Layer("layer", weight)], 2)
    seen.add([x.amin((0, 1)), x.amax((0, 1)), x], keep=True)
    return seen


def test_channels_of_large_numbers_are_divided_so_that_the_others_keep_levels() -> None:
    x = random(4, 30, 16)
    x[..., 3] *= 200
    weight = random(8, 16, seed=2)
    (best,) = judged([seen_of(x, weight)])
    factors = best.rounding.factors
    assert factors[3] > 5 * factors[torch.arange(16) != 3].max()
    plain = Rounding(torch.ones(16), -float(x.abs().max()), float(x.abs().max()))
    exact = F.linear(x, weight)

    def error(rounding: Rounding) -> float:
        numbers, step = rounded_weight(weight, rounding.factors)
        made = F.linear(rounding.apply(x, 2), numbers.float() * step)
        return float((made - exact).square().sum() / exact.square().sum())

    assert best.error < error(plain) / 4
    assert error(best.rounding) == pytest.approx(best.error, rel=0.3)


def test_the_range_has_room_for_more_than_was_seen() -> None:
    x = random(2, 20, 4)
    (best,) = judged([seen_of(x, random(3, 4, seed=2))])
    scaled = x / best.rounding.factors
    assert best.rounding.low < 1.2 * float(scaled.min())
    assert best.rounding.high > 1.2 * float(scaled.max())


@pytest.mark.parametrize(("low", "high"), [(-0.2783, 5.1), (-4.1, 5.1), (0.0, 3.0), (-7.0, 1e-6)])
def test_zero_is_a_level(low: float, high: float) -> None:
    rounding = with_zero(torch.ones(3), low, high)
    assert bool((rounding.apply(torch.zeros(1, 3), 1).abs() < 1e-6 * (high - low)).all())
    assert rounding.high - rounding.low == pytest.approx(high - low)
    assert abs(rounding.low - low) <= 0.51 * (high - low) / 255


@needs_int8
@torch.no_grad()
def test_the_runtime_rounds_as_was_judged() -> None:
    conv = torch.nn.Conv2d(16, 24, 3, padding=1)
    network = torch.nn.Sequential(torch.nn.SiLU(), conv)
    randomised(network)
    rounding = with_zero(torch.linspace(0.5, 2.0, 16), -0.6, 4.9)
    x = random(2, 16, 8, 8)
    numbers, step = rounded_weight(conv.weight, rounding.factors)
    rounded = rounding.apply(F.silu(x), 1)
    wanted = F.conv2d(rounded, numbers.float() * step, conv.bias, padding=1)
    graph = graph_of(network, {"x": x}, EightBits(Scales({"1": rounding})))
    assert distance(runtime.compiled(graph, "f32")([x]), wanted) < 1e-4


def unet() -> UNet:
    made = UNet(SMALL)
    randomised(made)
    return made.requires_grad_(False)


def scales(network: UNet, *layers: str, reach: float = 8.0) -> Scales:
    """A range for these layers: of 8, any input of unit size fits in it."""
    ones = {name: torch.ones(_inputs(network, name)) for name in layers}
    return Scales({name: with_zero(factors, -reach, reach) for name, factors in ones.items()})


CONV = "down_blocks.0.resnets.0.conv2"
LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
GATED = "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
DOUBLING = "up_blocks.0.upsamplers.0.conv"


@needs_int8
@pytest.mark.parametrize(
    ("layer", "reach"),
    [(CONV, 8.0), (LINEAR, 8.0), (GATED, 8.0), (DOUBLING, 40.0)],  # what is doubled has no norm
)
@torch.no_grad()
def test_a_layer_in_eight_bits_changes_the_output_a_little(
    layer: str, reach: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "precision_of", lambda dtype: "f32")
    network = unet()
    call = (random(2, 4, 8, 8), torch.tensor([900.0, 20.0]), random(2, 7, 12, seed=2))
    exact = network(*call)
    by_reach = [scales(network, layer, reach=one) for one in (reach, 8 * reach)]
    fine, rough = ((UNetRunner(network, scales=one)(*call) - exact).std() for one in by_reach)
    assert 1e-4 < fine / exact.std() < 0.05
    # levels eight times as wide: it is the input of this layer that is rounded
    assert rough > 3 * fine


@needs_int8
@torch.no_grad()
def test_layers_in_eight_bits_are_computed_in_eight_bits() -> None:
    network = unet()
    call = (random(2, 4, 8, 8), torch.tensor([900.0, 20.0]), random(2, 7, 12, seed=2))
    runner = UNetRunner(network, scales=scales(network, CONV, LINEAR, GATED))
    runner(*call)
    (compiled,) = runner._shelf._ready.values()
    nodes = compiled.request.get_compiled_model().get_runtime_model().get_ops()
    facts = [node.get_rt_info() for node in nodes]
    found = {
        kind: [
            fact["runtimePrecision"].astype(str)
            for fact in facts
            if fact["layerType"].astype(str) == kind
        ]
        for kind in ("Convolution", "FullyConnected")
    }
    assert sum(precision in ("u8", "i8") for precision in found["Convolution"]) == 1
    assert sum(precision in ("u8", "i8") for precision in found["FullyConnected"]) == 3


@needs_int8
@torch.no_grad()
def test_a_doubling_is_four_convolutions_of_the_small_map() -> None:
    network = unet()
    call = (random(2, 4, 8, 8), torch.tensor([900.0, 20.0]), random(2, 7, 12, seed=2))
    runner = UNetRunner(network, scales=scales(network, DOUBLING))
    runner(*call)
    (compiled,) = runner._shelf._ready.values()
    facts = [
        node.get_rt_info()
        for node in compiled.request.get_compiled_model().get_runtime_model().get_ops()
    ]
    kinds = [fact["layerType"].astype(str) for fact in facts]
    precisions = [
        fact["runtimePrecision"].astype(str)
        for fact, kind in zip(facts, kinds, strict=True)
        if kind == "Convolution"
    ]
    assert sum(precision in ("u8", "i8") for precision in precisions) == 4
    assert "ConvolutionBackpropData" not in kinds


def _inputs(network: UNet, layer: str) -> int:
    weight = network.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight.shape[1]


def test_scales_are_remembered_as_they_were() -> None:
    network = unet()
    shared = Rounding(torch.rand(32, generator=torch.Generator().manual_seed(0)) + 0.5, -3.5, 4.25)
    given = Scales(
        {LINEAR: shared, LINEAR.replace("to_q", "to_k"): shared, **scales(network, CONV).layers}
    )
    kept(KEY, given)
    found = remembered(KEY, network)
    assert found is not None and found.layers.keys() == given.layers.keys()
    for name, one in found.layers.items():
        assert torch.equal(one.factors, given.layers[name].factors)
        assert (one.low, one.high) == (given.layers[name].low, given.layers[name].high)
    assert found.layers[LINEAR] is found.layers[LINEAR.replace("to_q", "to_k")]


def hashed(content: object) -> bytes:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return digest(data).encode() + b"\n" + data


NONE: dict[str, object] = {"layers": {}, "roundings": []}
ONE = {"low": -1.0, "high": 1.0, "factors": [1.0] * 16}
FORGED = {
    "empty": b"",
    "no hash": b"{}",
    "wrong hash": b"0" * 64 + b"\n{}",
    "no JSON": hashed(b"\xff{"),
    "deep": hashed(b"[" * 100_000),
    "a list": hashed([1]),
    "no layers": hashed({"roundings": []}),
    "an unknown layer": hashed({"layers": {"other": 0}, "roundings": [ONE]}),
    "no layer that multiplies": hashed({"layers": {"conv_norm_out": 0}, "roundings": [ONE]}),
    "a number beyond": hashed({"layers": {CONV: 7}, "roundings": [ONE]}),
    "a negative number": hashed({"layers": {CONV: -1}, "roundings": [ONE]}),
    "other channels": hashed({"layers": {CONV: 0}, "roundings": [ONE | {"factors": [1.0]}]}),
    "zero": hashed({"layers": {CONV: 0}, "roundings": [ONE | {"factors": [0.0] * 16}]}),
    "no number": hashed({"layers": {CONV: 0}, "roundings": [ONE | {"high": float("nan")}]}),
    "an empty range": hashed({"layers": {CONV: 0}, "roundings": [ONE | {"high": 0.0}]}),
    "text": hashed({"layers": {CONV: 0}, "roundings": [ONE | {"factors": ["a"] * 16}]}),
    "no attention": hashed({"layers": {}, "roundings": []}),
    "attention unknown": hashed({**NONE, "attention": {"other": [1.0] * 4}}),
    "attention without a range": hashed({**NONE, "attention": {ATTENTION: [1.0] * 3}}),
    "attention of no range": hashed({**NONE, "attention": {ATTENTION: [1.0, 1.0, 0.0, 1.0]}}),
    "attention of text": hashed({**NONE, "attention": {ATTENTION: ["a"] * 4}}),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_damaged_or_foreign_file_counts_as_none(kind: str, own_cache: Path) -> None:
    network = unet()
    kept(KEY, scales(network, CONV))
    path = own_cache / "openvino" / f"{KEY}.json"
    assert remembered(KEY, network) is not None
    path.write_bytes(FORGED[kind])
    assert remembered(KEY, network) is None


def test_a_file_that_others_may_write_or_that_is_too_large_counts_as_none(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = unet()
    kept(KEY, scales(network, CONV))
    path = own_cache / "openvino" / f"{KEY}.json"
    path.chmod(0o666)
    assert remembered(KEY, network) is None
    path.chmod(0o600)
    assert remembered(KEY, network) is not None
    monkeypatch.setattr(private_note, "LARGEST", 10)
    assert remembered(KEY, network) is None


def test_a_cache_that_cannot_be_written_is_no_error(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFELIGHT_CACHE", "/dev/null/none")
    network = unet()
    kept(KEY, scales(network, CONV))
    assert remembered(KEY, network) is None


def test_the_key_is_that_of_the_weights() -> None:
    one, same, other = tiny_model(), tiny_model(), tiny_model(seed=1)
    assert openvino_int8.key_of(one) == openvino_int8.key_of(same)
    assert openvino_int8.key_of(one) != openvino_int8.key_of(other)
    with torch.no_grad():
        next(same.network.unet.parameters()).view(-1)[-1].add_(1.0)
    assert openvino_int8.key_of(one) != openvino_int8.key_of(same)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_int8, "PROMPTS", openvino_int8.PROMPTS[:2])
    monkeypatch.setattr(openvino_int8, "STEPS", 3)
    monkeypatch.setattr(openvino_int8, "EVERY", 2)


@needs_int8
@pytest.mark.slow
@torch.no_grad()
def test_a_model_is_measured_once_and_drawn_with_then(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    by_engine = openvino_int8.applied(model)
    runner = by_engine.network.runner
    assert isinstance(runner, UNetRunner) and runner.scales is not None
    layers = runner.scales.layers
    assert len(layers) > 20
    assert not any(left in name for name in layers for left in openvino_int8.LEFT)
    condition = model.text(["a cat"])
    call = (random(1, 4, 8, 8), torch.tensor([400.0]), condition)
    exact, rounded = model.network(*call), by_engine.network(*call)
    assert 0 < float((rounded - exact).std()) < 0.2 * float(exact.std())

    def measured(model: Model) -> Scales:
        raise AssertionError("measured twice")

    monkeypatch.setattr(openvino_int8, "measured", measured)
    again = openvino_int8.applied(model).network.runner
    assert isinstance(again, UNetRunner) and again.scales is not None
    assert again.scales.layers.keys() == layers.keys()


def test_an_upscaler_is_refused_by_name() -> None:
    model = tiny_model()
    upscaler = replace(model, family=replace(model.family, task=X4_UPSCALER.task))
    with pytest.raises(RequestError, match="openvino-int8 cannot measure an upscaler"):
        openvino_int8.applied(upscaler)
