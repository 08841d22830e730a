"""PSNR, SSIM and MS-SSIM against slow independent versions, and the pyramid against its laws."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.measures.pictures import (
    SCALE_WEIGHTS,
    collapsed,
    fitting_scales,
    laplacian_pyramid,
    ms_ssim,
    psnr,
    ssim,
)


def picture(*shape: int, seed: int = 0) -> Tensor:
    """Smooth structure and some noise, in [-1, 1]."""
    rng = torch.Generator().manual_seed(seed)
    batch, channels, height, width = shape
    coarse = torch.rand(batch, channels, max(2, height // 8), max(2, width // 8), generator=rng)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
    return (smooth * 2 - 1 + 0.1 * torch.randn(shape, generator=rng)).clamp(-1, 1)


def slow_parts(a: np.ndarray, b: np.ndarray, window: int) -> tuple[float, float]:
    """SSIM and its contrast term of one channel in float64, filtered in two dimensions by scipy.

    As it is defined: for values in [0, 255].
    """
    a, b = (a + 1) * 127.5, (b + 1) * 127.5
    at = np.arange(window) - window // 2
    sigma = 1.5 * window / 11
    kernel = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    edge = window // 2

    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.correlate(x, kernel, mode="constant")[edge:-edge, edge:-edge]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((luminance * contrast).mean()), float(contrast.mean())


def halved(x: np.ndarray) -> np.ndarray:
    rows, columns = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return x[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3))


def slow_ms_ssim(a: np.ndarray, b: np.ndarray, window: int, scales: int) -> float:
    weights = np.array(SCALE_WEIGHTS[:scales]) / sum(SCALE_WEIGHTS[:scales])
    result = 1.0
    for scale in range(scales):
        whole, contrast = slow_parts(a, b, window)
        result *= (whole if scale == scales - 1 else contrast) ** weights[scale]
        a, b = halved(a), halved(b)
    return float(result)


def test_psnr_is_its_formula_and_infinite_for_equal_pictures():
    a, b = picture(3, 3, 20, 24), picture(3, 3, 20, 24, seed=1)
    x, y = a.double().numpy(), b.double().numpy()
    expected = [10 * math.log10(4 / ((x[i] - y[i]) ** 2).mean()) for i in range(3)]
    assert psnr(a, b).tolist() == pytest.approx(expected, rel=1e-5)
    assert psnr((a + 1) / 2, (b + 1) / 2, black=0.0).tolist() == pytest.approx(expected, rel=1e-5)
    assert psnr(a, a).isinf().all()


@pytest.mark.parametrize("window", [11, 7])
def test_ssim_equals_a_slow_version(window: int):
    a = picture(2, 3, 33, 40)
    b = (a + 0.2 * picture(2, 3, 33, 40, seed=2)).clamp(-1, 1)
    expected = [
        np.mean([slow_parts(x, y, window)[0] for x, y in zip(p, q, strict=True)])
        for p, q in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    assert ssim(a, b, window=window).tolist() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("window", "scales"), [(11, 3), (7, 3), (7, 1)])
def test_ms_ssim_equals_a_slow_version(window: int, scales: int):
    a = picture(2, 3, 50, 57)
    b = (a + 0.3 * picture(2, 3, 50, 57, seed=3)).clamp(-1, 1)
    expected = [
        np.mean([slow_ms_ssim(x, y, window, scales) for x, y in zip(p, q, strict=True)])
        for p, q in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    assert ms_ssim(a, b, window=window, scales=scales).tolist() == pytest.approx(expected, abs=2e-5)


def test_equal_pictures_are_wholly_alike_and_negatives_are_not():
    a = picture(2, 3, 32, 32)
    for measure in (ssim, ms_ssim):
        assert measure(a, a).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
        assert (measure(a, -a) < 0.1).all()


def test_the_range_may_be_given_in_other_numbers():
    a, b = picture(2, 3, 32, 32), picture(2, 3, 32, 32, seed=1)
    for measure in (psnr, ssim, ms_ssim):
        bytes_ = measure((a + 1) * 127.5, (b + 1) * 127.5, black=0.0, white=255.0)
        assert torch.allclose(measure(a, b), bytes_, atol=1e-4)


def test_scales_are_as_many_as_fit_and_at_most_five():
    assert [fitting_scales(side, 11) for side in (10, 11, 22, 128, 176, 999)] == [0, 1, 2, 4, 5, 5]
    a, b = picture(1, 3, 48, 48), picture(1, 3, 48, 48, seed=1)
    assert torch.equal(ms_ssim(a, b), ms_ssim(a, b, scales=3))


def test_ms_ssim_has_finite_gradients_where_contrast_disagrees():
    a = picture(1, 3, 32, 32)
    b = (-a).requires_grad_()
    ms_ssim(a, b).sum().backward()
    assert b.grad is not None and b.grad.isfinite().all()


def test_the_gradient_of_ms_ssim_leads_to_the_picture():
    a = picture(1, 3, 32, 32)
    b = (a + 0.3 * torch.randn(a.shape, generator=torch.Generator().manual_seed(4))).detach()
    before = ms_ssim(a, b).item()
    for _ in range(20):
        b.requires_grad_()
        (slope,) = torch.autograd.grad(ms_ssim(a, b).sum(), b)
        b = (b + 5.0 * slope).detach()
    assert ms_ssim(a, b).item() > before + 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_every_type_is_measured_in_float32(dtype: torch.dtype):
    a, b = picture(1, 3, 24, 24).to(dtype), picture(1, 3, 24, 24, seed=1).to(dtype)
    for measure in (psnr, ssim, ms_ssim):
        assert torch.equal(measure(a, b), measure(a.float(), b.float()))


@pytest.mark.parametrize(("window", "scales"), [(33, None), (10, None), (11, 3), (11, 0)])
def test_windows_and_scales_that_do_not_fit_are_refused(window: int, scales: int | None):
    a = picture(1, 3, 32, 32)
    with pytest.raises(RequestError, match=r"32 x 32"):
        ms_ssim(a, a, window=window, scales=scales)


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(RequestError, match="one size"):
        ssim(picture(1, 3, 16, 16), picture(1, 3, 16, 18))


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (5, 8), (2, 1)])
def test_a_collapsed_pyramid_is_the_picture(size: tuple[int, int]):
    x = picture(2, 3, *size)
    pyramid = laplacian_pyramid(x, 4)
    assert len(pyramid) == 4
    assert torch.allclose(collapsed(pyramid), x, atol=1e-6)
    sides = [(band.shape[2], band.shape[3]) for band in pyramid]
    for large, small in pairwise(sides):
        assert small == (-(-large[0] // 2), -(-large[1] // 2))


def test_the_pyramid_is_linear_and_keeps_a_plain_colour_in_its_last_level():
    x, y = picture(1, 3, 16, 24), picture(1, 3, 16, 24, seed=1)
    of_difference = laplacian_pyramid(x - y, 3)
    for whole, a, b in zip(
        of_difference, laplacian_pyramid(x, 3), laplacian_pyramid(y, 3), strict=True
    ):
        assert torch.allclose(whole, a - b, atol=1e-6)
    *bands, last = laplacian_pyramid(torch.full((1, 3, 13, 16), 0.7), 3)
    assert all(band.abs().max() < 1e-6 for band in bands)
    assert torch.allclose(last, torch.tensor(0.7))


def test_halves_and_doubles_are_those_of_torch_with_a_triangle_filter():
    x = picture(1, 2, 16, 24)
    fine, coarse = laplacian_pyramid(x, 2)
    half = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # edges are repeated, not cut
    assert torch.allclose(coarse[inside], half[inside], atol=1e-6)
    double = F.interpolate(coarse, scale_factor=2, mode="bilinear")
    assert torch.allclose(x - fine, double, atol=1e-6)


def test_what_inference_mode_measured_first_can_be_learnt_from_afterwards():
    x = picture(1, 3, 21, 27, seed=5)  # a size of no other test: nothing is kept of it
    with torch.inference_mode():
        ms_ssim(x, x.clone()), laplacian_pyramid(x, 3)
    y = (x + 0.1).requires_grad_()
    total = ms_ssim(x, y).sum() + sum(band.abs().sum() for band in laplacian_pyramid(y, 3))
    total.backward()
    assert y.grad is not None and y.grad.abs().sum() > 0
