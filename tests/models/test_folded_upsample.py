"""Doubling folded into its convolution is doubling and convolution, with weights never stale."""

import copy
import gc
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.models import folded_upsample
from safelight.models.autoencoder import AutoencoderConfig
from safelight.models.cpu_product import READY
from safelight.models.deltas import LowRank
from safelight.models.folded_upsample import doubled, folded, forget, kernels_of
from safelight.models.layers import Upsample, wrapped
from safelight.models.tiling import Bands, by_bands

needs_onednn = pytest.mark.skipif(not READY, reason="PyTorch without oneDNN for x86")

# (B, C, n, h, w): odd ones, a single place, a single row, deep (by rows) and shallow (by kernels)
SHAPES = [
    (2, 8, 8, 4, 4),
    (1, 3, 5, 7, 3),
    (1, 8, 64, 1, 1),
    (2, 6, 64, 1, 5),
    (1, 16, 128, 5, 6),
    (1, 4, 4, 16, 9),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unfolded(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    large = F.interpolate(x.double(), scale_factor=2.0, mode="nearest")
    return F.conv2d(large, weight.double(), None if bias is None else bias.double(), padding=1)


def worst(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, in deviations of the output."""
    return float((found.double() - wanted).abs().max() / wanted.std())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_it_is_the_convolution_of_the_doubled_map(
    shape: tuple[int, ...], biased: bool, last: bool
) -> None:
    batch, channels, made, high, wide = shape
    x, weight = normal(batch, channels, high, wide), normal(made, channels, 3, 3, seed=1)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    bias = normal(made, seed=2) if biased else None
    wanted = unfolded(x, weight, bias)
    y = doubled(x, folded(weight), bias)
    assert y.shape == wanted.shape
    assert worst(y, wanted) < 1e-5
    narrow = doubled(
        x.bfloat16(), folded(weight.bfloat16()), None if bias is None else bias.bfloat16()
    )
    assert float((narrow.double() - wanted).norm() / wanted.norm()) < 1e-2


def test_in_float64_it_is_exact_at_every_border() -> None:
    x, weight = normal(2, 3, 5, 4).double(), normal(4, 3, 3, 3, seed=1)
    y = doubled(x, folded(weight).double(), None)
    torch.testing.assert_close(y, unfolded(x, weight, None), rtol=1e-6, atol=1e-6)


def test_kernels_are_summed_before_they_are_rounded() -> None:
    weight = normal(4, 3, 3, 3).bfloat16()
    assert torch.equal(folded(weight), folded(weight.float()).bfloat16())


def layer(channels: int = 16) -> Upsample:
    torch.manual_seed(0)
    return Upsample(channels).requires_grad_(False).eval()


def folds(up: Upsample, x: Tensor, **size: tuple[int, int]) -> bool:
    """Whether the layer asked for folded kernels."""
    forget(up)
    up(x, **size)
    return up.conv in folded_upsample._KEPT


@needs_onednn
def test_a_layer_folds_where_nothing_else_acts_on_it() -> None:
    up, x = layer(), normal(1, 16, 4, 4)
    assert folds(up, x) and folds(up, x, size=(8, 8))
    assert not folds(up, x, size=(7, 8)) and not folds(up, x, size=(9, 8))
    assert not folds(up, x.clone().requires_grad_())
    with wrapped(up, x=True):
        assert not folds(up, x)
    up.conv.deltas["one"] = LowRank(normal(16, 2), normal(2, 16 * 9).view(2, 16, 3, 3))
    assert not folds(up, x)
    del up.conv.deltas["one"]
    assert folds(up, x)
    assert not folds(up.train(), x)
    up.eval().requires_grad_(True)
    with torch.no_grad():
        assert not folds(up, x)  # it learns: its weights change at every step


@needs_onednn
def test_a_layer_says_the_same_folded_and_unfolded() -> None:
    up, x = layer(), normal(2, 16, 5, 3)
    wanted = unfolded(x, up.conv.weight, up.conv.bias)
    assert worst(up(x), wanted) < 1e-5
    assert up(x, size=(9, 6)).shape == (2, 16, 9, 6)


@needs_onednn
@torch.no_grad()
def test_kernels_follow_the_weight() -> None:
    up, x = layer(), normal(1, 16, 4, 4)
    assert kernels_of(up.conv) is kernels_of(up.conv)
    own = up.conv.weight
    first = up(x)
    # an adapter puts another tensor there, and the own one back
    up.conv.weight = torch.nn.Parameter(2.0 * own, requires_grad=False)
    assert worst(up(x), unfolded(x, up.conv.weight, up.conv.bias)) < 1e-5
    up.conv.weight = own
    assert torch.equal(up(x), first)
    # written to in its place
    own.mul_(3.0)
    assert worst(up(x), unfolded(x, own, up.conv.bias)) < 1e-5
    # its data replaced
    own.data = own.data * 0.5
    assert worst(up(x), unfolded(x, own, up.conv.bias)) < 1e-5
    # another type
    assert up.bfloat16()(x).dtype == torch.bfloat16
    # other numbers loaded
    up.float().load_state_dict(Upsample(16).state_dict())
    assert worst(up(x), unfolded(x, up.conv.weight, up.conv.bias)) < 1e-5


@needs_onednn
def test_kernels_are_in_no_state_dict_copy_or_file_and_die_with_the_layer() -> None:
    up, x = layer(), normal(1, 16, 4, 4)
    keys = set(up.state_dict())
    size = len(pickle.dumps(up))
    up(x)
    assert set(up.state_dict()) == keys and len(pickle.dumps(up)) == size
    twin = copy.deepcopy(up)
    assert twin.conv not in folded_upsample._KEPT and up.conv in folded_upsample._KEPT
    held = len(folded_upsample._KEPT)
    del up
    gc.collect()
    assert len(folded_upsample._KEPT) == held - 1


@needs_onednn
@pytest.mark.parametrize("pixels", [1, 24, 50, 10**6])
def test_bands_of_a_doubled_map_are_the_doubled_map(pixels: int) -> None:
    up, x = layer(), normal(2, 16, 5, 4)
    whole = up(x)
    banded = by_bands(lambda y: up(up(y)), x, Bands(pixels))
    torch.testing.assert_close(by_bands(up, x, Bands(pixels)), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(banded, up(whole), rtol=1e-5, atol=1e-5)


@needs_onednn
def test_a_decoder_says_the_same_with_and_without_a_gradient() -> None:
    torch.manual_seed(0)
    coder = AutoencoderConfig(widths=(8, 16, 16), groups=4).build()
    z = normal(1, 4, 4, 5)
    recorded = coder.decode(z).detach()
    coder.requires_grad_(False)
    assert worst(coder.decode(z), recorded.double()) < 1e-4
