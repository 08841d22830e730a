"""Products through oneDNN are those of PyTorch, and so are their gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from safelight.models import cpu_product
from safelight.models.attention import FEW_KEYS, attend
from safelight.models.cpu_product import linear
from safelight.models.layers import Linear
from safelight.training.flops import PRODUCTS

needs_onednn = pytest.mark.skipif(not cpu_product.READY, reason="PyTorch without oneDNN for x86")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learning(*tensors: Tensor) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]


def calls(function: object, *inputs: Tensor) -> list[str]:
    """The names of the operators that a call runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        function(*inputs)  # type: ignore[operator]
    return [event.key for event in seen.key_averages()]


SHAPES = [(40, 48, 64), (2, 24, 96, 33), (3, 5, 7, 32, 40)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_products_and_gradients_are_those_of_pytorch(shape: tuple[int, ...], biased: bool) -> None:
    *rows, inside, outside = shape
    tensors = [normal(*rows, inside), normal(outside, inside, seed=1)]
    tensors += [normal(outside, seed=2)] if biased else []
    weights = normal(*rows, outside, seed=3)
    mine, theirs = learning(*tensors), learning(*tensors)
    y, expected = linear(*mine), F.linear(*theirs)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4)
    found = torch.autograd.grad(y, mine, weights)
    for a, b in zip(found, torch.autograd.grad(expected, theirs, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-3)


def test_rows_in_any_order_of_memory_give_the_same() -> None:
    x, weight = normal(48, 64), normal(40, 48, seed=1)
    torch.testing.assert_close(linear(x.t(), weight), F.linear(x.t(), weight), rtol=1e-5, atol=1e-4)


def test_gradients_of_gradients_are_right() -> None:
    x, weight = learning(normal(64, 48), normal(40, 48, seed=1))
    seconds = []
    for function in (linear, F.linear):
        y = function(x, weight).square().sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), weight)[0])
    assert float((seconds[0] - seconds[1]).norm() / seconds[1].norm()) < 1e-5


@needs_onednn
def test_a_layer_in_float32_goes_to_onednn_and_others_do_not() -> None:
    layer, x = Linear(64, 64), normal(40, 64)
    assert any("mkldnn" in name for name in calls(layer, x))
    narrow = Linear(64, 64).bfloat16()
    assert not any("_linear_pointwise" in name for name in calls(narrow, x))
    assert not any("_linear_pointwise" in name for name in calls(layer, x[:1]))


@needs_onednn
def test_frozen_weights_get_no_gradient_and_cost_none() -> None:
    layer = Linear(64, 64).requires_grad_(False)
    (x,) = learning(normal(40, 64))
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is None


def test_flops_of_a_layer_are_counted_whichever_way_it_goes() -> None:
    counts = []
    for layer in (Linear(64, 96), nn.Linear(64, 96)):
        with FlopCounterMode(display=False, custom_mapping=PRODUCTS) as counter:
            layer(normal(40, 64).requires_grad_()).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 3 * 2 * 40 * 64 * 96


@pytest.mark.parametrize("keys", [24, FEW_KEYS, FEW_KEYS + 1])
def test_attention_in_bfloat16_learns_the_gradients_of_exact_attention(keys: int) -> None:
    query, key, value = normal(2, 32, 64), normal(2, keys, 64, seed=1), normal(2, keys, 64, seed=2)
    narrow = [x.bfloat16() for x in (query, key, value)]
    mine, exact = learning(*narrow), learning(*(x.double() for x in narrow))
    weights = normal(2, 32, 64, seed=3).bfloat16()
    y = attend(*mine, heads=4)
    assert y.dtype == torch.bfloat16
    found = torch.autograd.grad(y, mine, weights)
    wanted = torch.autograd.grad(attend(*exact, heads=4), exact, weights.double())
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.bfloat16
        assert float((a.double() - b).norm() / b.norm()) < 6e-3
