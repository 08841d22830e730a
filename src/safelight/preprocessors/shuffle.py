"""Content shuffle: a picture's colours and textures without its layout.

Shapes: H W pixels, h w points of a coarse grid.
"""

from random import Random

import numpy as np
from PIL import Image

from safelight.preprocessors.filters import Floats, Pixels, as_bytes


def shuffled(pixels: Pixels, *, seed: int = 0, patches: int = 2) -> Pixels:
    """Each pixel taken from a place that a smooth random flow says, so the layout is lost.

    The flow has about `patches` waves along the shorter side and reaches from border to border;
    between pixels it interpolates linearly. The same seed and size give the same flow everywhere.
    Zhang et al. 2023 (arXiv:2302.05543), ControlNet 1.1's shuffle; 2 patches are its 256 of 512.
    """
    height, width = pixels.shape[:2]
    dice = Random(f"content shuffle {seed}")
    cell = max(1, min(height, width) // patches)
    across = _field(height, width, cell, dice) * (width - 1)
    down = _field(height, width, cell, dice) * (height - 1)
    return as_bytes(_taken(pixels, across, down))


def _field(height: int, width: int, cell: int, dice: Random) -> Floats:
    """A smooth random field (H, W), whose least value is 0 and whose greatest is 1."""
    shape = (height // cell + 2, width // cell + 2)
    coarse = np.array([[dice.random() for _ in range(shape[1])] for _ in range(shape[0])])
    fine = Image.fromarray(coarse.astype(np.float32)).resize(
        (width + 2 * cell, height + 2 * cell), Image.Resampling.BICUBIC
    )
    field = np.asarray(fine, np.float64)[cell : cell + height, cell : cell + width]
    least, most = field.min(), field.max()
    return np.zeros_like(field) if least == most else (field - least) / (most - least)


def _taken(pixels: Pixels, x: Floats, y: Floats) -> Floats:
    """The picture's values at (x, y), (H, W) each within the picture; linear between pixels."""
    height, width = pixels.shape[:2]
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[:, :, None], (y - top)[:, :, None]
    values = pixels.astype(np.float64)
    upper = values[top, left] * (1 - across) + values[top, right] * across
    lower = values[bottom, left] * (1 - across) + values[bottom, right] * across
    blended: Floats = upper * (1 - down) + lower * down
    return blended
