"""Weights in e4m3: rounded as the format says, multiplied as PyTorch's operator does, on all sides
of what layers are used for. The operator is there for CPUs, too, so no GPU is needed to show it."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cli_tiny import tiny_model
from models_tiny import distance, random
from safelight.engines import fp8 as engine
from safelight.engines.fp8 import Fp8Sink, Fp8Weight, as_fp8, narrowed, to_fp8
from safelight.engines.narrow_layers import nbytes
from safelight.engines.table import engined
from safelight.errors import RequestError
from safelight.models.layers import Conv2d, Linear
from safelight.models.unet import UNet
from safelight.tasks.generate import generate
from safelight.tasks.request import Request

HALF_STEP = 2.0**-4  # of numbers with 3 bits of mantissa, relative
LEAST = 2.0**-10  # half of the least number below the normal ones


def answer(unet: UNet) -> Tensor:
    x, context = random(2, 4, 8, 8).to(unet.dtype), random(2, 7, 64, seed=2).to(unet.dtype)
    with torch.no_grad():
        return unet(x, torch.tensor([10.0, 900.0]), context)


@pytest.mark.parametrize("shape", [(64, 96), (32, 64, 3, 3)])
def test_no_number_is_off_by_more_than_half_a_step_of_the_format(shape: tuple[int, ...]) -> None:
    weight = random(*shape, seed=3) * torch.logspace(-4, 2, shape[0]).view(
        -1, *[1] * (len(shape) - 1)
    )
    weight[5] = 0
    kept = narrowed(weight)
    assert kept.numbers.dtype == torch.float8_e4m3fn and kept.shape == weight.shape
    scale = kept.scale.view(-1, *[1] * (weight.dim() - 1))
    off = (kept.in_full() - weight).abs()
    assert (off <= torch.maximum(weight.abs() * HALF_STEP, LEAST * scale) * 1.001).all()
    largest = kept.numbers.float().flatten(1).abs().amax(1)
    assert largest[5] == 0 and (largest[torch.arange(len(largest)) != 5] == 448).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_product_is_that_of_the_rounded_rows_and_weights(dtype: torch.dtype) -> None:
    for layer, x in (
        (Linear(96, 64), random(2, 20, 96)),
        (Linear(32, 16, bias=False), random(3, 32)),
    ):
        layer, x = layer.to(dtype), x.to(dtype)
        kept = narrowed(layer.weight)
        numbers, scale = as_fp8(x.reshape(-1, x.shape[-1]))
        exact = (numbers.double() * scale[:, None]) @ (
            kept.numbers.double() * kept.scale[:, None]
        ).t()
        exact = exact.view(*x.shape[:-1], -1) + (0.0 if layer.bias is None else layer.bias.double())
        plain = layer(x)
        layer.weight = nn.Parameter(kept, requires_grad=False)
        y = layer(x)
        assert y.dtype == dtype and type(y) is Tensor
        assert distance(y.double(), exact) < 0.03  # bfloat16 of the result
        assert 0.02 < distance(y.float(), plain.float()) < 0.2


@torch.no_grad()
def test_what_does_not_fit_the_units_is_done_in_full() -> None:
    odd = Linear(96, 20)
    conv = Conv2d(16, 32, 3, padding=1, stride=2)
    for layer, x in ((odd, random(5, 96)), (conv, random(2, 16, 9, 9))):
        kept = narrowed(layer.weight)
        exact = layer.applied(x, kept.in_full(), layer.bias)
        layer.weight = nn.Parameter(kept, requires_grad=False)
        assert torch.equal(layer(x), exact)
    assert odd(random(0, 96)).shape == (0, 20)


def test_a_gradient_passes_through_the_weight_in_full() -> None:
    layer = Linear(96, 64)
    layer.weight = nn.Parameter(narrowed(layer.weight), requires_grad=False)
    assert isinstance(layer.weight, Fp8Weight)
    x = random(4, 96).requires_grad_(True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], layer.weight.in_full().sum(0))


def test_a_row_that_is_not_finite_spoils_itself_alone() -> None:
    layer = Linear(32, 16, bias=False)
    layer.weight = nn.Parameter(narrowed(layer.weight), requires_grad=False)
    x = random(4, 32)
    x[1, 3], x[2, 0] = math.nan, math.inf
    y = layer(x)
    assert y[1].isnan().all() and y[2].isnan().all()
    assert y[0].isfinite().all() and y[3].isfinite().all()


def test_a_unet_takes_half_the_memory_and_draws_nearly_the_same_picture() -> None:
    model = tiny_model()
    unet = model.network.unet.to(torch.bfloat16)
    size = nbytes(unet)
    to_fp8(unet)
    assert nbytes(unet) < 0.62 * size
    request = Request(prompt="a red apple", width=64, height=64, steps=4, seed=1)
    (exact,) = generate(tiny_model(), request)
    narrow = tiny_model()
    to_fp8(narrow.network.unet)
    (near,) = generate(narrow, request)
    off = (torch.tensor(exact.pixels).float() - torch.tensor(near.pixels).float()).abs()
    assert 0 < float(off.mean()) < 12


def test_what_a_sink_takes_is_what_is_made_of_a_loaded_model() -> None:
    whole, taken = tiny_model().network.unet, tiny_model().network.unet
    sink = Fp8Sink()
    for name, weight in list(taken.named_parameters()):
        if sink.wants("unet", taken, name):
            sink.take(taken, name, weight)
            owner, _, leaf = name.rpartition(".")
            body = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
            setattr(taken.get_submodule(owner), leaf, body)
    to_fp8(whole)
    to_fp8(taken)
    assert torch.equal(answer(whole), answer(taken))
    assert not sink.wants("text_encoder", taken, "mid.layer.weight")


def test_an_adapter_folds_into_the_weight_in_full() -> None:
    kept = narrowed(random(64, 96))
    folded = kept + 0.01 * random(64, 96, seed=4)
    assert type(folded) is Tensor
    assert torch.equal(F.linear(random(2, 96), folded), random(2, 96) @ folded.t())


def test_without_a_gpu_that_can_the_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RequestError, match=r"fp8 cannot run here: there is no CUDA device"):
        engined(tiny_model(), "fp8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "RTX 3090")
    with pytest.raises(RequestError, match="RTX 3090 has no eight-bit floating point"):
        engined(tiny_model(), "fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert engine.missing() is None
    assert engined(tiny_model(), "fp8").engine == "fp8"
