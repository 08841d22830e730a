"""The named colours on tensors: CIELAB of whole pictures, and which name is nearest to a colour.

The same numbers as `safelight.measures.colours` gives, on any device. Colours are sRGB in [0, 1].
"""

import numpy as np
import torch
from torch import Tensor

from safelight.measures import colours

# sRGB primaries to XYZ over the white point of D65 (IEC 61966-2-1)
_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_CUT = 6 / 29


def lab(rgb: Tensor) -> Tensor:
    """CIELAB of sRGB colours under D65: (..., 3) in [0, 1] -> (..., 3), L* in [0, 100]."""
    linear = torch.where(
        rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    )
    xyz = torch.tensor(_XYZ, device=rgb.device, dtype=rgb.dtype)
    # A sum and no matrix product: a GPU may round the factors of that to 10 bits.
    ratio = (linear[..., None, :] * xyz).sum(dim=-1) / xyz.sum(dim=1)
    root = torch.where(
        ratio > _CUT**3, ratio.clamp(min=_CUT**3) ** (1 / 3), ratio / (3 * _CUT**2) + 4 / 29
    )
    x, y, z = root.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


def unit_colours(pictures: Tensor) -> Tensor:
    """The colours of pictures (..., 3, H, W) in [-1, 1], in [0, 1]: (..., H, W, 3), float32."""
    return (pictures.float().clamp(-1, 1) + 1).movedim(-3, -1) / 2


def nearest_name(rgb: Tensor) -> Tensor:
    """The place in colours.NAMES of the colour nearest in CIELAB: (..., 3) -> (...), int64."""
    known = torch.tensor(np.asarray(colours.LAB), device=rgb.device, dtype=rgb.dtype)
    apart = (lab(rgb)[..., None, :] - known).square().sum(dim=-1)
    return apart.argmin(dim=-1)


def hue_chroma(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The hue angle in radians, from -pi to pi, and the chroma of CIELAB colours (..., 3)."""
    a, b = pixels[..., 1], pixels[..., 2]
    return torch.atan2(b, a), torch.hypot(a, b)
