"""A1111's fill: the colours around a mask, bled into it by Gaussian blurs laid over each other."""

import numpy as np
from PIL import Image, ImageFilter

from safelight.canvas.arrays import Mask, Pixels, check_fit, mask_image
from safelight.canvas.masks import inverted

# Radius in pixels and how often its picture is laid on: wide first, so that near colours win
LAYERS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


def bled(pixels: Pixels, mask: Mask) -> Pixels:
    """The picture with the masked part filled by the colours around it, smeared inwards.

    Level for level A1111's masked content "fill", in Pillow's premultiplied 8 bits. Where even the
    widest blur reaches nothing (A1111 leaves black) the mean colour outside the mask is taken, and
    that of the whole picture if all is masked. Pixels whose mask is 0 stay.
    """
    check_fit(mask, pixels)
    known = Image.new("RGBa", (pixels.shape[1], pixels.shape[0]))
    premultiplied = Image.fromarray(pixels).convert("RGBA").convert("RGBa")
    known.paste(premultiplied, mask=mask_image(inverted(mask)))
    layers = Image.new("RGBA", known.size)
    for radius, times in LAYERS:
        smeared = known.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            layers.alpha_composite(smeared)
    result = np.array(layers)
    filled: Pixels = np.where(result[..., 3:] > 0, result[..., :3], mean_colour(pixels, mask))
    return filled


def mean_colour(pixels: Pixels, mask: Mask) -> Pixels:
    """The mean colour (3,) of what is kept; of the whole picture if nothing is."""
    keep = inverted(mask)
    if keep.sum() <= 0:
        keep = np.ones_like(mask)
    mean = np.tensordot(keep, pixels.astype(np.float32), 2) / keep.sum()
    colour: Pixels = np.rint(mean).astype(np.uint8)
    return colour
