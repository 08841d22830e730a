"""Maps made of a picture's colours: unchanged, inverted, cut in two, blurred, coarsened.

Shapes: H W pixels.
"""

import numpy as np

from safelight.preprocessors.filters import Pixels, as_bytes, blurred, grey, resized


def unchanged(pixels: Pixels) -> Pixels:
    """The picture itself: it is a map already, or the network takes pictures."""
    return pixels.copy()


def inverted(pixels: Pixels) -> Pixels:
    """Every value taken from 255: a black drawing on white becomes white on black."""
    return 255 - pixels


def thresholded(pixels: Pixels, *, level: int = 127) -> Pixels:
    """White where every channel is above `level`, else black."""
    return grey(np.where(pixels.min(axis=2) > level, 255, 0))


def blurry(pixels: Pixels, *, sigma: float = 9.0) -> Pixels:
    """The picture seen through a Gaussian of `sigma` pixels."""
    return as_bytes(blurred(pixels, sigma))


def tile(pixels: Pixels, *, factor: float = 1.0) -> Pixels:
    """The picture without its detail: averaged down by `factor`, and enlarged again.

    1 leaves it as it is: a tile network then adds detail to what it sees.
    """
    height, width = pixels.shape[:2]
    small = (max(1, int(width / factor)), max(1, int(height / factor)))
    return resized(resized(pixels, small), (width, height)).copy()


def colour(pixels: Pixels, *, cell: int = 64) -> Pixels:
    """A grid of cells of about `cell` pixels a side, each in its mean colour.

    As many whole cells as fit divide the sides evenly, at least one.
    """
    height, width = pixels.shape[:2]
    cells = (max(1, width // cell), max(1, height // cell))
    return resized(resized(pixels, cells), (width, height), hard=True)
