"""The evaluator: a small residual network that names what a picture shows and how it is drawn.

It judges generated pictures, so it learns from real ones alone and nothing of it is used in
drawing. Its features stand where others use Inception's: distances in them bear its name.

Shapes: B batch, S pixels of a side, K concepts, T styles, D width of the features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models.layers import Conv2d, GroupNorm, LayerNorm, Linear

_EPS = 1e-5


class Judgement(NamedTuple):
    """What the evaluator says of pictures, in float32."""

    concepts: Tensor  # (B, K) logits
    styles: Tensor  # (B, T) logits
    features: Tensor  # (B, D)


@dataclass(frozen=True, slots=True)
class Labels:
    """What the logits stand for, in their order: hexcodes of concepts and names of styles."""

    concepts: tuple[str, ...]
    styles: tuple[str, ...]


@dataclass(frozen=True)
class EvaluatorConfig:
    """The shape of an evaluator: a number of residual blocks at a width, for each level.

    The picture is brought to image_size; the first level sees half of that, each other half of
    the one before. widths must be multiples of groups.
    """

    classes: int
    styles: int
    widths: tuple[int, ...] = (32, 64, 128, 192)
    blocks: tuple[int, ...] = (2, 1, 1, 1)
    image_size: int = 64
    groups: int = 8
    dropout: float = 0.1

    def build(self) -> "Evaluator":
        return Evaluator(self)


class Evaluator(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] to logits of concepts and styles, and features.

    The concept is read off the last level alone. A style shows in edges and shades of every size,
    which the last level has no use for: it is read off the means and deviations of all levels, as
    in Gatys et al. 2016 (doi:10.1109/CVPR.2016.265) and Huang and Belongie 2017 (arXiv:1703.06868).
    """

    __call__: Callable[..., Judgement]

    def __init__(self, config: EvaluatorConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Conv2d(12, config.widths[0], 3, padding=1)
        self.levels = nn.ModuleList()
        width = config.widths[0]
        for level, (wider, count) in enumerate(zip(config.widths, config.blocks, strict=True)):
            blocks = []
            for number in range(count):
                halve = level > 0 and number == 0
                blocks.append(EvaluatorBlock(width, wider, groups=config.groups, halve=halve))
                width = wider
            self.levels.append(nn.Sequential(*blocks))
        self.norm = GroupNorm(config.groups, width, _EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.concept_head = Linear(width, config.classes)
        self.style_norm = LayerNorm(2 * sum(config.widths), _EPS)
        self.style_head = Linear(2 * sum(config.widths), config.styles)

    def forward(self, pictures: Tensor) -> Judgement:
        x = self.stem(F.pixel_unshuffle(at_size(pictures, self.config.image_size), 2))
        statistics = []
        for level in self.levels:
            x = level(x)
            statistics += _statistics(x)
        features = F.silu(self.norm(x)).float().mean(dim=(2, 3))
        concepts = self.concept_head(self.dropout(features))
        styles = self.style_head(self.style_norm(torch.cat(statistics, dim=1)))
        return Judgement(concepts.float(), styles.float(), features)

    def features(self, pictures: Tensor) -> Tensor:
        """The features alone: (B, 3, S, S) -> (B, D) float32."""
        return self(pictures).features


def _statistics(x: Tensor) -> list[Tensor]:
    """The mean and the standard deviation of each channel: twice (B, C), float32."""
    x = x.float()
    return [x.mean(dim=(2, 3)), (x.var(dim=(2, 3), correction=0) + _EPS).sqrt()]


class EvaluatorBlock(nn.Module):
    """Norm, SiLU, conv, twice, beside a shortcut; with `halve`, to half the size by averaging.

    (B, C_in, h, w) -> (B, C_out, h, w) or (B, C_out, h/2, w/2). He et al. 2016 (arXiv:1603.05027).
    """

    __call__: Callable[..., Tensor]

    def __init__(self, in_width: int, out_width: int, *, groups: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.norm1 = GroupNorm(groups, in_width, _EPS)
        self.conv1 = Conv2d(in_width, out_width, 3, padding=1)
        self.norm2 = GroupNorm(groups, out_width, _EPS)
        self.conv2 = Conv2d(out_width, out_width, 3, padding=1)
        self.shortcut = None if in_width == out_width else Conv2d(in_width, out_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(x))
        if self.halve:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        y = self.conv2(F.silu(self.norm2(self.conv1(y))))
        return y + (x if self.shortcut is None else self.shortcut(x))


def at_size(pictures: Tensor, size: int) -> Tensor:
    """Square pictures at another size, without aliasing: (B, 3, S, S) -> (B, 3, size, size).

    A whole multiple of the size is averaged over areas; any other is resampled by a triangle filter
    as wide as the step (antialiased bilinear). float32, so that a network's type adds no error.
    """
    pictures = pictures.float()
    side = pictures.shape[-1]
    if side == size:
        return pictures
    if side % size == 0:
        return F.avg_pool2d(pictures, side // size)
    return F.interpolate(
        pictures, size=(size, size), mode="bilinear", antialias=side > size, align_corners=False
    )
