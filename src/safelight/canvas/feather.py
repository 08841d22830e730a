"""A soft border that lies inside the mask, so that nothing outside it changes."""

import numpy as np

from safelight.canvas.arrays import Mask
from safelight.canvas.distance import nearest
from safelight.errors import RequestError


def feathered(mask: Mask, width: float) -> Mask:
    """The mask rising from its border to its full value over `width` pixels, inwards.

    What was 0 stays 0. The picture's edge is no border. A mask whose thickest part is thinner than
    four widths rises over a quarter of that, so that a thin one is still painted wholly along its
    middle. Raises RequestError for a negative width.
    """
    if not 0 <= width < np.inf:
        raise RequestError(f"the soft border of a mask is 0 or more pixels wide; got {width}.")
    outside = mask <= 0
    if width == 0 or outside.all() or not outside.any():
        return mask.copy()
    inside = nearest(outside).distance()  # 1 beside the border
    rise = max(min(width, float(inside.max()) / 4), 1.0)
    share = np.clip(inside / np.float32(rise + 1), 0, 1)
    soft: Mask = mask * (share * share * (3 - 2 * share))
    return soft
