"""How a picture is made to fit a vision tower, differentiably.

Shapes: B pictures, H W pixels, S side of what the tower sees.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from safelight.models.clip import IMAGE_DEVIATION, IMAGE_MEAN

Resample = Literal["bicubic", "bilinear"]
Fit = Literal["crop", "squash"]


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done to a picture before a vision tower sees it.

    side: S, in pixels. fit: "crop" brings the shorter side to `shorter` (None: S) and cuts the
    middle out, as CLIP was trained; "squash" brings both sides to S. mean and deviation are those
    of red, green and blue in [0, 1].
    """

    side: int
    mean: tuple[float, ...] = IMAGE_MEAN
    deviation: tuple[float, ...] = IMAGE_DEVIATION
    resample: Resample = "bicubic"
    fit: Fit = "crop"
    shorter: int | None = None


def images_of(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """A picture (H, W, 3) as one image (1, 3, H, W) in [-1, 1], float32."""
    plain = torch.tensor(pixels, device=device)  # a copy: the pixels may be read-only
    return (plain.permute(2, 0, 1)[None].float() / 127.5) - 1


def prepared(images: Tensor, how: Preparation) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] as the tower takes them: (B, 3, S, S) float32.

    They are resampled with a filter as wide as the step (no aliasing, as Pillow does) and clamped
    to [-1, 1], as whole levels of grey would be; gradients reach the pixels.
    """
    x = images.float()
    height, width = x.shape[-2:]
    size = _resized(height, width, how)
    if size != (height, width):
        x = F.interpolate(x, size=size, mode=how.resample, antialias=True, align_corners=False)
    top, left = (size[0] - how.side) // 2, (size[1] - how.side) // 2
    x = x[..., top : top + how.side, left : left + how.side].clamp(-1, 1)
    mean = x.new_tensor(how.mean)[:, None, None]
    deviation = x.new_tensor(how.deviation)[:, None, None]
    return ((x + 1) / 2 - mean) / deviation


def _resized(height: int, width: int, how: Preparation) -> tuple[int, int]:
    """(height, width) before the cut; the longer side is rounded down."""
    if how.fit == "squash":
        return how.side, how.side
    shorter = how.shorter or how.side
    if height <= width:
        return shorter, shorter * width // height
    return shorter * height // width, shorter
