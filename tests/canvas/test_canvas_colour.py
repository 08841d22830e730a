"""Colour is matched by what lies around, never outside the mask; A1111's correction is A1111's."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from canvas_pictures import blob, landscape
from safelight.canvas.colour import Shift, corrected, matched, shift_around, shift_between
from safelight.canvas.lab import to_lab, to_pixels
from safelight.errors import RequestError
from safelight.measures import colours

Pixels = NDArray[np.uint8]


def far(a: Pixels, b: Pixels) -> float:
    """The mean distance of two pictures in CIELAB."""
    return float(colours.distance(a, b).mean())


# --- Lab --------------------------------------------------------------------------------------


def test_lab_is_that_of_the_measures_and_comes_back_exactly() -> None:
    steps = np.arange(0, 256, 5)
    every = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).astype(np.uint8)
    lab = to_lab(every)
    assert lab.dtype == np.float32 and np.abs(lab - colours.lab(every)).max() < 1e-3
    assert (to_pixels(lab) == every).all()
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    assert (to_pixels(to_lab(greys)) == greys).all()


def test_colours_outside_srgb_are_clipped() -> None:
    lab = np.array([[200, 0, 0], [-9, 0, 0], [50, 128, -128]], np.float32)
    made = to_pixels(lab)
    assert made[0].tolist() == [255, 255, 255] and made[1].tolist() == [0, 0, 0]


# --- matching by the ring ---------------------------------------------------------------------


def shifted(pixels: Pixels, gain: float, offset: tuple[float, float, float]) -> Pixels:
    lab = to_lab(pixels)
    lab[..., 0] *= gain
    return to_pixels(lab + np.array(offset, np.float32))


@pytest.mark.parametrize("gain", [0.92, 1.0, 1.06])
@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.0), (3.0, -5.0, 4.0), (-4.0, 2.0, 6.0)])
def test_a_known_shift_is_undone(gain: float, offset: tuple[float, float, float]) -> None:
    original, mask = landscape(seed=2), blob(96, 80, 7)
    wrong = shifted(original, gain, offset)
    inside = mask > 0
    made = matched(wrong, original, mask)
    assert far(made[inside], original[inside]) < 0.6
    assert (made[~inside] == wrong[~inside]).all()


def test_new_content_keeps_its_own_colours_less_the_shift() -> None:
    original, mask = landscape(seed=2), blob(96, 80, 7)
    wanted = np.where(mask[..., None] > 0, np.uint8([200, 40, 60]), original)
    made = matched(shifted(wanted, 1.0, (4.0, 5.0, -5.0)), original, mask)
    assert far(made[mask > 0], wanted[mask > 0]) < 1


def test_something_repainted_in_the_ring_does_not_count() -> None:
    original, mask = landscape(seed=2), blob(96, 80, 7)
    wrong = shifted(original, 1.0, (3.0, -5.0, 4.0))
    wrong[:, :30] = (255, 0, 255)  # a third of the picture is another thing now
    found, true = (
        shift_around(wrong, original, mask),
        shift_between(
            to_lab(shifted(original, 1.0, (3.0, -5.0, 4.0))).reshape(-1, 3),
            to_lab(original).reshape(-1, 3),
        ),
    )
    middle = np.array([[50, 0, 0]], np.float32)
    assert np.abs(found.applied(middle) - true.applied(middle)).max() < 1.5


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.01, 1.0), ring=st.integers(0, 30))
def test_pixels_outside_the_mask_never_change(seed: int, share: float, ring: int) -> None:
    rng = np.random.default_rng(seed)
    painted, original = rng.integers(0, 256, (2, 24, 33, 3), dtype=np.uint8)
    mask = blob(33, 24, seed, share)
    made = matched(painted, original, mask, ring)
    assert (made[mask == 0] == painted[mask == 0]).all()


def test_without_a_ring_that_tells_something_nothing_is_done() -> None:
    original, mask = landscape(), blob(96, 80, 7)
    painted = np.where(mask[..., None] > 0, 255 - original, original)  # pasted already
    assert shift_around(painted, original, mask).none
    assert (matched(painted, original, mask) == painted).all()
    assert shift_around(255 - original, original, np.ones_like(mask)) == Shift()
    with pytest.raises(RequestError, match="48 x 80 and 96 x 80"):
        matched(original[:, :48], original, mask)


# --- A1111's correction -----------------------------------------------------------------------


def a1111(pixels: Pixels, reference: Pixels) -> Pixels:
    """OpenCV's Lab, a histogram match pixel by pixel, and the luminosity blend, plainly."""
    ours, theirs = (cv2.cvtColor(x, cv2.COLOR_RGB2LAB) for x in (pixels, reference))
    made = np.empty_like(ours)
    for channel in range(3):
        values, counts = np.unique(theirs[..., channel], return_counts=True)
        below = np.cumsum(counts) / counts.sum()
        for level in np.unique(ours[..., channel]):
            share = (ours[..., channel] <= level).mean()
            made[..., channel][ours[..., channel] == level] = int(np.interp(share, below, values))
    back = cv2.cvtColor(made, cv2.COLOR_LAB2RGB) / 255.0
    result = np.empty_like(back)
    luma = np.array([0.299, 0.587, 0.114])
    for place in np.ndindex(*pixels.shape[:2]):
        light = pixels[place] / 255 @ luma
        colour = back[place] + (light - back[place] @ luma)
        least, most = colour.min(), colour.max()
        if least < 0:
            colour = light + (colour - light) * light / (light - least)
        if most > 1:
            colour = light + (colour - light) * (1 - light) / (most - light)
        result[place] = colour
    return np.around(result * 255).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_whole_pictures_are_corrected_as_a1111_does(seed: int) -> None:
    pixels = shifted(landscape(48, 40, seed), 1.0, (0.0, 9.0, -14.0))
    reference = landscape(40, 48, seed + 10)
    made, wanted = corrected(pixels, reference), a1111(pixels, reference)
    apart = np.abs(made.astype(int) - wanted)
    # OpenCV's 8-bit Lab is a level off here and there, and a level of a* is three of blue
    assert apart.mean() < 1.2 and np.quantile(apart, 0.99) <= 6


def test_correction_brings_colours_near_and_keeps_lightness() -> None:
    reference = landscape(seed=1)
    wrong = shifted(reference, 1.0, (0.0, 12.0, -10.0))
    made = corrected(wrong, reference)
    assert far(made, reference) < 0.35 * far(wrong, reference)
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(made @ luma - wrong @ luma).mean() < 1


def test_a_picture_is_hardly_changed_by_its_own_colours() -> None:
    pixels = landscape(seed=1)
    assert np.abs(corrected(pixels, pixels).astype(int) - pixels).mean() < 1.5
