"""Pictures and captions a little changed, on the device they are on.

Colours stay as they are: a colour is a word of the caption. Nothing is mirrored: so is a side.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.training.draw import Draw


def cropped(pictures: Tensor, side: int, smallest: float, draw: Draw) -> Tensor:
    """A part of each picture (B, C, H, W) scaled to (B, C, side, side), float32.

    The part is a square of at least the share `smallest` of the area, anywhere within.
    """
    chance = draw.uniform("clip crop", 3, device=pictures.device)
    share = (smallest + (1 - smallest) * chance[:, 0]).sqrt()
    corner = (1 - share)[:, None] * (2 * chance[:, 1:] - 1)
    theta = torch.cat([torch.diag_embed(share[:, None].expand(-1, 2)), corner[..., None]], dim=2)
    size = [len(pictures), pictures.shape[1], side, side]
    grid = F.affine_grid(theta, size, align_corners=False)
    # a square that touches the edge reads half a pixel beyond it
    return F.grid_sample(pictures.float(), grid, padding_mode="border", align_corners=False)


def roughened(pictures: Tensor, blur: float, noise: float, draw: Draw) -> Tensor:
    """Pictures (B, C, H, W) mixed with a blurred copy, up to `blur` of it, and with normal noise.

    noise is the greatest standard deviation; each picture draws its own amounts below both.
    """
    chance = draw.uniform("clip roughness", 2, 1, 1, 1, device=pictures.device)
    soft = torch.lerp(pictures, binomial(pictures), blur * chance[:, 0])
    grains = draw.normal("clip grain", *pictures.shape[1:], device=pictures.device)
    return soft + noise * chance[:, 1] * grains


def binomial(pictures: Tensor) -> Tensor:
    """Pictures (B, C, H, W) weighted 1:2:1 along both sides."""
    # the mean of 2 x 2 neighbours, twice: no constant has to reach the device
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, 2, 1), 2, 1)


def thinned(tokens: Tensor, share: float, eos: int, chance: Tensor) -> Tensor:
    """Token ids (B, L) of which about `share` are left out, the others closed up.

    The first token and the first `eos` of each row are kept; rows are filled up with `eos`.
    chance: (B, L) numbers in [0, 1).
    """
    length = tokens.shape[1]
    place = torch.arange(length, device=tokens.device)
    is_end = tokens == eos
    end = torch.where(is_end.any(1), is_end.int().argmax(1), length - 1)[:, None]
    inner = (place > 0) & (place < end)
    gone = inner & (chance < share)
    # each kept token moves left by as many as went before it
    target = place - gone.int().cumsum(1)
    target = torch.where(gone, length, target)  # those left out fall into a column beyond the last
    result = tokens.new_full((len(tokens), length + 1), eos)
    return result.scatter_(1, target, tokens)[:, :length]
