"""A map brought to the edges of a picture: the guided filter.

He, Sun and Tang 2013 (doi:10.1109/TPAMI.2012.213). Shapes: B pictures, H W pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def guided_filter(values: Tensor, guide: Tensor, radius: int, *, softness: float = 1e-3) -> Tensor:
    """Maps (B, H, W) that change where pictures (B, 3, H, W) in [0, 1] do, and nowhere else.

    In each square of 2 radius + 1 pixels the result is a linear function of the colours; softness
    is the variance of colour below which a change is no edge.
    """
    values = values[:, None]
    mean, level = _box(guide, radius), _box(values, radius)
    covariance = _box(guide * values, radius) - mean * level  # (B, 3, H, W)
    products = guide[:, :, None] * guide[:, None]  # (B, 3, 3, H, W)
    spread = (
        _box(products.flatten(1, 2), radius).view_as(products) - mean[:, :, None] * mean[:, None]
    )
    matrix = spread.permute(0, 3, 4, 1, 2) + softness * torch.eye(3, device=guide.device)
    slope = torch.linalg.solve(matrix, covariance.movedim(1, -1)[..., None])[..., 0].movedim(-1, 1)
    offset = level - (slope * mean).sum(1, keepdim=True)
    return (_box(slope, radius) * guide).sum(1) + _box(offset, radius)[:, 0]


def _box(x: Tensor, radius: int) -> Tensor:
    """The mean over a square around each pixel; the rim is repeated outwards."""
    side = 2 * radius + 1
    x = F.pad(x, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(x, (side, 1), stride=1), (1, side), stride=1)
