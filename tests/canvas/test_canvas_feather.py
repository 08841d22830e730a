"""The soft border lies inside: what was kept stays kept, and the middle is painted wholly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canvas_pictures import blob
from safelight.canvas.feather import feathered
from safelight.errors import RequestError


@settings(max_examples=50, deadline=None)
@given(shape=st.integers(0, 2**32), share=st.floats(0.02, 0.9), width=st.floats(0, 40))
def test_nothing_outside_is_painted_and_the_middle_is_wholly(
    shape: int, share: float, width: float
) -> None:
    mask = blob(48, 40, shape, share)
    soft = feathered(mask, width)
    assert (soft[mask == 0] == 0).all()
    assert (soft[mask > 0] > 0).all()
    assert (soft <= mask).all()
    if mask.any():
        assert soft.max() == mask.max()


def test_it_rises_evenly_from_the_border_over_its_width() -> None:
    mask = np.zeros((9, 60), np.float32)
    mask[:, 20:] = 1
    row = feathered(mask, 8)[4]
    assert (np.diff(row[20:30]) > 0).sum() >= 8 and (row[29:] == 1).all()
    assert abs(row[20 + 4] - (1 - row[20 + 3])) < 0.12  # half of it half way
    assert row[59] == 1  # the picture's edge is no border


def test_a_thin_stroke_is_painted_wholly_along_its_middle() -> None:
    mask = np.zeros((40, 40), np.float32)
    mask[18:21, 5:35] = 1
    assert (feathered(mask, 12)[19, 8:32] == 1).all()


def test_without_a_width_or_without_a_border_nothing_changes() -> None:
    mask = blob(30, 30, 3, 0.4)
    assert np.array_equal(feathered(mask, 0), mask)
    for flat in (np.zeros((5, 5), np.float32), np.ones((5, 5), np.float32)):
        assert np.array_equal(feathered(flat, 4), flat)


def test_a_grey_mask_keeps_its_proportions() -> None:
    mask = blob(40, 40, 5, 0.5)
    assert np.allclose(feathered(mask * np.float32(0.5), 6), feathered(mask, 6) * 0.5)


def test_a_width_below_0_is_refused() -> None:
    with pytest.raises(RequestError, match="0 or more pixels wide"):
        feathered(np.zeros((4, 4), np.float32), -1)
