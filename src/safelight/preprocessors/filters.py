"""Blurs and resizing that give the same numbers on every machine, without OpenCV.

Shapes: H W pixels, C channels.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Floats = NDArray[np.float64]

_REACH = 4.0  # deviations after which a Gaussian is cut off, as OpenCV and SciPy do for floats


def blurred(x: NDArray[np.generic], sigma: float) -> Floats:
    """(H, W, C) seen through a Gaussian of `sigma` pixels; the borders mirror the inside.

    Cut off after four deviations; the mirror does not repeat the border's own pixels, as in
    OpenCV's default. Computed by Fourier transforms in float64: the time does not grow with sigma.
    """
    found = x.astype(np.float64)
    if sigma <= 0:
        return found
    for axis in (0, 1):
        found = _blurred_along(found, sigma, axis)
    return found


def _blurred_along(x: Floats, sigma: float, axis: int) -> Floats:
    radius = max(1, int(_REACH * sigma + 0.5))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    around = [(0, 0)] * x.ndim
    around[axis] = (radius, radius)
    padded = np.pad(x, around, mode="reflect" if x.shape[axis] > 1 else "edge")
    # a multiple of 64 has small factors only, which is what makes the transform fast
    length = -(-padded.shape[axis] // 64) * 64
    weights = np.fft.rfft(taps, length)
    shape = [1] * x.ndim
    shape[axis] = len(weights)
    spectrum = np.fft.rfft(padded, length, axis=axis) * weights.reshape(shape)
    whole = np.fft.irfft(spectrum, length, axis=axis)
    # what comes before 2 * radius has wrapped around
    return whole.take(np.arange(2 * radius, 2 * radius + x.shape[axis]), axis=axis)


def gradient(x: Floats) -> Floats:
    """The steepness (H, W, C) in values a pixel, by central differences; 0 across a side of 1."""
    parts = [np.gradient(x, axis=axis) if x.shape[axis] > 1 else 0.0 * x for axis in (0, 1)]
    return np.hypot(parts[0], parts[1])


def resized(pixels: Pixels, size: tuple[int, int], *, hard: bool = False) -> Pixels:
    """A picture at (width, height): averaged on the way down, Lanczos on the way up.

    hard: for maps of few values, so that none is new: each pixel is that of the nearest place; on
        the way down, where there are black and white only, it is white if anything white is in it,
        so that thin lines do not break.
    """
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    smaller = size[0] <= width and size[1] <= height
    lines = hard and smaller and bool(np.isin(pixels, (0, 255)).all())
    rule = Image.Resampling.BOX if smaller else Image.Resampling.LANCZOS
    rule = Image.Resampling.NEAREST if hard and not lines else rule
    made = np.asarray(Image.fromarray(pixels).resize(size, rule))
    return np.where(made > 0, 255, 0).astype(np.uint8) if lines else made


def grey(plane: NDArray[np.generic]) -> Pixels:
    """(H, W) values as a picture of three equal channels, rounded and clipped to 0..255."""
    flat = np.clip(np.rint(plane.astype(np.float64)), 0, 255).astype(np.uint8)
    return np.repeat(flat[:, :, None], 3, axis=2)


def as_bytes(values: Floats) -> Pixels:
    """(H, W, 3) values rounded and clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
