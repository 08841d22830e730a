"""Masks: read from a picture, blurred, grown, shrunk, inverted, cut at a threshold, united.

A mask says how much of each pixel is painted anew: 0 keeps it, 1 paints it. Every function here
returns values in 0 to 1. `grown` and `shrunk` work on soft masks too (the largest or smallest value
within the radius).
"""

from collections.abc import Callable, Mapping
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from safelight.canvas.arrays import Mask, Pixels, mask_levels, mask_of
from safelight.canvas.gaussian import blurred as gaussian
from safelight.errors import RequestError

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's "L"


def by_luminance(pixels: Pixels, alpha: NDArray[np.uint8] | None = None) -> Mask:
    """White paints, black keeps, grey in between; transparency is not looked at."""
    return mask_of(np.rint(pixels.astype(np.float32) @ LUMA).clip(0, 255).astype(np.uint8))


def by_transparency(pixels: Pixels, alpha: NDArray[np.uint8] | None) -> Mask:
    """What is transparent is painted, as where somebody erased a part of a picture: alpha 0 -> 1.

    The rule of OpenAI's image edits. Raises RequestError if there is no alpha channel.
    """
    return mask_of(255 - _alpha(alpha))


def by_opacity(pixels: Pixels, alpha: NDArray[np.uint8] | None) -> Mask:
    """What is opaque is painted, as strokes on an empty layer: alpha 255 -> 1.

    A1111's rule for masks with alpha. Raises RequestError if there is no alpha channel.
    """
    return mask_of(_alpha(alpha))


READINGS: Mapping[str, Callable[[Pixels, NDArray[np.uint8] | None], Mask]] = {
    "luminance": by_luminance,
    "transparent": by_transparency,
    "opaque": by_opacity,
}


def read_mask(pixels: Pixels, alpha: NDArray[np.uint8] | None, reading: str | None = None) -> Mask:
    """The mask that a mask file's picture means, by the reading of that name in READINGS.

    Without a reading a picture that is opaque everywhere is read by its luminance. One with
    transparent parts is refused: half the tools paint them, half keep them. Raises RequestError.
    """
    if reading is None:
        if alpha is not None and alpha.min() < 255:
            raise RequestError(
                "the mask has transparent parts, which tools read in opposite ways; say which "
                "is painted: transparent (an erased part), opaque (strokes on an empty layer) or "
                "luminance (white, whatever the transparency)."
            )
        reading = "luminance"
    if reading not in READINGS:
        raise RequestError(f"a mask is read by {', '.join(READINGS)}; got {reading!r}.")
    return READINGS[reading](pixels, alpha)


def blurred(mask: Mask, sigma: float | tuple[float, float]) -> Mask:
    """The mask with a soft border: a Gaussian of `sigma` pixels, or (x, y), in 256 levels.

    A1111's "mask blur": kernels of 2 * int(2.5 * sigma + 0.5) + 1, mirrored at the picture's edge.
    What lies further than the kernel's half from the border stays exactly 0 or 1.
    Raises RequestError for a negative sigma.
    """
    x, y = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    if not (0 <= x < np.inf and 0 <= y < np.inf):
        raise RequestError(f"the blur of a mask is 0 or more pixels; got {sigma}.")
    if max(x, y) == 0:
        return mask.copy()
    # Rounded to a file's levels, as A1111 does: no trace of the sum's own rounding is left over
    return mask_of(mask_levels(gaussian(mask, (x, y), (_reach(x), _reach(y)))))


def grown(mask: Mask, radius: int) -> Mask:
    """The mask grown by `radius` pixels in every direction, with round corners.

    Each pixel takes the largest value within the distance. Raises RequestError if negative.
    """
    _check_radius(radius)
    if radius == 0:
        return mask.copy()
    result = mask.copy()
    height = mask.shape[0]
    for down, rows in _wide_maxima(mask, radius):
        if down >= height:
            continue
        np.maximum(result[: height - down], rows[down:], out=result[: height - down])
        np.maximum(result[down:], rows[: height - down], out=result[down:])
    return result


def shrunk(mask: Mask, radius: int) -> Mask:
    """The mask shrunk by `radius` pixels, with round corners; not from the picture's edge.

    Each pixel takes the smallest value within the distance. Raises RequestError if negative.
    """
    return inverted(grown(inverted(mask), radius))


def inverted(mask: Mask) -> Mask:
    """What was painted is kept, and the other way round."""
    return np.float32(1) - mask


def hardened(mask: Mask, threshold: float = 0.5) -> Mask:
    """1 where the mask is at least the threshold (above 0, at most 1), else 0.

    Raises RequestError for a threshold outside.
    """
    if not 0 < threshold <= 1:
        raise RequestError(f"the threshold of a mask lies above 0 and up to 1; got {threshold}.")
    return (mask >= np.float32(threshold)).astype(np.float32)


def united(*masks: Mask) -> Mask:
    """The largest of the masks' values at each pixel.

    Raises RequestError if there is none, or they differ in size.
    """
    if not masks:
        raise RequestError("a union needs at least one mask.")
    for mask in masks[1:]:
        if mask.shape != masks[0].shape:
            raise RequestError(
                "masks to unite must have one size; "
                f"got {masks[0].shape[1]} x {masks[0].shape[0]} and "
                f"{mask.shape[1]} x {mask.shape[0]}."
            )
    union: Mask = reduce(np.maximum, masks[1:], masks[0].copy())
    return union


def doubled(mask: Mask) -> Mask:
    """Twice the mask, at most 1: what A1111 lays the original back under for a whole picture.

    The soft border then lies outside the mask's half line, and all within it is painted wholly.
    """
    twice: Mask = np.minimum(mask * np.float32(2), np.float32(1))
    return twice


def _reach(sigma: float) -> int:
    return int(2.5 * sigma + 0.5)


def _alpha(alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if alpha is None:
        raise RequestError(
            "the mask is to be read from its transparency, but its file has no alpha channel. "
            "Save it as PNG with alpha, or read its luminance."
        )
    return alpha


def _check_radius(radius: int) -> None:
    if radius < 0:
        raise RequestError(f"a mask is grown or shrunk by 0 or more pixels; got {radius}.")


def _wide_maxima(mask: Mask, radius: int) -> list[tuple[int, Mask]]:
    """For each row of a disc's upper half: how far up, and the maximum over the row's width.

    A maximum over any width is that of two overlapping windows of the next lower power of two.
    """
    width = mask.shape[1]
    windows = [np.pad(mask, ((0, 0), (radius, radius)))]  # beyond the edge: 0
    while 2 ** len(windows) <= 2 * radius + 1:
        half, wide = 2 ** (len(windows) - 1), windows[-1]
        windows.append(np.maximum(wide[:, :-half], wide[:, half:]))
    rows = []
    for down in range(radius + 1):
        half_width = int((radius**2 - down**2) ** 0.5)
        length = 2 * half_width + 1
        power = length.bit_length() - 1
        first, second = radius - half_width, radius + half_width + 1 - 2**power
        window = windows[power]
        rows.append(
            (down, np.maximum(window[:, first : first + width], window[:, second : second + width]))
        )
    return rows
