"""The twelve named background colours, and how far apart two colours look.

Distances are Euclidean in CIELAB (D65), so they follow the eye better than distances in sRGB: 2 is
just visible, 10 plain at a glance, and the nearest two of our twelve are 37 apart.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

RGB = tuple[int, int, int]

BACKGROUNDS: Mapping[str, RGB] = {
    "white": (248, 248, 248),
    "black": (14, 14, 14),
    "grey": (128, 128, 128),
    "red": (214, 38, 42),
    "orange": (248, 140, 24),
    "yellow": (250, 218, 50),
    "green": (46, 152, 62),
    "teal": (28, 172, 172),
    "blue": (30, 100, 220),
    "purple": (140, 40, 160),
    "pink": (248, 152, 192),
    "brown": (120, 72, 38),
}
NAMES: tuple[str, ...] = tuple(BACKGROUNDS)
# Hue, saturation and value (all 0 to 1) that an object recoloured to this name is centred on.
RECOLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.995, 0.86, 0.86),
    "orange": (0.083, 0.90, 0.96),
    "yellow": (0.140, 0.80, 0.97),
    "green": (0.352, 0.72, 0.66),
    "blue": (0.605, 0.82, 0.86),
    "purple": (0.800, 0.72, 0.68),
    "pink": (0.925, 0.42, 0.97),
}
RECOLOUR_NAMES: tuple[str, ...] = tuple(RECOLOURS)
# Words that a concept's own name may hold, so that "a purple black cat" is never asked for.
COLOUR_WORDS = frozenset(
    {*NAMES, *RECOLOURS, "gray", "gold", "golden", "silver", "violet", "cyan", "magenta", "rainbow"}
)

_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _XYZ.sum(axis=1)
_CUT = 6 / 29


def lab(rgb: ArrayLike) -> NDArray[np.float64]:
    """CIELAB of sRGB colours (..., 3) in 0 to 255; IEC 61966-2-1 and CIE 15, white point D65."""
    share = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _XYZ.T / _WHITE
    root = np.where(ratio > _CUT**3, np.cbrt(ratio), ratio / (3 * _CUT**2) + 4 / 29)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


LAB: NDArray[np.float64] = lab(np.array(list(BACKGROUNDS.values())))  # (12, 3), as in NAMES


def distance(one: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """How far apart sRGB colours (..., 3) look: Euclidean in CIELAB (CIE 1976)."""
    gap: NDArray[np.float64] = np.linalg.norm(lab(one) - lab(other), axis=-1)
    return gap


def nearest_colours(rgb: ArrayLike) -> NDArray[np.int64]:
    """The index in NAMES of the background nearest to each sRGB colour (..., 3), in CIELAB."""
    gaps = np.linalg.norm(lab(rgb)[..., None, :] - LAB, axis=-1)
    nearest: NDArray[np.int64] = gaps.argmin(axis=-1)
    return nearest


def nearest_colour(rgb: ArrayLike) -> str:
    """The name of the background nearest to one sRGB colour (3,) in 0 to 255."""
    return NAMES[int(nearest_colours(np.asarray(rgb)))]


def hsv_rgb(hue: float, saturation: float, value: float) -> RGB:
    """The sRGB colour of a hue, saturation and value, each 0 to 1."""
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
