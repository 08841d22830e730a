"""CIELAB of many pixels at once, there and back; sRGB under D65.

The numbers of `safelight.measures.colours`, in float32 and by tables where a pixel has only 256
levels. IEC 61966-2-1 and CIE 15.
"""

import numpy as np
from numpy.typing import NDArray

from safelight.canvas.arrays import Floats, Pixels, rounded

_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_UNIT = _XYZ / _XYZ.sum(axis=1, keepdims=True)  # white becomes (1, 1, 1)
_BACK = np.linalg.inv(_UNIT)
_CUT = 6 / 29
_STEPS = 4096


def _linear(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


_LINEAR = _linear(np.arange(256) / 255).astype(np.float32)
_ROOTS = np.linspace(0, 1, _STEPS + 1)
# sRGB levels by the square root of linear light: near black the curve itself is too steep to sample
_LEVELS = np.where(
    _ROOTS**2 <= 0.0031308, _ROOTS**2 * 12.92, 1.055 * _ROOTS ** (2 / 2.4) - 0.055
).astype(np.float32) * np.float32(255)


def to_lab(pixels: Pixels) -> Floats:
    """CIELAB of pixels (..., 3): L* in 0 to 100, a* and b* about -128 to 127; float32."""
    ratio = _LINEAR[pixels] @ _UNIT.T.astype(np.float32)
    root = np.where(
        ratio > np.float32(_CUT**3),
        np.cbrt(ratio),
        ratio * np.float32(1 / (3 * _CUT**2)) + np.float32(4 / 29),
    )
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def to_pixels(lab: Floats) -> Pixels:
    """The nearest sRGB pixels (..., 3) of CIELAB colours; colours outside sRGB are clipped."""
    y = (lab[..., 0] + np.float32(16)) * np.float32(1 / 116)
    root = np.stack([y + lab[..., 1] / np.float32(500), y, y - lab[..., 2] / np.float32(200)], -1)
    ratio = np.where(
        root > np.float32(_CUT),
        root * root * root,
        np.float32(3 * _CUT**2) * (root - np.float32(4 / 29)),
    )
    light = np.clip(ratio @ _BACK.T.astype(np.float32), 0, 1)
    place = np.sqrt(light) * np.float32(_STEPS)
    below = np.minimum(place.astype(np.int32), _STEPS - 1)
    part = place - below
    return rounded(_LEVELS[below] * (1 - part) + _LEVELS[below + 1] * part)
