"""Fills leave what is known alone and continue what lies at its border."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from canvas_pictures import blob, landscape, thing
from safelight.canvas.continuation import CONTINUATIONS, continued, edged, mirrored
from safelight.canvas.distance import nearest
from safelight.canvas.fill import LAYERS, bled
from safelight.canvas.masks import blurred
from safelight.errors import RequestError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]
FILLS: dict[str, Callable[[Pixels, Mask], Pixels]] = {**CONTINUATIONS, "bled": bled}


def grown_by(pixels: Pixels, border: int) -> tuple[Pixels, Mask]:
    """The picture in the middle of a larger black one, and the mask of what is new."""
    mask = np.pad(np.zeros(pixels.shape[:2], np.float32), border, constant_values=1)
    return np.pad(pixels, ((border, border), (border, border), (0, 0))), mask


@settings(max_examples=30, deadline=None)
@given(
    fill=st.sampled_from(sorted(FILLS)),
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    share=st.floats(0.05, 1),
    soft=st.booleans(),
)
def test_what_is_not_masked_stays(
    fill: str, seed: int, size: tuple[int, int], share: float, soft: bool
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    mask = blob(*size, seed, share)
    mask = blurred(mask, 1.5) if soft else mask
    before = pixels.copy()
    made = FILLS[fill](pixels, mask)
    assert made.shape == pixels.shape and made.dtype == np.uint8
    assert (made[mask == 0] == pixels[mask == 0]).all() and (pixels == before).all()


@pytest.mark.parametrize("fill", sorted(FILLS))
def test_what_was_under_the_mask_does_not_matter(fill: str) -> None:
    pixels, mask = landscape(), blob(96, 80, 3)
    other = np.where(mask[..., None] > 0, 255 - pixels, pixels)
    assert (FILLS[fill](pixels, mask) == FILLS[fill](other, mask)).all()


@pytest.mark.parametrize("fill", sorted(FILLS))
def test_a_flat_picture_stays_flat_and_a_full_mask_gives_the_mean(fill: str) -> None:
    flat = np.full((40, 50, 3), (200, 100, 30), np.uint8)
    made = FILLS[fill](flat, blob(50, 40, 1, 0.5))
    # A1111's fill works in 8 bits, premultiplied: a few levels are lost where little alpha arrives
    assert np.abs(made.astype(int) - flat).max() <= (8 if fill == "bled" else 0)
    pixels = landscape()
    made = FILLS[fill](pixels, np.ones((80, 96), np.float32))
    assert np.abs(made - pixels.mean(axis=(0, 1))).max() <= 1
    with pytest.raises(RequestError, match="size of its picture"):
        FILLS[fill](pixels, np.ones((8, 8), np.float32))


def test_bleeding_is_a1111s_rule() -> None:
    """Its layers once more, in floating point and with true Gaussians."""
    pixels, mask = landscape(120, 100), blob(120, 100, 5)
    keep, result = 1 - mask.astype(np.float64), np.zeros((100, 120, 3))
    covered = np.zeros((100, 120, 1))
    for radius, times in LAYERS:
        share = ndimage.gaussian_filter(keep, radius, mode="nearest")[..., None]
        premultiplied = pixels * keep[..., None]
        smeared = ndimage.gaussian_filter(premultiplied, (radius, radius, 0), mode="nearest")
        colour = smeared / np.maximum(share, 1e-9)
        for _ in range(times):
            total = share + covered * (1 - share)
            result = (colour * share + result * covered * (1 - share)) / np.maximum(total, 1e-9)
            covered = total
    apart = np.abs(bled(pixels, mask) - result)
    assert apart.mean() < 0.6 and np.quantile(apart, 0.999) < 8


# --- continuation -----------------------------------------------------------------------------


def test_a_mirror_and_an_edge_are_numpys() -> None:
    pixels = landscape(40, 30)
    canvas, mask = grown_by(pixels, 70)
    padding = ((70, 70), (70, 70), (0, 0))
    assert (edged(canvas, mask) == np.pad(pixels, padding, mode="edge")).all()
    assert (mirrored(canvas, mask) == np.pad(pixels, padding, mode="reflect")).all()


def test_a_thing_in_the_middle_is_not_drawn_again() -> None:
    pixels = thing()
    canvas, mask = grown_by(pixels, 48)
    ground = pixels[0, 0].astype(int)
    ours = np.abs(continued(canvas, mask) - ground).max(axis=2)[mask > 0]
    theirs = np.abs(mirrored(canvas, mask) - ground).max(axis=2)[mask > 0]
    assert (ours > 24).mean() < 0.005 < 0.2 < (theirs > 24).mean()


def test_a_horizon_goes_on_straight() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32], pixels[32:] = (120, 170, 230), (60, 110, 40)
    canvas, mask = grown_by(pixels, 32)
    made = continued(canvas, mask)[32:96]  # the rows of the picture
    assert np.abs(made[:20].astype(int) - (120, 170, 230)).max() <= 12
    assert np.abs(made[-20:].astype(int) - (60, 110, 40)).max() <= 12


def test_texture_goes_on_as_rough_as_it_was() -> None:
    """The deviation within squares of 8 pixels: a blur or a smear has far less of it."""
    ground = landscape(128, 160, 4)[96:, :]
    canvas, mask = grown_by(ground, 40)

    def roughness(picture: Pixels) -> float:
        cells = picture[: picture.shape[0] // 8 * 8, : picture.shape[1] // 8 * 8]
        cells = cells.reshape(cells.shape[0] // 8, 8, -1, 8, 3)
        return float(cells.std(axis=(1, 3)).mean())

    own, beyond = roughness(ground), roughness(continued(canvas, mask)[:, -32:])
    assert 0.5 * own < beyond < 1.5 * own
    assert roughness(bled(canvas, mask)[:, -32:]) < 0.25 * own


def test_the_texture_is_drawn_from_the_seed() -> None:
    canvas, mask = grown_by(landscape(), 24)
    assert (continued(canvas, mask, 1) == continued(canvas, mask, 1)).all()
    assert (continued(canvas, mask, 1) != continued(canvas, mask, 2)).any()


def test_colours_beyond_a_border_follow_the_true_picture() -> None:
    """As well as the bare edge does, which has no texture; better than a mirror or a smear."""
    errors = dict.fromkeys(FILLS, 0.0)
    for seed in range(6):
        whole = landscape(96, 80, seed)
        mask = np.ones((80, 96), np.float32)
        mask[:, 24:-24] = 0
        for name, fill in FILLS.items():
            apart = fill(whole, mask).astype(float) - whole
            apart = ndimage.gaussian_filter(apart, (2, 2, 0))
            errors[name] += float(np.abs(apart[mask > 0]).mean())
    assert errors["context"] < 1.05 * errors["edge"], errors
    assert errors["context"] < 0.9 * errors["mirror"], errors
    assert errors["context"] < 0.6 * errors["bled"], errors


# --- the nearest known pixel ------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    share=st.floats(0.001, 1),
    seed=st.integers(0, 2**32),
)
def test_the_nearest_known_pixel_is_scipys(size: tuple[int, int], share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = rng.random(size) < share
    known[rng.integers(size[0]), rng.integers(size[1])] = True
    found = nearest(known)
    assert known[found.rows, found.columns].all()
    assert np.abs(found.distance() - ndimage.distance_transform_edt(~known)).max() < 1e-3
