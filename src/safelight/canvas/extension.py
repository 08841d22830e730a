"""How a picture grows beyond its borders: by how much, to what size, and what is painted."""

import re
from dataclasses import dataclass, fields, replace

import numpy as np

from safelight.canvas.arrays import Mask, Pixels, Size, size_of
from safelight.canvas.distance import nearest
from safelight.canvas.region import Region
from safelight.errors import RequestError

MOST = 8192  # pixels on a side of anything that Safelight opens or writes
ONE = re.compile(r"\s*([a-z]+)\s*=\s*([0-9]{1,6})\s*")


@dataclass(frozen=True, slots=True)
class Extension:
    """How many pixels a picture grows on each side."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        for side in SIDES:
            if not 0 <= getattr(self, side) <= MOST:
                raise RequestError(
                    f"a picture grows by 0 to {MOST} pixels on a side; "
                    f"got {side}={getattr(self, side)}."
                )

    @classmethod
    def parse(cls, text: str) -> "Extension":
        """The extension that a text such as "left=256,right=256" asks for.

        Sides are left, right, top and bottom, each once, in whole pixels; `all` stands for the four
        that are not named. Raises RequestError for anything else, or if nothing grows.
        """
        given: dict[str, int] = {}
        for part in text.split(","):
            match = ONE.fullmatch(part)
            if match is None or match[1] not in (*SIDES, "all"):
                raise RequestError(
                    "a picture is extended by sides and pixels, such as left=256,right=256 or "
                    f"all=64; got {part.strip()[:40]!r}."
                )
            if match[1] in given:
                raise RequestError(f"extend names {match[1]} twice; give each side once.")
            given[match[1]] = int(match[2])
        rest = given.pop("all", 0)
        wanted = cls(**{side: given.get(side, rest) for side in SIDES})
        if wanted == cls():
            raise RequestError("extend needs a side that grows by at least 1 pixel; got all 0.")
        return wanted

    def __str__(self) -> str:
        named = [f"{side}={getattr(self, side)}" for side in SIDES if getattr(self, side)]
        return ",".join(named) or "nothing"


SIDES = tuple(field.name for field in fields(Extension))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies on the canvas that it grows into.

    size: of the canvas, in whole cells of the codec.
    picture: where the old picture lies on it.
    result: what of the canvas is given back; a side that does not grow may have been padded.
    extension: by how much the picture grows in the end.
    notes: what differs from what was asked for, a sentence each.
    """

    size: Size
    picture: Region
    result: Region
    extension: Extension
    notes: tuple[str, ...] = ()


def placed(size: Size, wanted: Extension, multiple: int = 8) -> Placement:
    """Where a picture of `size` lies when it is extended, on a canvas of whole multiples.

    A direction that grows is rounded up: the far side gets the rest (the right, the bottom; the
    left or the top where only that grows). One that does not grow is padded right or below to work
    on, and cut back. Raises RequestError if the canvas is larger than 8192 on a side.
    """
    width = wanted.left + size[0] + wanted.right
    height = wanted.top + size[1] + wanted.bottom
    more_right, more_down = -width % multiple, -height % multiple
    canvas = (width + more_right, height + more_down)
    if max(canvas) > MOST:
        raise RequestError(
            f"the extended picture would have {canvas[0]} x {canvas[1]} pixels; up to "
            f"{MOST} x {MOST} are drawn. Extend by less, or make the picture smaller first."
        )
    grown = wanted
    result = [0, 0, *canvas]
    for near, far, more, end in (("left", "right", more_right, 2), ("top", "bottom", more_down, 3)):
        side = far if getattr(wanted, far) else near if getattr(wanted, near) else None
        if side is None:
            result[end] -= more
        else:
            grown = replace(grown, **{side: getattr(grown, side) + more})
    notes: tuple[str, ...] = ()
    if grown != wanted:
        notes = (
            f"the picture grows by {grown} instead of {wanted}: its sides become multiples of "
            f"{multiple}.",
        )
    corner = Region(0, 0, *size).moved(grown.left, grown.top)
    return Placement(canvas, corner, Region(*result), grown, notes)


def on_canvas(pixels: Pixels, placement: Placement) -> Pixels:
    """The picture on its canvas, black where there is nothing yet."""
    assert size_of(pixels) == placement.picture.size, (size_of(pixels), placement.picture)
    canvas = np.zeros((placement.size[1], placement.size[0], 3), np.uint8)
    canvas[placement.picture.slices] = pixels
    return canvas


def unknown(placement: Placement) -> Mask:
    """The mask of the canvas that is 0 where the old picture lies and 1 elsewhere."""
    mask = np.ones((placement.size[1], placement.size[0]), np.float32)
    mask[placement.picture.slices] = 0
    return mask


def overlapped(mask: Mask, overlap: int) -> Mask:
    """A mask of what is missing, with a band of the known into which painting fades out.

    1 stays 1; from there it falls evenly to 0 at `overlap` pixels from what is missing. With 0
    nothing known is painted. Raises RequestError for a negative overlap.
    """
    if overlap < 0:
        raise RequestError(f"an overlap is 0 or more pixels; got {overlap}.")
    missing = mask > 0
    if overlap == 0 or missing.all() or not missing.any():
        return missing.astype(np.float32)
    band: Mask = np.clip(1 - nearest(missing).distance() / np.float32(overlap + 1), 0, 1)
    return band
