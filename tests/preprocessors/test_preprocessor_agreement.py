"""How well lines agree, against what can be counted by hand."""

import numpy as np
import pytest
from scipy import ndimage

from safelight.errors import RequestError
from safelight.preprocessors.agreement import agreement
from safelight.preprocessors.filters import Pixels, grey


def line(column: int, rows: slice = slice(None), side: int = 20) -> Pixels:
    plane = np.zeros((side, side))
    plane[rows, column] = 255
    return grey(plane)


def test_a_map_agrees_with_itself() -> None:
    assert agreement(line(7), line(7)) == (1.0, 1.0, 1.0)


def test_lines_agree_as_far_as_the_tolerance() -> None:
    assert agreement(line(7), line(9)).f1 == 1.0
    assert agreement(line(7), line(10)).f1 == 0.0
    assert agreement(line(7), line(8), tolerance=0).f1 == 0.0
    assert agreement(line(7), line(12), tolerance=5).f1 == 1.0


def test_what_is_too_much_costs_precision_and_what_is_missing_recall() -> None:
    both = np.maximum(line(3), line(15))
    assert agreement(line(3), both) == pytest.approx((0.5, 1.0, 2 / 3))
    assert agreement(both, line(3)) == pytest.approx((1.0, 0.5, 2 / 3))
    half = agreement(line(3), line(3, slice(0, 10)), tolerance=0)
    assert half == pytest.approx((1.0, 0.5, 2 / 3))


def test_nothing_agrees_with_nothing_only() -> None:
    empty = np.zeros((20, 20, 3), np.uint8)
    assert agreement(empty, empty) == (1.0, 1.0, 1.0)
    assert agreement(line(3), empty).f1 == 0.0
    assert agreement(empty, line(3)).f1 == 0.0


def test_soft_maps_count_where_they_are_brighter_than_the_level() -> None:
    assert agreement(line(3), line(3) // 2, tolerance=0).recall == 0.0
    assert agreement(line(3), line(3) // 2, tolerance=0, level=100).f1 == 1.0


def test_the_shares_are_those_of_distances() -> None:
    rng = np.random.default_rng(2)
    one, other = (grey(np.where(rng.random((40, 50)) > 0.97, 255, 0)) for _ in range(2))
    there, made = one[:, :, 0] > 0, other[:, :, 0] > 0
    distances = [ndimage.distance_transform_cdt(~m, "chessboard") for m in (there, made)]
    found = agreement(one, other, tolerance=3)
    assert found.precision == np.mean(distances[0][made] <= 3)
    assert found.recall == np.mean(distances[1][there] <= 3)
    assert 0 < found.f1 < 1


def test_maps_of_two_sizes_are_refused() -> None:
    with pytest.raises(RequestError, match="of one size; got 20x20 and 10x10"):
        agreement(line(3), line(3, side=10))
