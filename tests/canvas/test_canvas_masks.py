"""Masks are read by a rule that is said, and blurred, grown and made latent as others do it."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from safelight.canvas.arrays import check_fit
from safelight.canvas.latent_mask import RULES, latent_mask
from safelight.canvas.masks import (
    blurred,
    doubled,
    grown,
    hardened,
    inverted,
    read_mask,
    shrunk,
    united,
)
from safelight.errors import RequestError

Mask = NDArray[np.float32]


@st.composite
def masks(draw: st.DrawFn, multiple: int = 1) -> Mask:
    """Blobs and rectangles, hard or soft, of any size."""
    width, height = (multiple * draw(st.integers(1, 48 // multiple)) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        mask = np.zeros((height, width), np.float32)
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[top : top + height // 2 + 1, left : left + width // 3 + 1] = 1
        return mask
    values = rng.random((height, width), np.float32)
    return values if draw(st.booleans()) else (values > 0.8).astype(np.float32)


# --- reading ----------------------------------------------------------------------------------


def test_luminance_is_pillows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(pixels).convert("L"))
    made = read_mask(pixels, None)
    assert np.abs(made * 255 - wanted).max() <= 1.01
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert read_mask(ends, None).tolist() == [[0.0, 1.0]]


def test_transparency_is_read_as_it_is_said() -> None:
    pixels = np.full((1, 3, 3), 255, np.uint8)
    alpha = np.array([[0, 51, 255]], np.uint8)
    assert np.allclose(read_mask(pixels, alpha, "transparent"), [[1, 0.8, 0]])
    assert np.allclose(read_mask(pixels, alpha, "opaque"), [[0, 0.2, 1]])
    assert np.allclose(read_mask(pixels, alpha, "luminance"), 1)


def test_a_mask_that_may_mean_two_things_is_refused() -> None:
    pixels = np.full((2, 2, 3), 255, np.uint8)
    with pytest.raises(RequestError, match=r"transparent .* opaque .* luminance"):
        read_mask(pixels, np.array([[0, 255], [255, 255]], np.uint8))
    assert (read_mask(pixels, np.full((2, 2), 255, np.uint8)) == 1).all()
    with pytest.raises(RequestError, match="no alpha channel"):
        read_mask(pixels, None, "opaque")
    with pytest.raises(RequestError, match="luminance, transparent, opaque; got 'red'"):
        read_mask(pixels, None, "red")


def test_a_mask_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(RequestError, match=r"5 x 4 pixels and the picture 3 x 2"):
        check_fit(np.zeros((4, 5), np.float32), np.zeros((2, 3, 3), np.uint8))


# --- blur -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(mask=masks(), x=st.sampled_from([0.0, 0.7, 4.0, 20.0]), y=st.sampled_from([0.0, 1.0, 4.0]))
def test_blur_is_opencvs_with_a1111s_kernel(mask: Mask, x: float, y: float) -> None:
    wanted = mask
    for sigma, turned in ((x, False), (y, True)):
        if sigma > 0:
            reach = 2 * int(2.5 * sigma + 0.5) + 1
            wanted = cv2.GaussianBlur(wanted, (1, reach) if turned else (reach, 1), sigma)
            wanted = wanted.reshape(mask.shape)
    assert np.abs(blurred(mask, (x, y)) - wanted).max() * 255 <= 0.51  # one rounding to 8 bits


def test_blur_is_a1111s_to_a_level() -> None:
    """OpenCV on 8 bits, as A1111 calls it: it rounds after each direction, and its kernel."""
    mask = np.zeros((60, 80), np.float32)
    mask[20:50, 10:40] = 1
    wanted = cv2.GaussianBlur((mask * 255).astype(np.uint8), (21, 1), 4)
    wanted = cv2.GaussianBlur(wanted, (1, 21), 4)
    assert np.abs(blurred(mask, 4.0) * 255 - wanted).max() <= 1.01


@pytest.mark.parametrize("sigma", [4.0, 30.0])
def test_what_lies_beyond_the_kernel_stays_exact(sigma: float) -> None:
    mask = np.zeros((64, 600), np.float32)
    mask[:, :300] = 1
    made, reach = blurred(mask, sigma), int(2.5 * sigma + 0.5)
    assert (made[:, : 300 - reach] == 1).all() and (made[:, 300 + reach :] == 0).all()
    assert (np.diff(made[0]) <= 0).all() and 0.4 < made[0, 300] < 0.6


# --- growing and shrinking --------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(mask=masks(), radius=st.integers(0, 9))
def test_growing_takes_the_largest_value_within_the_radius(mask: Mask, radius: int) -> None:
    at = np.arange(-radius, radius + 1)
    disc = at[:, None] ** 2 + at**2 <= radius**2
    wanted = ndimage.grey_dilation(mask, footprint=disc, mode="constant", cval=0)
    assert (grown(mask, radius) == wanted).all()


@given(mask=masks(), radius=st.integers(0, 5))
def test_shrinking_is_growing_of_what_is_kept(mask: Mask, radius: int) -> None:
    assert (shrunk(mask, radius) == inverted(grown(inverted(mask), radius))).all()
    assert (shrunk(mask, radius) <= mask + 1e-6).all() and (mask <= grown(mask, radius)).all()


def test_a_full_mask_is_not_shrunk_from_the_edge() -> None:
    assert (shrunk(np.ones((9, 9), np.float32), 3) == 1).all()


def test_thresholds_unions_and_doubles() -> None:
    mask = np.array([[0, 0.2, 0.5, 1]], np.float32)
    assert hardened(mask).tolist() == [[0, 0, 1, 1]]
    assert hardened(mask, 0.1).tolist() == [[0, 1, 1, 1]]
    assert united(mask, mask[:, ::-1]).tolist() == mask[:, [3, 2, 2, 3]].tolist()
    assert np.allclose(doubled(mask), [[0, 0.4, 1, 1]])
    assert united(mask) is not mask


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: blurred(m, -1), "0 or more pixels; got -1"),
        (lambda m: blurred(m, float("nan")), "got nan"),
        (lambda m: grown(m, -2), "got -2"),
        (lambda m: hardened(m, 0), "got 0"),
        (lambda m: united(), "at least one"),
        (lambda m: united(m, m[:2]), "4 x 4 and 4 x 2"),
        (lambda m: latent_mask(m, 8), "multiples of 8; got 4 x 4"),
        (lambda m: latent_mask(m, 2, "photoshop"), "got 'photoshop'"),
    ],
)
def test_what_cannot_be_done_is_refused(call: object, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        call(np.zeros((4, 4), np.float32))  # type: ignore[operator]


# --- latent masks -----------------------------------------------------------------------------


@settings(deadline=None)
@given(mask=masks(multiple=8))
def test_latent_masks_are_their_tools(mask: Mask) -> None:
    height, width = mask.shape[0] // 8, mask.shape[1] // 8
    grey = Image.fromarray((mask * 255).round().astype(np.uint8)).convert("RGB")
    bicubic = np.asarray(grey.resize((width, height)))[..., 0].astype(np.float32) / 255
    assert (latent_mask(mask) == np.around(bicubic)).all()
    assert np.allclose(latent_mask(mask, rule="a1111-soft"), bicubic)
    binary = torch.from_numpy((mask >= 0.5).astype(np.float32))[None, None]
    nearest = torch.nn.functional.interpolate(binary, size=(height, width))
    assert (latent_mask(mask, rule="diffusers") == nearest[0, 0].numpy()).all()
    mean = torch.nn.functional.avg_pool2d(torch.from_numpy(mask)[None, None], 8)[0, 0].numpy()
    assert np.allclose(latent_mask(mask, rule="average"), mean, atol=1e-6)
    assert (latent_mask(mask, rule="cover") == (mean > 0)).all()


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_full_mask_is_full_and_an_empty_one_empty(rule: str) -> None:
    for value in (0, 1):
        made = latent_mask(np.full((32, 48), value, np.float32), rule=rule)
        assert made.shape == (4, 6) and made.dtype == np.float32 and (made == value).all()
