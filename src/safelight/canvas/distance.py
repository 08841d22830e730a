"""The nearest known pixel of every pixel, exactly, and how far it is.

The lower envelope of parabolas, one row at a time in the paper and all rows at once here.
Felzenszwalb and Huttenlocher 2012, "Distance transforms of sampled functions".
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Nearest(NamedTuple):
    """The nearest known pixel of every pixel; of equally near ones any."""

    rows: Integers  # (H, W)
    columns: Integers  # (H, W)

    def distance(self) -> NDArray[np.float32]:
        """How far it is, (H, W), in pixels: 0 where the pixel itself is known."""
        height, width = self.rows.shape
        down = self.rows - np.arange(height)[:, None]
        right = self.columns - np.arange(width)
        return np.hypot(down.astype(np.float32), right.astype(np.float32))


def nearest(known: NDArray[np.bool_]) -> Nearest:
    """The nearest known pixel of every pixel of (H, W), which must hold at least one."""
    assert known.any(), "no pixel is known"
    rows = _nearest_in_column(known)
    sources = np.flatnonzero(known.any(axis=0))
    gap = (rows[:, sources] - np.arange(known.shape[0])[:, None]) ** 2
    columns = sources[_lowest_parabola(gap, sources, known.shape[1])]
    return Nearest(np.take_along_axis(rows, columns, axis=1), columns)


def _nearest_in_column(known: NDArray[np.bool_]) -> Integers:
    """The nearest known row in every pixel's own column; without meaning in an empty column."""
    height = known.shape[0]
    row = np.arange(height)[:, None]
    far = 4 * height
    above = np.maximum.accumulate(np.where(known, row, -far), axis=0)
    below = np.minimum.accumulate(np.where(known, row, far)[::-1], axis=0)[::-1]
    return np.where(row - above <= below - row, above, below)


def _lowest_parabola(gap: Integers, sources: Integers, width: int) -> Integers:
    """Which source i has the least gap[y, i] + (x - sources[i])**2, for all x: (H, width).

    `hull[y, k]` is the k-th parabola of row y's envelope; it is lowest from `start[y, k]` on.
    """
    height, count = gap.shape
    line = np.arange(height)
    hull = np.zeros((height, count), np.int64)
    start = np.full((height, count + 1), width, np.int64)
    start[:, 0] = np.iinfo(np.int64).min  # the first is never left out: no other lies before it
    last = np.zeros(height, np.int64)
    weight = gap + sources**2
    for new in range(1, count):
        unsettled = line
        crossing = np.empty(height, np.int64)
        while len(unsettled):
            old = hull[unsettled, last[unsettled]]
            # From the first whole x on which the new parabola is below the old one
            apart = weight[unsettled, new] - weight[unsettled, old]
            crossing[unsettled] = apart // (2 * (sources[new] - sources[old])) + 1
            # The old one is never lowest: it leaves the envelope, and the one before is asked.
            unsettled = unsettled[crossing[unsettled] <= start[unsettled, last[unsettled]]]
            last[unsettled] -= 1
        # A parabola that would begin past the end is added all the same: it is never asked for.
        last += 1
        hull[line, last] = new
        start[line, last] = np.minimum(crossing, width)
    chosen = np.zeros((height, width), np.int64)
    for k in range(int(last.max()) + 1):
        begins = np.where(last >= k, start[:, k], width)
        begins = np.maximum(begins, 0)
        rows = line[begins < width]
        chosen[rows, begins[rows]] = k
    # Several parabolas may begin on one x (clamped): the later one was written later and wins.
    place = np.maximum.accumulate(chosen, axis=1)
    return np.take_along_axis(hull, place, axis=1)
