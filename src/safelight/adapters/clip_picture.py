"""Pictures as CLIP's vision towers were trained to see them, bit for bit as Transformers does.

Shapes: H W pixels, S side of the picture that the tower sees.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safelight.errors import RequestError
from safelight.models.clip import IMAGE_DEVIATION, IMAGE_MEAN

MAX_RATIO = 64
"""Of the longer side to the shorter; a thread of pixels would grow to millions on its way."""


def clip_picture(pixels: NDArray[np.uint8], side: int) -> Tensor:
    """A picture (H, W, 3) resized, cut and normalised: (1, 3, S, S) float32.

    The shorter side becomes S (bicubic, in whole levels of grey, as Pillow does), the middle is
    cut out, and CLIP's mean and deviation are applied: what `CLIPImageProcessor` gives.
    Raises RequestError for a picture more than 64 times as long as wide.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < 1 or max(height, width) > MAX_RATIO * min(height, width):
        raise RequestError(
            f"a picture prompt may be {MAX_RATIO} times as long as wide; got {width} x {height}. "
            "Cut it."
        )
    shorter = min(height, width)
    size = (int(side * width / shorter), int(side * height / shorter))
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    cut = np.asarray(picture.crop((left, top, left + side, top + side)))
    levels = torch.from_numpy(cut.copy()).permute(2, 0, 1).float() / 255
    mean = torch.tensor(IMAGE_MEAN)[:, None, None]
    deviation = torch.tensor(IMAGE_DEVIATION)[:, None, None]
    return ((levels - mean) / deviation)[None]
