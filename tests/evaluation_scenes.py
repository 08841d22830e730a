"""Scenes drawn by arithmetic, with facts that are known exactly, and a judge that knows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.models.evaluator import Evaluator, Judgement, Labels

RGB = tuple[int, int, int]


def plain(colour: RGB, size: int = 64) -> Tensor:
    """A picture (3, size, size) in [-1, 1] of one colour."""
    return (torch.tensor(colour) / 127.5 - 1)[:, None, None].repeat(1, size, size)


def disc(picture: Tensor, x: float, y: float, radius: float, colour: RGB) -> Tensor:
    """The picture with a disc on it; places and radius in shares of the side."""
    size = picture.shape[-1]
    at = (torch.arange(size) + 0.5) / size
    inside = (at[:, None] - y) ** 2 + (at - x) ** 2 <= radius**2
    return torch.where(inside, plain(colour, size), picture)


def square(picture: Tensor, x: float, y: float, half: float, colour: RGB) -> Tensor:
    """The picture with a square on it; places and half side in shares of the side."""
    size = picture.shape[-1]
    at = (torch.arange(size) + 0.5) / size
    inside = ((at[:, None] - y).abs() <= half) & ((at - x).abs() <= half)
    return torch.where(inside, plain(colour, size), picture)


def noisy(pictures: Tensor | Sequence[Tensor], deviation: float, seed: int = 0) -> Tensor:
    """The pictures as one batch, with noise as an autoencoder leaves it."""
    batch = pictures if isinstance(pictures, Tensor) else torch.stack(list(pictures))
    generator = torch.Generator().manual_seed(seed)
    return (batch + deviation * torch.randn(batch.shape, generator=generator)).clamp(-1, 1)


LABELS = Labels(("A", "B", "C", "D", "E", "F"), ("flat", "glossy"))
INKS: dict[str, RGB] = {"A": (214, 38, 42), "B": (30, 100, 220), "C": (250, 218, 50)}


@dataclass
class Oracle:
    """A judge that sees through: the concept is the ink in the middle, the style what is round."""

    @dataclass
    class config:
        image_size = 32

    def __call__(self, pictures: Tensor) -> Judgement:
        side = pictures.shape[-1]
        middle = pictures[..., side // 2, side // 2]
        inks = torch.stack([plain(ink)[:, 0, 0] for ink in INKS.values()])
        near = -torch.cdist(middle, inks) * 20
        concepts = torch.cat([near, torch.full((len(near), 3), -30.0)], dim=1)
        corner = (pictures[..., 5 * side // 32, 5 * side // 32] - middle).norm(dim=-1)
        styles = torch.stack([corner < 0.5, corner >= 0.5], dim=1).float() * 10  # square, round
        return Judgement(concepts, styles, F.adaptive_avg_pool2d(pictures, 4).flatten(1))


ORACLE = cast(Evaluator, Oracle())
