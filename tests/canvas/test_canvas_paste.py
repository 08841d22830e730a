"""Nothing outside the mask changes, to the last bit; inside, the mask says how much."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from safelight.canvas.feather import feathered
from safelight.canvas.masks import blurred
from safelight.canvas.paste import pasted
from safelight.canvas.region import Region, only_masked
from safelight.errors import RequestError

Pixels = NDArray[np.uint8]
SEEDS = st.integers(0, 2**32)


def noise(seed: int, width: int, height: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Pixels, NDArray[np.float32]]:
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    mask = np.zeros((height, width), np.float32)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    mask[top : top + draw(st.integers(1, 30)), left : left + draw(st.integers(1, 30))] = 1
    sigma = draw(st.sampled_from([0.0, 1.0, 4.0]))
    return noise(draw(SEEDS), width, height), blurred(mask, sigma)


@settings(max_examples=150, deadline=None)
@given(case=pictures(), seed=SEEDS, working=st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_pixels_that_are_not_masked_are_the_originals(
    case: tuple[Pixels, NDArray[np.float32]], seed: int, working: tuple[int, int]
) -> None:
    original, mask = case
    before = original.copy()
    region = only_masked(mask, working, 3)
    assert region is not None
    made = pasted(original, noise(seed, *working), mask, region)
    assert (made[mask == 0] == original[mask == 0]).all()
    assert (original == before).all() and made.dtype == np.uint8
    outside = np.ones(mask.shape, bool)
    outside[region.slices] = False
    assert (made[outside] == original[outside]).all()


@given(case=pictures(), seed=SEEDS)
def test_where_the_mask_is_full_the_painted_pixels_are_exact(
    case: tuple[Pixels, NDArray[np.float32]], seed: int
) -> None:
    original, mask = case
    painted = noise(seed, mask.shape[1], mask.shape[0])
    made = pasted(original, painted, mask)
    assert (made[mask == 1] == painted[mask == 1]).all()
    # Between them it is Pillow's composite
    levels = Image.fromarray((mask * 255).round().astype(np.uint8))
    wanted = Image.composite(Image.fromarray(painted), Image.fromarray(original), levels)
    assert np.abs(made.astype(int) - np.asarray(wanted)).max() <= 1


@given(case=pictures())
def test_an_empty_mask_and_the_same_picture_change_nothing(
    case: tuple[Pixels, NDArray[np.float32]],
) -> None:
    original, mask = case
    assert (pasted(original, 255 - original, np.zeros_like(mask)) == original).all()
    assert (pasted(original, original, mask) == original).all()


def test_what_is_painted_is_brought_to_the_region() -> None:
    original, mask = np.zeros((40, 60, 3), np.uint8), np.ones((40, 60), np.float32)
    painted = np.full((64, 64, 3), 200, np.uint8)
    made = pasted(original, painted, mask, Region(10, 5, 30, 25))
    assert (made[5:25, 10:30] == 200).all() and made.sum() == 200 * 20 * 20 * 3


def test_what_does_not_fit_is_refused() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(RequestError, match="5 x 4 pixels and the picture 6 x 4"):
        pasted(pixels, pixels, np.zeros((4, 5), np.float32))
    for region in (Region(0, 0, 7, 4), Region(-1, 0, 3, 4), Region(2, 2, 2, 4)):
        with pytest.raises(RequestError, match="inside"):
            pasted(pixels, pixels, np.zeros((4, 6), np.float32), region)


@given(case=pictures(), width=st.floats(0, 20))
def test_a_feathered_mask_stays_within_the_mask(
    case: tuple[Pixels, NDArray[np.float32]], width: float
) -> None:
    hard = (case[1] > 0.5).astype(np.float32)
    made = feathered(hard, width)
    assert (made[hard == 0] == 0).all() and (made[hard == 1] > 0).all() and made.max() <= 1
