"""A control map by the name of its preprocessor.

A map has the size of the picture it was made of: give the picture as large as the one to be drawn.
Widths in pixels then mean pixels of the result; with `resolution` they mean pixels of the picture
brought to that shorter side, as A1111's "preprocessor resolution" does.

Shapes: H W pixels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from safelight.errors import RequestError
from safelight.preprocessors import given
from safelight.preprocessors.filters import Pixels, resized
from safelight.preprocessors.kinds import KINDS, kind_of
from safelight.preprocessors.option import Value
from safelight.preprocessors.table import PREPROCESSORS, Doubts, Preprocessor
from safelight.printable import shown

LEAST_RESOLUTION, MOST_RESOLUTION = 16, 4096
_LONGEST = 16384  # pixels of the longer side at another resolution

_DOUBTS: Mapping[str, Doubts] = MappingProxyType(
    {
        "canny": given.line_doubts,
        "soft_edge": given.line_doubts,
        "lineart": given.line_doubts,
        "scribble": given.line_doubts,
        "mlsd": given.line_doubts,
        "depth": given.depth_doubts,
        "normal": given.normal_doubts,
        "pose": given.pose_doubts,
        "segmentation": given.segment_doubts,
    }
)


@dataclass(frozen=True)
class ControlMap:
    """What a control network is shown, and what a person should know of it.

    pixels: (H, W, 3) uint8, to look at and to keep. hole: (H, W) where the network is told that it
    sees nothing. notes: warnings.
    """

    pixels: Pixels
    hole: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> NDArray[np.float32]:
        """(H, W, 3) in [0, 1], and -1 in the hole: what the network takes."""
        values = self.pixels.astype(np.float32) / np.float32(255)
        if self.hole is not None:
            values[self.hole] = -1.0
        return values


def control_map(
    name: str,
    pixels: Pixels,
    *,
    mask: NDArray[np.float32] | None = None,
    resolution: int | None = None,
    kind: str | None = None,
    options: Mapping[str, object] | None = None,
) -> ControlMap:
    """The map that a preprocessor makes of a picture (H, W, 3) uint8, of the same size.

    mask: (H, W), above 0.5 where it is to be painted; for `inpaint`. resolution: the shorter side
    at which to look; left out, the picture's own. kind: what the network follows, if that is known:
    a finished map (`none`) is then looked at for whether it is of that kind.
    Raises RequestError for a wrong name (listing all), option, range or shape.
    """
    how = resolve_preprocessor(name)
    chosen = how.checked(options or {})
    _check_pixels(pixels)
    _check_mask(how, pixels, mask)
    if resolution is not None:
        check_resolution(how, resolution)
        _check_length(pixels, resolution)
    if how.masked:
        assert mask is not None
        return _with_hole(pixels, mask > 0.5, str(chosen["hole"]))
    found = _at(how, pixels, chosen, resolution)
    doubts = how.doubts
    if how.name == "none" and kind is not None:
        doubts = _DOUBTS.get(kind)
    notes = () if doubts is None else doubts(found)
    if how.empty is not None and not found.any():
        notes = (*notes, f"{how.name} found nothing, so the map is black; {how.empty}")
    return ControlMap(found, notes=notes)


def resolve_preprocessor(name: str) -> Preprocessor:
    """The preprocessor of a name, ours or another program's; case, blanks, - and _ do not matter.

    Raises RequestError that lists all names if there is none.
    """
    key = _key(name)
    table = {
        _key(other): how
        for how in PREPROCESSORS.values()
        for other in (how.name, how.label, *how.aliases)
    }
    if key in table:
        return table[key]
    near = get_close_matches(key[:100], table, n=1)
    guess = f" Did you mean {table[near[0]].name}?" if near else ""
    taught = kind_of(name)
    if not near and taught is not None and taught in PREPROCESSORS:
        guess = f" Give a {taught} map as a picture, with the preprocessor {taught}."
    raise RequestError(
        f"unknown preprocessor {shown(name, 60)!r}; choose one of {', '.join(PREPROCESSORS)}."
        f"{guess}"
    )


def misfit(name: str, kind: str | None) -> str | None:
    """A warning if the maps of a preprocessor are not what networks of this kind follow."""
    how = resolve_preprocessor(name)
    if kind is None or kind in how.serves:
        return None
    fitting = [p.name for p in PREPROCESSORS.values() if kind in p.serves]
    return (
        f"the preprocessor {how.name} makes no map of the kind this network follows "
        f"({KINDS.get(kind, kind)}); use {', '.join(fitting)}"
    )


def _at(
    how: Preprocessor, pixels: Pixels, options: Mapping[str, Value], resolution: int | None
) -> Pixels:
    height, width = pixels.shape[:2]
    if resolution is None or resolution == min(height, width):
        return how.run(pixels, **options)
    found = how.run(resized(pixels, _brought(width, height, resolution)), **options)
    return resized(found, (width, height), hard=how.hard)


def _brought(width: int, height: int, shorter: int) -> tuple[int, int]:
    factor = shorter / min(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _with_hole(pixels: Pixels, hole: NDArray[np.bool_], kind: str) -> ControlMap:
    shown_pixels = pixels.copy()
    shown_pixels[hole] = 0
    notes: tuple[str, ...] = ()
    if not hole.any():
        notes = ("the mask is empty, so the control network sees the whole picture",)
    return ControlMap(shown_pixels, hole if kind == "unknown" else None, notes)


def _check_pixels(pixels: Pixels) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise RequestError(
            f"a preprocessor takes pictures (H, W, 3) of bytes; got {pixels.dtype} of shape "
            f"{pixels.shape}"
        )


def _check_mask(how: Preprocessor, pixels: Pixels, mask: NDArray[np.float32] | None) -> None:
    if how.masked and mask is None:
        raise RequestError(f"the preprocessor {how.name} needs a mask of what is to be painted")
    if not how.masked and mask is not None:
        raise RequestError(f"the preprocessor {how.name} takes no mask; leave it out")
    if mask is not None and mask.shape != pixels.shape[:2]:
        raise RequestError(
            f"the mask is {mask.shape[-1]}x{mask.shape[0]} and the picture "
            f"{pixels.shape[1]}x{pixels.shape[0]}; give a mask of the picture's size"
        )


def check_resolution(how: Preprocessor, resolution: int) -> None:
    """Raise RequestError for a resolution out of range, or one without effect."""
    if not how.scaled:
        raise RequestError(
            f"the preprocessor {how.name} gives the same at any resolution; leave resolution out"
        )
    if not LEAST_RESOLUTION <= resolution <= MOST_RESOLUTION:
        raise RequestError(
            f"resolution must be from {LEAST_RESOLUTION} to {MOST_RESOLUTION} pixels; "
            f"got {shown(resolution, 40)}"
        )


def _check_length(pixels: Pixels, resolution: int) -> None:
    height, width = pixels.shape[:2]
    longer = max(_brought(width, height, resolution))
    if longer > _LONGEST:
        raise RequestError(
            f"a picture of {width}x{height} at resolution {resolution} would be {longer} pixels "
            f"long, more than {_LONGEST}; lower resolution"
        )


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
