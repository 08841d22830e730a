"""Attention in blocks is attention, no less exact than PyTorch's, and steps aside where it must."""

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.models import cpu_attention
from safelight.models.attention import attend, split_heads
from safelight.models.cpu_attention import blocked, served
from safelight.models.cpu_product import READY

pytestmark = pytest.mark.skipif(not READY, reason="PyTorch without oneDNN for x86")

# (heads, N, M, d): odd numbers, one key, one block and a bit, cross-attention, one wide head
SHAPES = [
    (2, 300, 300, 40),
    (3, 129, 77, 16),
    (1, 70, 1, 8),
    (2, 257, 515, 5),
    (5, 64, 24, 32),
    (1, 200, 333, 96),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(heads: int, n: int, m: int, d: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    width = heads * d
    return (
        scale * normal(2, n, width, seed=1),
        scale * normal(2, m, width, seed=2),
        normal(2, m, width, seed=3),
    )


def exact(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    q, k, v = (split_heads(x.double(), heads) for x in (query, key, value))
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def pytorch(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    q, k, v = (split_heads(x, heads) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small shapes, too, are several blocks, the last of them shorter."""
    monkeypatch.setattr(cpu_attention, "SCORES", 2**10)
    monkeypatch.setattr(cpu_attention, "FEWEST_ROWS", 64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_in_float32_it_is_attention_to_rounding(
    shape: tuple[int, int, int, int], scale: float
) -> None:
    heads = shape[0]
    inputs = tokens(*shape, scale=scale)
    assert error(blocked(*inputs, heads), exact(*inputs, heads)) < 2e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_in_bfloat16_it_errs_no_more_than_pytorchs_kernel(
    shape: tuple[int, int, int, int], scale: float
) -> None:
    heads = shape[0]
    inputs = [x.bfloat16() for x in tokens(*shape, scale=scale)]
    wanted = exact(*inputs, heads)
    y = blocked(*inputs, heads)
    assert y.dtype == torch.bfloat16
    # Some shapes PyTorch computes in float32, too: then both only round the output.
    assert error(y, wanted) <= 1.01 * error(pytorch(*inputs, heads), wanted)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    query, key, value = tokens(2, 100, 90, 16, scale=60.0)
    y = blocked(query, key, value, 2)
    assert y.isfinite().all()
    assert error(y, exact(query, key, value, 2)) < 1e-4  # scores of thousands


def test_what_is_no_number_stays_visible_and_where_it_was() -> None:
    query, key, value = tokens(2, 100, 90, 16)
    query[0, 7, :16] = math.nan
    y = blocked(query, key, value, 2)
    assert y[0, 7, :16].isnan().all() and not y[0, 7, 16:].isnan().any()
    assert not y[0, 8:].isnan().any() and not y[1].isnan().any()


def test_a_picture_of_a_batch_is_the_picture_alone_to_the_bit() -> None:
    query, key, value = tokens(2, 300, 77, 40)
    both = blocked(query, key, value, 2)
    assert torch.equal(both[1:], blocked(query[1:], key[1:], value[1:], 2))


def test_the_inputs_stay_and_any_order_of_memory_serves() -> None:
    inputs = tokens(2, 300, 77, 40)
    before = [x.clone() for x in inputs]
    y = blocked(*inputs, 2)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    strided = [x.mT.contiguous().mT for x in inputs]
    assert torch.equal(blocked(*strided, 2), y)
    sliced = [torch.cat([x, x], -1)[..., : x.shape[-1]] for x in inputs]
    assert torch.equal(blocked(*sliced, 2), y)


def big() -> tuple[Tensor, Tensor, Tensor]:
    return tokens(1, 512, 512, 16)


@pytest.fixture
def enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "FEWEST_PRODUCTS", 512 * 512 * 16)


@pytest.mark.usefixtures("enough")
def test_it_serves_large_products_without_a_gradient_only() -> None:
    query, key, value = big()
    assert served(query, key, value, 1)
    assert not served(query[:, 1:], key, value, 1)
    assert not served(query.half(), key.half(), value.half(), 1)
    assert not served(query, key.bfloat16(), value, 1)
    assert not served(query.double(), key.double(), value.double(), 1)
    assert not served(query, key, value.clone().requires_grad_(), 1)
    with torch.no_grad():
        assert served(query, key, value.clone().requires_grad_(), 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not served(query, key, value, 1)
    assert not torch.func.vmap(lambda q: torch.tensor(served(q, key, value, 1)))(query[None]).any()


@pytest.mark.usefixtures("enough")
def test_attention_goes_this_way_only_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        calls.append(heads)
        return blocked(q, k, v, heads)

    monkeypatch.setattr(cpu_attention, "blocked", counted)
    inputs = big()
    plain = attend(*inputs, heads=1)
    assert calls == [1]
    masked = attend(*inputs, heads=1, mask=torch.ones(512, 512, dtype=torch.bool))
    assert calls == [1]
    assert error(plain, masked.double()) < 2e-6


@pytest.mark.usefixtures("enough")
def test_a_traced_network_holds_pytorchs_own_operator() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(lambda q, k, v: attend(q, k, v, 1), big(), check_trace=False)
    assert "scaled_dot_product_attention" in str(traced.graph)
    assert "mkldnn" not in str(traced.graph)
