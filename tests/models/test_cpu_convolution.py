"""Convolutions by another way are convolutions, and put the map in order once."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models.cpu_convolution import convolution, served
from safelight.models.cpu_product import READY
from safelight.models.layers import GroupNorm, ResBlock

pytestmark = pytest.mark.skipif(not READY, reason="PyTorch without oneDNN for x86")

LAST = torch.channels_last
# (B, C, h, w, n, (k, k'), stride, padding)
CASES = [
    (2, 8, 5, 7, 64, (3, 3), (1, 1), (1, 1)),
    (2, 8, 6, 5, 64, (3, 3), (2, 2), (1, 1)),
    (1, 7, 9, 8, 128, (3, 3), (2, 2), (0, 0)),
    (1, 8, 4, 4, 64, (2, 2), (1, 1), (1, 1)),
    (1, 3, 4, 6, 96, (1, 3), (1, 2), (0, 1)),
    (2, 8, 5, 7, 24, (1, 1), (1, 1), (0, 0)),
    (2, 8, 5, 7, 24, (1, 1), (2, 2), (0, 0)),
    (2, 8, 5, 7, 24, (1, 1), (1, 1), (1, 1)),
    (1, 8, 1, 1, 64, (3, 3), (1, 1), (1, 1)),
    (3, 4, 16, 16, 8, (3, 3), (1, 1), (1, 1)),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calls(function: object, *inputs: object) -> list[str]:
    """The names of the operators that a call runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        function(*inputs)  # type: ignore[operator]
    return [event.key for event in seen.key_averages()]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("map_last", [True, False])
@pytest.mark.parametrize("weight_last", [True, False])
def test_it_is_the_convolution_whatever_the_order_of_memory(
    case: tuple, biased: bool, map_last: bool, weight_last: bool
) -> None:
    batch, channels, high, wide, made, kernel, stride, padding = case
    x, weight = normal(batch, channels, high, wide), normal(made, channels, *kernel, seed=1)
    x = x.contiguous(memory_format=LAST) if map_last else x
    weight = weight.contiguous(memory_format=LAST) if weight_last else weight
    bias = normal(made, seed=2) if biased else None
    wanted = F.conv2d(
        x.double(), weight.double(), None if bias is None else bias.double(), stride, padding
    )
    y = convolution(x, weight, bias, stride, padding)
    torch.testing.assert_close(y, wanted.float(), rtol=1e-5, atol=1e-5 * float(wanted.std()) * 3)
    assert y.is_contiguous(memory_format=LAST)
    narrow = convolution(
        x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16(), stride, padding
    )
    assert narrow.dtype == torch.bfloat16
    assert float((narrow.double() - wanted).norm() / wanted.norm()) < 8e-3


def test_small_maps_of_many_channels_are_products_of_rows_and_large_ones_are_not() -> None:
    weight = normal(64, 16, 3, 3, seed=1)
    few, many = normal(2, 16, 4, 4), normal(2, 16, 16, 16)
    assert "mkldnn::_linear_pointwise" in calls(convolution, few, weight, None, (1, 1), (1, 1))
    assert "aten::mkldnn_convolution" in calls(convolution, many, weight, None, (1, 1), (1, 1))


def test_with_a_gradient_it_is_pytorchs_own() -> None:
    weight, x = normal(64, 16, 3, 3, seed=1).requires_grad_(), normal(2, 16, 4, 4)
    assert not served(weight, None, x)
    y = convolution(x, weight, None, (1, 1), (1, 1))
    assert torch.equal(y, F.conv2d(x, weight, None, (1, 1), (1, 1)))
    y.square().sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        assert served(weight, None, x)
    assert not served(weight.detach(), None, x.clone().requires_grad_())
    assert not served(weight.detach().half(), None, x.half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not served(weight.detach(), None, x)


def test_an_empty_batch_stays_empty() -> None:
    y = convolution(normal(0, 8, 4, 4), normal(64, 8, 3, 3), None, (1, 1), (1, 1))
    assert y.shape == (0, 64, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_without_a_gradient_say_what_they_say_with_one_and_leave_their_input(
    dtype: torch.dtype,
) -> None:
    block = ResBlock(32, 64, time_width=16).to(dtype)
    x, embedding = normal(2, 32, 6, 6).to(dtype), normal(2, 16, seed=1).to(dtype)
    kept = x.clone()
    recorded = block(x, embedding)
    assert recorded.requires_grad
    recorded = recorded.detach()
    with torch.no_grad():
        free = block(x, embedding)
        again = block(x, embedding)
    assert torch.equal(x, kept) and torch.equal(free, again)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert float((free.float() - recorded.float()).norm() / recorded.float().norm()) < tolerance


def test_a_block_without_a_shortcut_does_not_write_into_its_input() -> None:
    block = ResBlock(32, 32).requires_grad_(False)
    x = normal(2, 32, 6, 6)
    kept = x.clone()
    block(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("size", [(5, 6), (32, 32), (1, 1)])
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("changed", [False, True])
def test_norms_in_bfloat16_only_round_in_any_order_of_memory(
    size: tuple[int, int], order: torch.memory_format, changed: bool
) -> None:
    norm = GroupNorm(4, 32, 1e-5).bfloat16().requires_grad_(False)
    norm.weight.copy_(normal(32, seed=1))
    norm.bias.copy_(normal(32, seed=2))
    weight = 2.0 * norm.weight if changed else norm.weight
    if changed:
        norm.changes["twice"] = Twice()
    x = (normal(2, 32, *size) + 3.0).bfloat16().contiguous(memory_format=order)
    wanted = F.group_norm(x.double(), 4, weight.double(), norm.bias.double(), 1e-5)
    y = norm(x)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=order)
    assert float((y.double() - wanted).norm() / wanted.norm()) < 2.5e-3


class Twice(nn.Module):
    """Doubles the weight of a layer."""

    def forward(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return 2.0 * weight, bias
