"""Maps that a person gives as pictures, with a look at whether they are such maps at all.

Depth, normals, poses and segments are found by networks of their own, or by hand; here they pass.
A map that looks like something else is not refused, since it may be meant: it is warned of.

Shapes: H W pixels.
"""

import numpy as np

from safelight.preprocessors.filters import Pixels

_COLOURED = 12  # levels by which channels may differ in a map that is grey but for JPEG
_SHARE = 0.02  # of the pixels that may be something else
_SEGMENTS = 400  # colours of a segment map; ADE20K has 150
_NEAR = 32  # levels within which black is black and white is white, but for JPEG
_STEP = 16  # colours this near count as one


def depth(pixels: Pixels, *, nearest: str = "white") -> Pixels:
    """The map as it is; inverted if what is nearest is black in it: networks know white as near."""
    return 255 - pixels if nearest == "black" else pixels.copy()


def depth_doubts(pixels: Pixels) -> tuple[str, ...]:
    """Warnings where a picture is no depth map: it has colours, or one value everywhere."""
    if _coloured(pixels) > _SHARE:
        return (
            f"this does not look like a depth map: {_coloured(pixels):.0%} of it is coloured, and a"
            " depth map is grey, white where things are near",
        )
    if int(pixels.max()) - int(pixels.min()) < 2:
        return ("this depth map has one value everywhere, so it says nothing",)
    return ()


def normal_doubts(pixels: Pixels) -> tuple[str, ...]:
    """Warnings where a picture is no map of normals: vectors not of unit length, or facing away."""
    vectors = pixels.astype(np.float64) / 127.5 - 1
    length = np.sqrt(np.square(vectors).sum(axis=2))
    unlike = float(np.mean(np.abs(length - 1) > 0.25))
    black = float(np.mean(pixels.max(axis=2) < 8))  # a background without a surface
    if unlike - black > 0.25:
        return (
            f"this does not look like a map of normals: {unlike:.0%} of its colours, read as "
            "vectors, are not of length 1; red is left to right, green down to up, blue towards us",
        )
    away = float(np.mean((vectors[:, :, 2] < -0.2) & (pixels.max(axis=2) >= 8)))
    if away > 0.25:
        return (f"{away:.0%} of this map of normals faces away from the camera: blue is too dark",)
    return ()


def pose_doubts(pixels: Pixels) -> tuple[str, ...]:
    """Warnings where a picture is no pose: coloured limbs on black."""
    dark = float(np.mean(pixels.max(axis=2) < 32))
    if dark < 0.5:
        return (
            f"this does not look like a pose: {1 - dark:.0%} of it is not black; a pose is drawn "
            "as coloured limbs on black",
        )
    if _coloured(pixels) == 0:
        return ("this does not look like a pose: it has no coloured limbs",)
    return ()


def segment_doubts(pixels: Pixels) -> tuple[str, ...]:
    """Warnings where a picture is no map of segments: flat areas of few colours."""
    coarse = pixels.astype(np.int64) // _STEP
    colours = len(np.unique((coarse[:, :, 0] * 256 + coarse[:, :, 1]) * 256 + coarse[:, :, 2]))
    flat = _flat(pixels)
    if colours > _SEGMENTS or flat < 0.8:
        return (
            f"this does not look like a map of segments: it has {colours} colours, and {flat:.0%} "
            "of neighbouring pixels are equal; each kind of thing is one flat colour",
        )
    return ()


def line_doubts(pixels: Pixels) -> tuple[str, ...]:
    """Warnings where a map of edges or lines is mostly white: it is probably not inverted yet."""
    bright = float(np.mean(pixels.min(axis=2) > 127))
    if bright > 0.5:
        return (
            f"{bright:.0%} of this map is white; networks of edges and lines expect white lines on "
            "black: use the preprocessor invert",
        )
    return ()


def is_lines(pixels: Pixels) -> bool:
    """Whether a picture is a finished map of thin lines: some white, and all else black."""
    bright = float(np.mean(pixels.min(axis=2) > 255 - _NEAR))
    dark = float(np.mean(pixels.max(axis=2) < _NEAR))
    return 0 < bright < 0.5 and bright + dark > 1 - _SHARE


def _coloured(pixels: Pixels) -> float:
    """The share of pixels whose channels differ."""
    spread = pixels.max(axis=2).astype(int) - pixels.min(axis=2)
    return float(np.mean(spread > _COLOURED))


def _flat(pixels: Pixels) -> float:
    """The share of neighbours that are of one colour, but for what a JPEG adds."""
    wide = pixels.astype(int)
    steps = [np.abs(np.diff(wide, axis=axis)).max(axis=2) <= 6 for axis in (0, 1)]
    return float(np.mean(np.concatenate([s.ravel() for s in steps]))) if pixels.size > 3 else 1.0
