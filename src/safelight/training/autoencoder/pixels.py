"""How far a reconstruction is from its picture, pixel by pixel and scale by scale.

Shapes: B batch, H W pixels; pictures (B, 3, H, W) in [-1, 1]. Everything is computed in float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.measures.pictures import fitting_scales, laplacian_pyramid, ms_ssim


@dataclass(frozen=True, slots=True)
class PixelWeights:
    """How much each distance counts in the sum; 0 leaves it out.

    L1 keeps the whole, the Laplacian pyramid edges and fine print, MS-SSIM contrast; squares,
    counted little, press on what is far off.
    """

    l1: float = 1.0
    laplacian: float = 0.5
    ms_ssim: float = 0.1
    squares: float = 0.5
    levels: int = 4  # of the pyramid: three of details, and what is left
    window: int = 7  # of MS-SSIM, in pixels

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0 or self.levels < 1:
            raise RequestError(
                "MS-SSIM needs an odd window, and a pyramid at least 1 level; got a window of"
                f" {self.window} and {self.levels} levels"
            )


@dataclass(frozen=True, slots=True)
class PixelDistance:
    """The weighted sum of the distances, and each of them alone; scalars, means over the rows."""

    total: Tensor
    l1: Tensor
    squares: Tensor


def pixel_distance(rebuilt: Tensor, pictures: Tensor, weights: PixelWeights) -> PixelDistance:
    """The distances of reconstructions from their pictures.

    The pyramid's is the sum over the levels of the mean absolute difference. MS-SSIM counts as
    1 - MS-SSIM, with as many scales as fit the size; pictures smaller than the window go without.
    """
    rebuilt, pictures = rebuilt.float(), pictures.float()
    difference = rebuilt - pictures
    l1, squares = difference.abs().mean(), difference.square().mean()
    total = weights.l1 * l1 + weights.squares * squares
    if weights.laplacian:
        total = total + weights.laplacian * laplacian_distance(difference, weights.levels)
    if weights.ms_ssim and fitting_scales(min(pictures.shape[2:]), weights.window):
        likeness = ms_ssim(rebuilt, pictures, window=weights.window).mean()
        total = total + weights.ms_ssim * (1.0 - likeness)
    return PixelDistance(total, l1.detach(), squares.detach())


def laplacian_distance(difference: Tensor, levels: int) -> Tensor:
    """Mean absolute values of a difference's pyramid, summed over its levels: a scalar."""
    bands = laplacian_pyramid(difference, levels)
    return torch.stack([band.abs().mean() for band in bands]).sum()
