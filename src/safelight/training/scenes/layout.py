"""Where objects stand in a scene. Sizes and places are shares of the picture's side.

A spot is (size, x, y): the longer side of the object's box, and the middle of the box. Spots of one
scene never overlap, and none leaves the picture.
"""

from collections.abc import Mapping

from safelight.measures.facts import PLACES, RELATIONS, SIZES
from safelight.training.scenes.dice import Dice

__all__ = [
    "COUNTS",
    "PLACES",
    "RELATIONS",
    "SIZES",
    "Spot",
    "centred",
    "counted",
    "placed",
    "related",
]

Spot = tuple[float, float, float]

MARGIN = 0.02  # that stays free at the rim
APART = 0.02  # between two objects
_SMALL, _MIDDLE = (0.26, 0.38), (0.42, 0.52)
_LARGE_CENTRE, _LARGE_CORNER = (0.80, 0.95), (0.58, 0.66)
_SINGLE = (0.72, 0.94)
# Cells that a count is laid out in: (x, y, side) of each, filling the picture to its rim.
_ROW3 = tuple((1 / 6 + i / 3, 0.5, 1 / 3) for i in range(3))
_PATTERNS: Mapping[int, tuple[tuple[tuple[float, float, float], ...], ...]] = {
    2: (
        ((0.25, 0.5, 0.5), (0.75, 0.5, 0.5)),
        ((0.5, 0.25, 0.5), (0.5, 0.75, 0.5)),
        ((0.25, 0.25, 0.5), (0.75, 0.75, 0.5)),
        ((0.75, 0.25, 0.5), (0.25, 0.75, 0.5)),
    ),
    3: (
        _ROW3,
        tuple((y, x, side) for x, y, side in _ROW3),
        ((0.5, 0.25, 0.5), (0.25, 0.75, 0.5), (0.75, 0.75, 0.5)),
        ((0.25, 0.25, 0.5), (0.75, 0.25, 0.5), (0.5, 0.75, 0.5)),
        tuple((x, x, side) for x, _, side in _ROW3),
    ),
    4: (
        ((0.25, 0.25, 0.5), (0.75, 0.25, 0.5), (0.25, 0.75, 0.5), (0.75, 0.75, 0.5)),
        ((0.25, 0.25, 0.5), (0.75, 0.25, 0.5), (0.25, 0.75, 0.5), (0.75, 0.75, 0.5)),
        ((0.5, 1 / 6, 1 / 3), (1 / 6, 0.5, 1 / 3), (5 / 6, 0.5, 1 / 3), (0.5, 5 / 6, 1 / 3)),
    ),
}
COUNTS = tuple(_PATTERNS)


def centred(dice: Dice) -> Spot:
    """One large object in the middle, a little off it."""
    size = dice.between(*_SINGLE)
    slack = min(0.04, (1 - size) / 2 - 0.005)
    return size, 0.5 + dice.between(-slack, slack), 0.5 + dice.between(-slack, slack)


def placed(dice: Dice, size_word: str | None, place: str) -> Spot:
    """One object of a named size (middling if None) in a corner or the centre."""
    if size_word == "small":
        size = dice.between(*_SMALL)
    elif size_word is None:
        size = dice.between(*_MIDDLE)
    else:
        size = dice.between(*(_LARGE_CENTRE if place == "centre" else _LARGE_CORNER))
    if place == "centre":
        slack = min(0.03, (1 - size) / 2 - 0.005)
        return size, 0.5 + dice.between(-slack, slack), 0.5 + dice.between(-slack, slack)
    near = size / 2 + MARGIN
    # A corner holds what lies wholly in its quarter, or what is too large for that, at its rim.
    far = max(near + 0.02, min(near + 0.06, 0.5 - size / 2))
    x, y = dice.between(near, far), dice.between(near, far)
    return size, 1 - x if "right" in place else x, 1 - y if "bottom" in place else y


def counted(dice: Dice, count: int) -> tuple[Spot, ...]:
    """So many objects of one size, apart from each other."""
    cells = dice.of(_PATTERNS[count])
    side = min(cell for _, _, cell in cells)
    size = side * dice.between(0.76, 0.9)
    return tuple(_within(dice, x, y, cell, size) for x, y, cell in cells)


def related(dice: Dice, relation: str) -> tuple[Spot, Spot]:
    """Two objects; the first is `relation` the second. `next to` and `and` take either side."""
    sizes = dice.between(0.37, 0.45), dice.between(0.37, 0.45)
    shift = dice.between(-0.08, 0.08)
    if relation in ("next to", "and"):
        swap, upright = dice.chance(0.5), False
    else:
        swap, upright = relation in ("right of", "below"), relation in ("above", "below")
    spots = []
    for size, middle in zip(sizes, (0.75, 0.25) if swap else (0.25, 0.75), strict=True):
        along = _within(dice, middle, 0.5, 0.5, size)[1]
        across = 0.5 + shift + dice.between(-0.03, 0.03)
        spots.append((size, across, along) if upright else (size, along, across))
    first, second = spots
    return first, second


def _within(dice: Dice, x: float, y: float, cell: float, size: float) -> Spot:
    """A spot of this size anywhere in its cell, off its rim."""
    slack = max(0.0, (cell - size) / 2 - APART / 2)
    return size, x + dice.between(-slack, slack), y + dice.between(-slack, slack)
