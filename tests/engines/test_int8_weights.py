"""A weight kept as bytes is off by half a step at most, and everything works on it as ever."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cli_tiny import tiny_model
from models_tiny import distance, random
from safelight.adapters.adapter import Adapter
from safelight.adapters.attach import attached
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.load import load
from safelight.checkpoints.regular_file import RegularFile
from safelight.checkpoints.resting import load_resting
from safelight.checkpoints.save import save
from safelight.engines.int8_tensor import Int8Weight, as_bytes, as_int8
from safelight.engines.int8_weights import Int8Sink, int8_weights, missing_dynamic, to_int8
from safelight.engines.narrow_layers import LEFT, nbytes
from safelight.model import Model
from safelight.models.deltas import LowRank
from safelight.models.layers import Conv2d, Linear
from safelight.models.unet import UNet
from safelight.tasks.generate import generate
from safelight.tasks.request import Request

SHAPES = [(64, 96), (32, 64, 3, 3), (128, 64, 1, 1)]


def mixed(shape: tuple[int, ...]) -> Tensor:
    """A weight whose channels differ in size by a factor of a million, and one is zero."""
    weight = random(*shape, seed=3) * torch.logspace(-4, 2, shape[0]).view(
        -1, *[1] * (len(shape) - 1)
    )
    weight[5] = 0
    return weight


def answer(unet: UNet) -> Tensor:
    x, context = random(2, 4, 8, 8).to(unet.dtype), random(2, 7, 64, seed=2).to(unet.dtype)
    with torch.no_grad():
        return unet(x, torch.tensor([10.0, 900.0]), context)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_number_is_off_by_more_than_half_a_step_of_its_channel(shape: tuple[int, ...]) -> None:
    weight = mixed(shape)
    kept = as_int8(weight, torch.float32)
    step = weight.flatten(1).abs().amax(1) / 127
    off = (kept.in_full() - weight).flatten(1).abs().amax(1)
    assert (off <= 0.5001 * step).all() and off[5] == 0
    assert kept.numbers.dtype == torch.int8 and int(kept.numbers.abs().max()) == 127


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_layer_computes_with_the_very_bytes(dtype: torch.dtype) -> None:
    layers = [
        (Linear(96, 64), random(40, 96)),
        (Linear(96, 64, bias=False), random(2, 20, 96)),
        (Conv2d(8, 64, 3, padding=1, stride=2), random(2, 8, 9, 9)),
    ]
    close = 1e-5 if dtype == torch.float32 else 2e-2
    for layer, x in layers:
        kept = as_int8(mixed(tuple(layer.weight.shape)), dtype)
        scale = kept.scale.view(-1, *[1] * (kept.dim() - 1))
        layer, x = layer.to(dtype), x.to(dtype)
        bias = None if layer.bias is None else layer.bias.float()
        exact = layer.applied(x.float(), kept.numbers.float() * scale, bias)
        layer.weight = nn.Parameter(kept, requires_grad=False)
        y = layer(x)
        assert y.dtype == dtype and type(y) is Tensor
        channels = 1 if y.dim() == 4 else y.dim() - 1
        size = exact.transpose(0, channels).flatten(1).abs().amax(1)
        off = (y.float() - exact).transpose(0, channels).flatten(1).abs().amax(1)
        assert (off <= close * size + 1e-6).all()  # small channels are as exact as large ones


@pytest.mark.skipif(missing_dynamic() is not None, reason="needs VNNI")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_dynamic_layer_rounds_its_input_to_half_a_step_and_no_more(dtype: torch.dtype) -> None:
    layers = [
        (Linear(96, 64), random(2, 20, 96)),
        (Linear(96, 64, bias=False), random(40, 96) + 3),
        (Conv2d(8, 64, 3, padding=1, stride=2), random(2, 8, 9, 9)),
        (Conv2d(8, 64, 1), random(2, 8, 9, 9)),
    ]
    for layer, x in layers:
        kept = as_int8(mixed(tuple(layer.weight.shape)), dtype, dynamic=True)
        numbers, scale = kept.numbers.clone(), kept.scale.view(-1, *[1] * (kept.dim() - 1))
        layer, x = layer.to(dtype), x.to(dtype)
        layer.weight = nn.Parameter(kept, requires_grad=False)
        y = layer(x)
        assert y.dtype == dtype and type(y) is Tensor
        taken, step, zero = as_bytes(x)
        back = (taken.float() - zero) * step
        assert float((back - x.float()).abs().max()) <= step * (0.51 if dtype.itemsize == 4 else 1)
        bias = None if layer.bias is None else layer.bias.float()
        exact = layer.applied(back, numbers.float() * scale, bias)
        off = (y.float() - exact).abs().max() / exact.abs().max()
        assert float(off) < (1e-5 if dtype.itemsize == 4 else 1e-2)
        # what oneDNN made of the bytes can be brought back, and another size can be asked
        assert layer.weight._stored.is_mkldnn and torch.equal(layer.weight.numbers, numbers)
        assert layer(x[:1]).shape[0] == 1


def test_bytes_of_nothing_and_of_what_is_not_finite() -> None:
    zero = as_bytes(torch.zeros(4))
    assert (zero.numbers == zero.zero).all()
    for bad in (float("nan"), float("inf"), float("-inf")):
        assert math.isnan(as_bytes(torch.tensor([1.0, bad])).step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "ends",
    [
        (-3.0, 5.0),
        (0.0, 1.0),
        (2.0, 7.0),
        (-9.0, -1.0),
        (-1e-3, 1e3),
        (-1e3, 1e-3),
        (-1e-30, 2e-30),
    ],
)
def test_bytes_span_the_range_and_meet_zero(dtype: torch.dtype, ends: tuple[float, float]) -> None:
    x = torch.linspace(*ends, 4001).to(dtype)
    numbers, step, zero = as_bytes(torch.cat([x, torch.zeros(1, dtype=dtype)]))
    assert int(numbers[-1]) == zero and 1 <= zero <= 254
    assert (numbers[:-1].int().diff() >= 0).all()  # nothing went round the end of a byte
    off = (numbers[:-1].float() - zero) * step - x.float()
    assert float(off.abs().max()) <= step * (0.51 if dtype.itemsize == 4 else 1)


@pytest.mark.skipif(missing_dynamic() is not None, reason="needs VNNI")
def test_a_dynamic_network_is_near_and_lets_gradients_through() -> None:
    unet = tiny_model().network.unet
    told = answer(unet)
    to_int8(unet, dynamic=True)
    near = answer(unet)
    assert 0 < distance(near, told) < 0.3 and torch.equal(answer(unet), near)
    by_bytes = {n for n, p in unet.named_parameters() if isinstance(p, Int8Weight) and p.dynamic}
    assert by_bytes and not any("time_emb" in name for name in by_bytes)
    x = random(2, 4, 8, 8).requires_grad_()
    unet(x, torch.tensor([10.0, 900.0]), random(2, 7, 64, seed=2)).square().sum().backward()
    assert x.grad is not None and float(x.grad.abs().max()) > 0


def test_the_same_weights_give_the_same_bytes_and_the_same_answer() -> None:
    first, second = (tiny_model().network.unet for _ in range(2))
    to_int8(first), to_int8(second)
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        if isinstance(a, Int8Weight):
            assert isinstance(b, Int8Weight), name
            assert torch.equal(a.numbers, b.numbers) and torch.equal(a.scale, b.scale), name
    assert torch.equal(answer(first), answer(second))


def test_a_network_is_a_quarter_and_its_answer_near() -> None:
    unet = tiny_model().network.unet
    before, told = nbytes(unet), answer(unet)
    to_int8(unet)
    large = sum(isinstance(p, Int8Weight) for p in unet.parameters())
    assert large > 10 and nbytes(unet) < 0.55 * before  # much of a tiny network is small
    assert distance(answer(unet), told) < 0.1
    assert unet.dtype == torch.float32
    assert not any(isinstance(p, Int8Weight) for n in LEFT for p in getattr(unet, n).parameters())


def test_what_a_sink_takes_is_what_is_made_of_a_loaded_model() -> None:
    loaded, unet = tiny_model().network.unet, tiny_model().network.unet
    sink = Int8Sink()
    taken = 0
    for name, weight in list(unet.named_parameters()):
        if sink.wants("unet", unet, name):
            sink.take(unet, name, weight.detach())
            path, _, leaf = name.rpartition(".")
            bodiless = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
            setattr(unet.get_submodule(path), leaf, nn.Parameter(bodiless, requires_grad=False))
            taken += 1
    assert taken > 10 and any(p.is_meta for p in unet.parameters())
    to_int8(unet), to_int8(loaded)
    assert not any(p.is_meta for p in unet.parameters())
    assert torch.equal(answer(unet), answer(loaded))


@pytest.mark.parametrize("resting", [False, True])
def test_what_a_sink_takes_leaves_no_page_of_the_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resting: bool
) -> None:
    """A map keeps all pages that were looked at for as long as any tensor of it lives."""
    path = tmp_path / "model.safetensors"
    save(tiny_model(), path, "ldm", dtype=torch.float32)
    mapped = 0

    def counted(file: RegularFile, offset: int, count: int, dtype: torch.dtype) -> Tensor:
        nonlocal mapped
        mapped += count
        return whole(file, offset, count, dtype)

    whole = RegularFile.mapped
    monkeypatch.setattr(RegularFile, "mapped", counted)
    if resting:
        model, rests = load_resting(path, dtype=torch.float32, sink=Int8Sink(), settle=to_int8)
        for rest in rests:
            rest.bring()
    else:
        model = int8_weights(load(path, sink=Int8Sink()))
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    parts = (model.network.unet, coder, *model.text.encoders)
    weights = [weight for part in parts for weight in part.parameters()]
    left = sum(weight.numel() for weight in weights if not isinstance(weight, Int8Weight))
    assert mapped == left < sum(weight.numel() for weight in weights)


@pytest.mark.parametrize(
    ("role", "wanted"), [("unet", True), ("text_encoder_2", True), ("vae", False)]
)
def test_a_sink_takes_of_unet_and_text_only(role: str, wanted: bool) -> None:
    unet = tiny_model().network.unet
    name = next(n for n, p in unet.named_parameters() if n.endswith("ff.net.0.proj.weight"))
    assert Int8Sink().wants(role, unet, name) is wanted
    assert not Int8Sink().wants(role, unet, "conv_in.weight")
    assert not Int8Sink().wants(role, unet, name.replace("weight", "bias"))


def networks(model: Model) -> list[nn.Module]:
    (tower,) = model.text.encoders
    assert isinstance(tower, nn.Module)
    return [model.network.unet, tower]


def test_a_file_is_read_into_bytes(tmp_path: Path) -> None:
    save(tiny_model(), tmp_path / "model")
    plain = int8_weights(load(tmp_path / "model"))
    taken = int8_weights(load(tmp_path / "model", sink=Int8Sink()))
    for ours, theirs in zip(networks(taken), networks(plain), strict=True):
        state, wanted = (dict(network.named_parameters()) for network in (ours, theirs))
        assert state.keys() == wanted.keys()
        for name, weight in state.items():
            assert type(weight) is type(wanted[name]) and not weight.is_meta, name
            assert torch.equal(weight + 0, wanted[name] + 0), name
    for network in networks(taken):
        assert any(isinstance(p, Int8Weight) for p in network.parameters())


def lora(unet: UNet) -> tuple[Adapter, str]:
    path = next(n for n, m in unet.named_modules() if n.endswith("ff.net.0.proj"))
    out, inner = unet.get_submodule(path).weight.shape
    delta = LowRank(random(out, 4, seed=5), random(4, inner, seed=6) * 0.2)
    return Adapter("one", {"unet": {path: delta}}), path


@pytest.mark.parametrize("mode", ["fold", "slot"])
def test_a_lora_acts_on_the_bytes_and_goes_without_a_trace(mode: str) -> None:
    unet = tiny_model().network.unet
    adapter, path = lora(unet)
    to_int8(unet)
    before = answer(unet)
    layer = unet.get_submodule(path)
    full = layer.weight.in_full()
    (delta,) = adapter.deltas["unet"].values()
    assert isinstance(delta, LowRank)
    with attached({"unet": unet}, [(adapter, Strengths(0.7))], mode=mode):
        x = random(2, 64, layer.weight.shape[1], seed=8)
        with torch.no_grad():
            wanted = F.linear(x, full + 0.7 * delta.up @ delta.down, layer.bias)
            torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)
        assert distance(answer(unet), before) > 0.01
    assert torch.equal(answer(unet), before) and isinstance(layer.weight, Int8Weight)


def test_a_network_raised_to_float32_keeps_its_bytes_and_comes_back() -> None:
    unet = tiny_model().network.unet.to(torch.bfloat16)
    to_int8(unet)
    size, told = nbytes(unet), answer(unet)
    unet.float()
    assert unet.dtype == torch.float32 and nbytes(unet) < 1.5 * size
    assert distance(answer(unet), told.float()) < 0.1
    unet.to(torch.bfloat16)
    assert nbytes(unet) == size and torch.equal(answer(unet), told)


def test_a_network_is_saved_in_full() -> None:
    unet = tiny_model().network.unet
    to_int8(unet)
    for name, weight in unet.state_dict().items():
        plain = weight + 0
        assert type(plain) is Tensor and torch.isfinite(plain).all(), name


def test_a_model_with_bytes_draws_nearly_the_same_picture() -> None:
    request = Request(prompt="a red apple", width=64, height=64, steps=4, seed=1)
    model = tiny_model()
    (exact,) = generate(model, request)
    other: Model = int8_weights(tiny_model())
    assert other.engine == "int8-weights"
    (near,) = generate(replace(other, engine="eager"), request)
    off = (torch.tensor(exact.pixels).float() - torch.tensor(near.pixels).float()).abs()
    assert 0 < float(off.mean()) < 8
