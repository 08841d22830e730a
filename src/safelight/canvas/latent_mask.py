"""A mask at the size of the latents, by the rule of the tool whose results are wanted."""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from safelight.canvas.arrays import Mask, Size, mask_image, size_of
from safelight.errors import RequestError


def a1111(mask: Mask, size: Size) -> Mask:
    """Resized (bicubic, 256 levels), then rounded: a cell is painted or kept."""
    return np.around(a1111_soft(mask, size))


def a1111_soft(mask: Mask, size: Size) -> Mask:
    """Resized (bicubic, 256 levels) and left soft, as with A1111's soft inpainting."""
    levels = mask_image(mask).resize(size, Image.Resampling.BICUBIC)
    soft: Mask = np.asarray(levels, np.float32) / np.float32(255)
    return soft


def diffusers(mask: Mask, size: Size) -> Mask:
    """Cut at a half, then the first pixel of each cell: Diffusers' nearest neighbour."""
    width, height = size
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    corners: Mask = mask[np.ix_(rows, columns)]
    return (corners >= np.float32(0.5)).astype(np.float32)


def average(mask: Mask, size: Size) -> Mask:
    """The mean of each cell: how much of the cell is painted."""
    mean: Mask = _cells(mask, size).mean(axis=(1, 3))
    return mean


def cover(mask: Mask, size: Size) -> Mask:
    """1 for every cell of which any part is painted, so that no pixel of the mask is missed."""
    most: Mask = _cells(mask, size).max(axis=(1, 3))
    return (most > 0).astype(np.float32)


RULES: Mapping[str, Callable[[Mask, Size], Mask]] = {
    "a1111": a1111,
    "a1111-soft": a1111_soft,
    "diffusers": diffusers,
    "average": average,
    "cover": cover,
}


def latent_mask(mask: Mask, factor: int = 8, rule: str = "a1111") -> Mask:
    """The mask (H / factor, W / factor) of latent cells, by the rule of that name in RULES.

    Raises RequestError for an unknown rule, or a size that is no multiple of the factor.
    """
    if rule not in RULES:
        raise RequestError(f"a mask becomes latent by {', '.join(RULES)}; got {rule!r}.")
    width, height = size_of(mask)
    if width % factor or height % factor:
        raise RequestError(
            f"a mask for latents has sides that are multiples of {factor}; "
            f"got {width} x {height}. Resize picture and mask first."
        )
    return RULES[rule](mask, (width // factor, height // factor))


def _cells(mask: Mask, size: Size) -> Mask:
    width, height = size
    return mask.reshape(height, mask.shape[0] // height, width, mask.shape[1] // width)
