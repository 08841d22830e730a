"""What was painted goes back into the picture, and nothing else of the picture changes."""

import numpy as np

from safelight.canvas.arrays import Floats, Mask, Pixels, check_fit, rounded, size_of
from safelight.canvas.region import Region, whole
from safelight.canvas.resize import cropped
from safelight.errors import RequestError


def pasted(original: Pixels, painted: Pixels, mask: Mask, region: Region | None = None) -> Pixels:
    """The original with the painted picture blended in by the mask.

    `painted` is brought to the size of the region (of the whole picture, if None) as A1111 does:
    Lanczos, aspect kept. Pixels whose mask is 0, and all outside the region, are the original's
    byte for byte; where it is 1 they are the painted ones. `mask` has the original's size.
    Raises RequestError if it has not, or if the region sticks out of the picture.
    """
    check_fit(mask, original)
    region = region or whole(size_of(original))
    if not region.inside(whole(size_of(original))) or min(region.size) < 1:
        raise RequestError(f"{region} does not lie inside a picture of {size_of(original)}.")
    if size_of(painted) != region.size:
        painted = cropped(painted, region.size)
    result = original.copy()
    result[region.slices] = blended(region.of(original), painted, region.of(mask))
    return result


def blended(under: Pixels, over: Pixels, mask: Mask) -> Pixels:
    """Two pictures of one size mixed by the mask: 0 exactly `under`, 1 exactly `over`."""
    assert under.shape == over.shape, (under.shape, over.shape)
    check_fit(mask, under)
    share = mask[..., None]
    below = under.astype(np.float32)
    mixed: Floats = below + share * (over.astype(np.float32) - below)
    # Where the mask is 0 a painted value cannot matter: not by rounding, not by any size
    return np.where(share > 0, rounded(mixed), under)
