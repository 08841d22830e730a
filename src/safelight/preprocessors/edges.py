"""Where a picture changes: edges, lines and strokes, white on black as control networks expect.

Shapes: H W pixels.
"""

from typing import Literal

import numpy as np

from safelight.errors import RequestError
from safelight.preprocessors.filters import Pixels, blurred, gradient, grey

_STEP = float(np.sqrt(2 * np.pi))  # makes the steepest place of a blurred step as high as the step
_LEAST_CONTRAST = 16.0  # lines fainter than this are not stretched to full white


def canny(pixels: Pixels, *, low: int = 100, high: int = 200) -> Pixels:
    """Thin edges, each pixel 0 or 255: Canny's with OpenCV's 3x3 Sobel and L1 steepness.

    An edge begins where the steepest channel reaches `high` and goes on down to `low`. Canny 1986
    (doi:10.1109/TPAMI.1986.4767851). Raises RequestError without OpenCV, and if low is above high.
    """
    if low > high:
        raise RequestError(f"canny: low must not be above high; got {low} and {high}")
    try:
        import cv2
    except ImportError:
        raise RequestError(
            "the preprocessor canny needs OpenCV; install it with: pip install 'safelight[control]'"
        ) from None
    return grey(cv2.Canny(np.ascontiguousarray(pixels), low, high))


def soft_edge(pixels: Pixels, *, detail: float = 1.0, gain: float = 2.0) -> Pixels:
    """Edges as soft ridges, brighter the stronger and the larger what they bound.

    The mean over three scales, `detail` pixels and twice and four times that, of the steepness of
    the blurred picture, times its scale (Lindeberg 1998, doi:10.1023/A:1008097225773): a long
    step counts as high as it is at every scale, fine texture at the finest only. The steepest
    channel counts. `gain` multiplies; 2 makes a step of half the range white.
    """
    scales = [detail * factor for factor in (1.0, 2.0, 4.0)]
    ridges = [s * _STEP * gradient(blurred(pixels, s)).max(axis=2) for s in scales]
    return grey(gain * np.mean(ridges, axis=0))


def lineart(
    pixels: Pixels, *, width: float = 6.0, lines: Literal["dark", "light"] = "dark"
) -> Pixels:
    """Lines of a drawing: what is darker (or lighter) than its surroundings in every channel.

    The surroundings are a blur of `width` pixels; A1111's `lineart_standard`. The typical line
    becomes half white; a picture without contrast stays black.
    """
    x = pixels.astype(np.float64)
    around = blurred(pixels, width)
    depth = (around - x if lines == "dark" else x - around).min(axis=2).clip(0, 255)
    clear = depth[depth > 8]
    typical = max(_LEAST_CONTRAST, float(np.median(clear)) if len(clear) else 0.0)
    return grey(np.floor((depth / typical * 127).clip(0, 255)))


def scribble(pixels: Pixels, *, threshold: int = 32, width: float = 5.0) -> Pixels:
    """Thick strokes, each pixel 0 or 255: a difference of Gaussians, cut at half of `threshold`.

    A stroke is what is darker in every channel, seen through half a pixel, than the surroundings of
    `width` pixels; A1111's `scribble_xdog`, without the overflow that leaves holes in black strokes
    there. Winnemoeller et al. 2012 (doi:10.1016/j.cag.2012.03.004).
    """
    depth = (blurred(pixels, width) - blurred(pixels, 0.5)).min(axis=2)
    # steps of whole numbers, upwards: 255 - floor(255 - depth), as programs with bytes count
    return grey(np.where(2 * np.ceil(depth - 1e-6) > threshold, 255, 0))
