"""Scenes as tensors: what is needed to draw them, without their words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from safelight.training.scenes.pages import Arrays, arrays
from safelight.training.scenes.scene import Scene

__all__ = ["Arrays", "PackedScenes", "arrays", "pack", "packed_from"]


@dataclass(frozen=True, eq=False)
class PackedScenes:
    """B scenes of up to LAYERS objects, on the CPU: `render` takes what it needs to the device.

    That the numbers stay on the CPU is what lets `render` know without waiting for the device
    which pictures have a second, third or fourth object.
    """

    cutouts: Tensor  # (B, LAYERS) int32; -1 where there is no object
    spots: Tensor  # (B, LAYERS, 3) float32: size, x, y of each object's box; see Layer
    recolours: Tensor  # (B, LAYERS) int8: index in RECOLOUR_NAMES, -1 for the object's own colours
    backgrounds: Tensor  # (B, 3) uint8
    kinds: Tensor  # (B,) int8: index in KINDS

    def __post_init__(self) -> None:
        assert self.cutouts.device.type == "cpu", self.cutouts.device

    def __len__(self) -> int:
        return len(self.cutouts)

    def take(self, rows: Sequence[int] | slice | Tensor) -> "PackedScenes":
        """The scenes of these rows, in this order."""
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows, dtype=torch.int64)
        return PackedScenes(*(field[rows] for field in self.fields()))

    def fields(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All tensors, in the order of their declaration."""
        return self.cutouts, self.spots, self.recolours, self.backgrounds, self.kinds


def packed_from(parts: Sequence[Arrays]) -> PackedScenes:
    """Arrays of several parts as one."""
    return PackedScenes(
        *(torch.from_numpy(np.concatenate(field)) for field in zip(*parts, strict=True))
    )


def pack(scenes: Sequence[Scene]) -> PackedScenes:
    """The scenes as tensors."""
    return packed_from([arrays(scenes)])
