"""Rectangles of a picture, and the one around a mask that is painted at the working size.

A1111's "only masked": the bounding box of the mask, grown by the padding, widened to the aspect of
the working size, and moved and cut so that it lies inside the picture.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from safelight.canvas.arrays import Mask, Size, check_size, size_of
from safelight.errors import RequestError

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A rectangle in pixels; right and bottom lie just outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """How many columns it has."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """How many rows it has."""
        return self.bottom - self.top

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.width, self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an array with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def of(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """The part of an array (H, W, ...) that lies in this rectangle: a view, not a copy."""
        return array[self.slices]

    def inside(self, other: "Region") -> bool:
        """Whether no pixel of this rectangle lies outside the other."""
        return (
            other.left <= self.left <= self.right <= other.right
            and other.top <= self.top <= self.bottom <= other.bottom
        )

    def moved(self, right: int, down: int) -> "Region":
        """The same rectangle elsewhere."""
        return Region(self.left + right, self.top + down, self.right + right, self.bottom + down)

    def grown(self, by: int, size: Size) -> "Region":
        """The rectangle with `by` pixels more on every side, cut at the edge of the picture."""
        width, height = size
        return Region(
            max(self.left - by, 0),
            max(self.top - by, 0),
            min(self.right + by, width),
            min(self.bottom + by, height),
        )


def whole(size: Size) -> Region:
    """The rectangle of a whole picture."""
    return Region(0, 0, *size)


def bounding_box(mask: Mask) -> Region | None:
    """The smallest rectangle with every pixel whose mask is above 0; None if there is none."""
    columns = np.flatnonzero((mask > 0).any(axis=0))
    rows = np.flatnonzero((mask > 0).any(axis=1))
    if not len(rows):
        return None
    return Region(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def only_masked(mask: Mask, working_size: Size, padding: int = 32) -> Region | None:
    """The rectangle to cut out, paint at `working_size` and put back; None for an empty mask.

    It holds the whole mask. Its aspect is that of the working size, to a pixel, unless the picture
    is too small in that direction: then it is as large as the picture there. A1111's
    get_crop_region_v2 and expand_crop_region. Raises RequestError for a negative padding.
    """
    check_size(working_size)
    if padding < 0:
        raise RequestError(f"the padding of the masked region is at least 0; got {padding}.")
    box = bounding_box(mask)
    if box is None:
        return None
    return with_aspect(box.grown(padding, size_of(mask)), working_size, size_of(mask))


def with_aspect(region: Region, aspect: Size, size: Size) -> Region:
    """The region widened or heightened to the aspect (width, height), inside a picture of `size`.

    Growth is shared by both sides, the odd pixel right or below; at an edge the region is moved
    inwards, and cut where the picture is too small.
    """
    ratio = aspect[0] / aspect[1]
    if region.width / region.height > ratio:
        missing = int(region.width / ratio - region.height)
        top, bottom = _spread(region.top, region.bottom, missing, size[1])
        return Region(region.left, top, region.right, bottom)
    missing = int(region.height * ratio - region.width)
    left, right = _spread(region.left, region.right, missing, size[0])
    return Region(left, region.top, right, region.bottom)


def _spread(start: int, end: int, missing: int, limit: int) -> tuple[int, int]:
    """The span lengthened by `missing`, half of it before, within 0 to limit."""
    length = min(end - start + missing, limit)
    start = min(max(start - missing // 2, 0), limit - length)
    return start, start + length
