"""Which of the named colours a picture's background has.

Shapes: B pictures, S pixels of a side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from safelight.measures.colours import NAMES
from safelight.measures.lab import nearest_name, unit_colours

RING = 1 / 24  # of the side: how wide the border is that counts as background


def border_colour(pictures: Tensor, *, ring: float = RING) -> Tensor:
    """The median colour of the border ring, each channel by itself: (B, 3) in [0, 1], float32.

    pictures (B, 3, S, S) in [-1, 1]. An object may touch the border; as long as it covers less
    than half of the ring, the median is still the background's.
    """
    return torch.quantile(_ring(pictures, ring), 0.5, dim=1)


def border_spread(pictures: Tensor, *, ring: float = RING) -> Tensor:
    """How far the border is from plain: (B,), the mean distance in sRGB from its median colour.

    0 for a plain background; a picture without one (a pattern, a photograph) has some tenths.
    """
    pixels = _ring(pictures, ring)
    apart = pixels - border_colour(pictures, ring=ring)[:, None]
    return apart.square().sum(dim=-1).sqrt().mean(dim=1)


def background_names(pictures: Tensor) -> list[str]:
    """The named colour nearest in CIELAB to each picture's border: B names of colours.NAMES."""
    return [NAMES[i] for i in nearest_name(border_colour(pictures)).tolist()]


def background_accuracy(pictures: Tensor, wanted: Sequence[str]) -> float:
    """The share of pictures whose background is nearest to the wanted colour."""
    assert len(pictures) == len(wanted) > 0
    found = background_names(pictures)
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)


def _ring(pictures: Tensor, ring: float) -> Tensor:
    """The colours of the border (B, P, 3) in [0, 1]."""
    colours = unit_colours(pictures)  # (B, S, S, 3)
    side = colours.shape[1]
    width = max(1, round(side * ring))
    inside = torch.zeros(side, colours.shape[2], dtype=torch.bool, device=pictures.device)
    inside[width:-width, width:-width] = True
    return colours[:, ~inside]
