"""Windows of the working size that cover what is missing, from the picture outwards.

A model paints well at one size. A large extension is painted in windows of that size, one after the
other, each of which sees an overlap of what is known by then.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from safelight.canvas.arrays import Mask, Size
from safelight.canvas.extension import SIDES, Placement
from safelight.canvas.region import Region
from safelight.errors import RequestError


@dataclass(frozen=True, slots=True)
class Window:
    """One window to paint.

    region: where it lies on the canvas (for an endless strip: from the old picture's corner).
    side: the side of the old picture on which most of what it adds lies: left, right, top, bottom.
    """

    region: Region
    side: str


def windows(placement: Placement, working: Size, overlap: int) -> tuple[Window, ...]:
    """The windows that cover all of the canvas that the picture does not, in painting order.

    Each has the working size (the canvas's own where that is smaller), lies on the canvas, adds
    something, and shares at least `overlap` columns or rows with what is known before it. Windows
    nearer to the picture come first. Raises RequestError if the overlap is below 1 or more than
    half of the working size.
    """
    size = min(working[0], placement.size[0]), min(working[1], placement.size[1])
    _check_overlap(overlap, working)
    picture = placement.picture
    columns = _line(picture.left, picture.right, size[0], placement.size[0], overlap)
    rows = _line(picture.top, picture.bottom, size[1], placement.size[1], overlap)
    order = sorted(
        ((x, y) for x in range(len(columns)) for y in range(len(rows))),
        key=lambda at: (columns[at[0]][1] + rows[at[1]][1], rows[at[1]][1], at),
    )
    known = np.zeros((placement.size[1], placement.size[0]), np.bool_)
    known[picture.slices] = True
    found = []
    for x, y in order:
        left, top = columns[x][0], rows[y][0]
        region = Region(left, top, left + size[0], top + size[1])
        part = region.of(known)
        if part.all():
            continue
        found.append(Window(region, _side(region, part, picture)))
        known[region.slices] = True
    return tuple(found)


def endless(size: Size, working: Size, overlap: int, side: str = "right") -> Iterator[Window]:
    """Windows that prolong a picture of `size` to one side, without end.

    Each shares `overlap` columns (or rows) with what came before. Regions count from the picture's
    top left corner, so those to the left and above are negative. Across, the picture must have the
    working size. Raises RequestError if it has not, for a wrong overlap, or an unknown side.
    """
    if side not in SIDES:
        raise RequestError(f"a strip goes to {', '.join(SIDES)}; got {side!r}.")
    along = 0 if side in ("left", "right") else 1
    _check_overlap(overlap, working)
    if size[1 - along] != working[1 - along]:
        raise RequestError(
            f"a strip to the {side} has the {('height', 'width')[along]} of its windows, "
            f"{working[1 - along]}; got {size[1 - along]}. Resize the picture first."
        )
    if size[along] < overlap:
        raise RequestError(
            f"the picture must have at least the overlap's {overlap} pixels along the strip; "
            f"got {size[along]}."
        )
    return _endless(size, working, overlap, side, along)


def _endless(size: Size, working: Size, overlap: int, side: str, along: int) -> Iterator[Window]:
    step = working[along] - overlap
    forward = side in ("right", "bottom")
    for number in count():
        start = size[along] - overlap + number * step
        if not forward:
            start = overlap - working[along] - number * step
        left, top = (start, 0) if along == 0 else (0, start)
        yield Window(Region(left, top, left + working[0], top + working[1]), side)


def weights(regions: Sequence[Region], size: Size) -> list[Mask]:
    """How much each window counts at each of its pixels (h, w), so that all windows add up to 1.

    Weight rises evenly from a window's edges to its middle, as in a tent; where only one window
    lies it counts fully. Add up `weight * painted` to blend windows that were painted at once.
    Raises RequestError for a window that sticks out.
    """
    total = np.zeros((size[1], size[0]), np.float32)
    tents = []
    for region in regions:
        if not region.inside(Region(0, 0, *size)):
            raise RequestError(f"{region} does not lie inside a picture of {size}.")
        tent = np.outer(_tent(region.height), _tent(region.width)).astype(np.float32)
        total[region.slices] += tent
        tents.append(tent)
    return [tent / region.of(total) for tent, region in zip(tents, regions, strict=True)]


def _tent(length: int) -> Mask:
    at = np.arange(length, dtype=np.float32) + np.float32(0.5)
    tent: Mask = np.minimum(at, length - at)
    return tent


def _line(start: int, end: int, length: int, limit: int, overlap: int) -> list[tuple[int, int]]:
    """Where windows begin along one axis, and how many steps each is from the middle.

    Those over the old picture are spread evenly over it; further ones follow outwards, each
    `overlap` into the one before, and the last ones are moved back to the canvas's edge.
    """
    inner = _inner(start, end, length, limit, overlap)
    middle = len(inner) // 2
    found = [(at, abs(number - middle)) for number, at in enumerate(inner)]
    left, step = min(inner[0], start), middle
    while left > 0:
        at, step = max(left + overlap - length, 0), step + 1
        found.append((at, step))
        left = at
    right, step = max(inner[-1] + length, end), len(inner) - 1 - middle
    while right < limit:
        at, step = min(right - overlap, limit - length), step + 1
        found.append((at, step))
        right = at + length
    return found


def _inner(start: int, end: int, length: int, limit: int, overlap: int) -> list[int]:
    """Windows over the old picture itself: evenly spread, or one around a small picture."""
    room = end - start - length
    if room <= 0:
        middle = (start + end - length) // 2
        return [min(max(middle, 0), limit - length)]
    parts = -(-room // (length - overlap))
    return [start + room * part // parts for part in range(parts + 1)]


def _side(region: Region, known: NDArray[np.bool_], picture: Region) -> str:
    """The side of the picture that most of the missing pixels of a window lie on."""
    rows, columns = np.nonzero(~known)
    x, y = columns + region.left, rows + region.top
    beyond = {
        "left": picture.left - x,
        "right": x - picture.right + 1,
        "top": picture.top - y,
        "bottom": y - picture.bottom + 1,
    }
    return max(SIDES, key=lambda side: int(np.maximum(beyond[side], 0).sum()))


def _check_overlap(overlap: int, working: Size) -> None:
    if not 1 <= overlap <= min(working) // 2:
        raise RequestError(
            f"windows of {working[0]} x {working[1]} overlap by 1 to {min(working) // 2} pixels; "
            f"got {overlap}."
        )
