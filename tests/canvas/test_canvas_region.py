"""The region around a mask is A1111's, holds the mask, has the aspect and lies in the picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from safelight.canvas.region import Region, bounding_box, only_masked, whole
from safelight.errors import RequestError

Mask = NDArray[np.float32]
SIDE = st.integers(1, 80)


@st.composite
def rectangles(draw: st.DrawFn) -> Mask:
    width, height = draw(SIDE), draw(SIDE)
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    mask = np.zeros((height, width), np.float32)
    mask[top : top + draw(SIDE), left : left + draw(SIDE)] = 0.25
    return mask


def a1111(mask: Mask, working: tuple[int, int], padding: int) -> tuple[int, int, int, int]:
    """A1111's two steps for "only masked", one dimension at a time, written anew."""
    ys, xs = np.nonzero(mask)
    height, width = mask.shape
    x1, y1 = max(xs.min() - padding, 0), max(ys.min() - padding, 0)
    x2, y2 = min(xs.max() + 1 + padding, width), min(ys.max() + 1 + padding, height)

    def widen(low: int, high: int, wanted: float, end: int) -> tuple[int, int]:
        more = int(wanted - (high - low))
        low, high = low - more // 2, high + more - more // 2
        if high >= end:
            low, high = low - (high - end), end
        if low < 0:
            low, high = 0, high - low
        return low, min(high, end)

    ratio = working[0] / working[1]
    if (x2 - x1) / (y2 - y1) > ratio:
        y1, y2 = widen(y1, y2, (x2 - x1) / ratio, height)
    else:
        x1, x2 = widen(x1, x2, (y2 - y1) * ratio, width)
    return x1, y1, x2, y2


@settings(max_examples=300)
@given(mask=rectangles(), working=st.tuples(SIDE, SIDE), padding=st.integers(0, 40))
def test_the_region_is_a1111s(mask: Mask, working: tuple[int, int], padding: int) -> None:
    region = only_masked(mask, working, padding)
    assert region is not None
    assert (region.left, region.top, region.right, region.bottom) == a1111(mask, working, padding)


@settings(max_examples=300)
@given(mask=rectangles(), working=st.tuples(SIDE, SIDE), padding=st.integers(0, 40))
def test_the_region_holds_the_mask_in_the_picture_at_the_aspect(
    mask: Mask, working: tuple[int, int], padding: int
) -> None:
    region, box = only_masked(mask, working, padding), bounding_box(mask)
    size = (mask.shape[1], mask.shape[0])
    assert region is not None and box is not None
    assert box.inside(region) and region.inside(whole(size))
    assert region.of(mask).sum() == mask.sum()
    ratio = working[0] / working[1]
    tall, wide = region.height == size[1], region.width == size[0]
    fits = abs(region.width - region.height * ratio) < 1 + 1e-9
    fits = fits or abs(region.height - region.width / ratio) < 1 + 1e-9
    assert (
        fits
        or (tall and region.width >= region.height * ratio)
        or (wide and region.height >= region.width / ratio)
    )


def test_an_empty_mask_has_no_region() -> None:
    assert only_masked(np.zeros((4, 4), np.float32), (8, 8)) is None
    with pytest.raises(RequestError, match="got -1"):
        only_masked(np.ones((4, 4), np.float32), (8, 8), -1)
    with pytest.raises(RequestError, match="0 x 8"):
        only_masked(np.ones((4, 4), np.float32), (0, 8))


def test_a_region_cuts_and_moves() -> None:
    region = Region(1, 2, 4, 7)
    assert region.size == (3, 5) and region.moved(2, -1) == Region(3, 1, 6, 6)
    assert region.of(np.arange(100).reshape(10, 10))[0].tolist() == [21, 22, 23]
    assert not region.inside(Region(2, 2, 9, 9))
