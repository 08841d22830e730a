"""Gaussian blur of float arrays, exact to the kernel's end, without any image library."""

import numpy as np
from numpy.typing import NDArray

from safelight.canvas.arrays import Floats

FFT_FROM = 32  # radius from which the Fourier transform is quicker than adding shifted copies


def kernel(sigma: float, radius: int) -> Floats:
    """The weights (2 * radius + 1,) of a Gaussian, summing to 1."""
    at = np.arange(-radius, radius + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (at / sigma) ** 2)
    unit: Floats = (weights / weights.sum()).astype(np.float32)
    return unit


def blurred(values: Floats, sigma: tuple[float, float], radius: tuple[int, int]) -> Floats:
    """Values (H, W, ...) blurred by sigma (x, y) with kernels of `radius` (x, y).

    Beyond the edge the picture is mirrored without its last row or column (OpenCV's default).
    """
    for axis, (deviation, reach) in ((1, (sigma[0], radius[0])), (0, (sigma[1], radius[1]))):
        if deviation > 0 and reach > 0:
            values = along(values, kernel(deviation, reach), axis)
    return values


def along(values: Floats, weights: Floats, axis: int) -> Floats:
    """Values filtered by symmetric weights (2 * radius + 1,) along one axis, mirrored beyond."""
    radius = len(weights) // 2
    edges = [(0, 0)] * values.ndim
    edges[axis] = (radius, radius)
    padded = np.pad(values, edges, mode="reflect" if values.shape[axis] > 1 else "edge")
    if radius >= FFT_FROM:
        return _by_fourier(padded, weights, axis, values.shape[axis])
    return _by_shifts(padded, weights, axis, values.shape[axis])


def _by_shifts(padded: Floats, weights: Floats, axis: int, length: int) -> Floats:
    radius = len(weights) // 2

    def shifted(by: int) -> NDArray[np.float32]:
        place = [slice(None)] * padded.ndim
        place[axis] = slice(by, by + length)
        return padded[tuple(place)]

    total: Floats = shifted(radius) * weights[radius]
    for step in range(1, radius + 1):
        both = shifted(radius - step) + shifted(radius + step)
        both *= weights[radius + step]
        total += both
    return total


def _by_fourier(padded: Floats, weights: Floats, axis: int, length: int) -> Floats:
    turned = np.moveaxis(padded, axis, -1)
    size = turned.shape[-1]
    spectrum = np.fft.rfft(turned, axis=-1) * np.fft.rfft(weights, size).astype(np.complex64)
    whole = np.fft.irfft(spectrum, size, axis=-1)
    # A circular product: only the part that no end of the line has reached is a convolution.
    kept = whole[..., len(weights) - 1 : len(weights) - 1 + length]
    return np.ascontiguousarray(np.moveaxis(kept, -1, axis), np.float32)
