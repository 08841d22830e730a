"""Which places of a picture count in the loss: from mask pictures, or where it is opaque.

The error at each place of the latents is multiplied by the mask's weight there, so what lies
outside teaches nothing, or less.

Shapes: B pictures, M masks of one size, H W pixels, h w latent height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import FileError, RequestError
from safelight.printable import shown
from safelight.training.diffusion_task import LatentBatch
from safelight.training.draw import Draw
from safelight.training.latent_data import EncodedPictures
from safelight.training.picture_data import PictureBatch
from safelight.training.pictures import opacity
from safelight.training.sources.example import Example, Problem, Source
from safelight.training.task import Data

_LEAST = 1e-4  # mean weight below which a picture counts as outside its mask altogether


@dataclass(frozen=True, slots=True)
class Masking:
    """How a mask becomes weights of places.

    outside: what black places count, 0 to 1; white ones count 1. even: the weights of a picture are
    scaled to a mean of 1, so that a small subject teaches as much as a large one; else a picture
    counts as much as its mask is white. Raises RequestError for a share that is none.
    """

    outside: float = 0.0
    even: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.outside <= 1:
            raise RequestError(f"outside must be 0 to 1; got {self.outside}.")

    def weights(self, shares: Tensor, size: tuple[int, int]) -> Tensor:
        """The weights (B, 1, h, w) of masks (B, 1 or 3, H, W) in [0, 1]; size is (h, w).

        A latent counts by the mean of its pixels, so thin masks are not lost.
        """
        grey = shares.float().mean(1, keepdim=True)
        small = F.interpolate(grey, size=size, mode="area")
        weights = self.outside + (1 - self.outside) * small
        if not self.even:
            return weights
        mean = weights.mean((1, 2, 3), keepdim=True)
        return torch.where(mean < _LEAST, 0.0, weights / mean.clamp(min=_LEAST))


@dataclass(frozen=True)
class Opacities:
    """A `Source` of how opaque the pictures of another are, as grey PNG files in its order."""

    pictures: Source

    @property
    def name(self) -> str:
        return self.pictures.name

    @property
    def problems(self) -> Sequence[Problem]:
        return ()

    def __len__(self) -> int:
        return len(self.pictures)

    def example(self, index: int) -> Example:
        found = self.pictures.example(index)

        def read() -> bytes:
            data = BytesIO()
            opacity(found.read(), found.id).save(data, "PNG", compress_level=1)
            return data.getvalue()

        return Example(found.id, read, stamp=found.stamp)


@dataclass(frozen=True, eq=False)
class Masked:
    """Latents with their masks, which all stay on the device.

    masks: (M, 1, h, w) weights, one tensor for each size. places: of each example, which of these
    its mask is in, and its row there.
    """

    latents: Data[LatentBatch]
    masks: tuple[Tensor, ...]
    places: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Sequence[int], draw: Draw) -> LatentBatch:
        """The examples of these numbers, where the latents are."""
        batch = self.latents.batch(indices, draw)
        masks = self.masks[self.places[indices[0]][0]]  # latents of a batch are of one size
        rows = torch.as_tensor([self.places[i][1] for i in indices], dtype=torch.long)
        return replace(batch, mask=masks[rows.to(masks.device, non_blocking=True)])


@dataclass(frozen=True, eq=False)
class EncodedMasked:
    """Pictures that are cropped and mirrored by chance, encoded as they come, with their masks.

    masks: cropped and mirrored alike by the same draw.
    """

    pictures: Data[PictureBatch]
    encoder: EncodedPictures
    masks: Data[PictureBatch]
    masking: Masking

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], draw: Draw) -> LatentBatch:
        """The examples of these numbers, on the codec's device."""
        batch = self.encoder.encoded(self.pictures.batch(indices, draw), draw)
        shares = self.masks.batch(indices, draw).pictures.add(1).div(2)
        size = (batch.latents.shape[2], batch.latents.shape[3])
        weights = self.masking.weights(shares, size)
        return replace(batch, mask=weights.to(batch.latents.device, non_blocking=True))


def kept_masks(
    masks: Data[PictureBatch],
    groups: Sequence[Sequence[int]],
    sizes: Sequence[tuple[int, int]],
    masking: Masking,
) -> tuple[Tensor, ...]:
    """The weights (M, 1, h, w) of the masks of each group, whose pictures are of one size.

    sizes: (h, w) of each group's latents. Raises FileError for a mask that is black everywhere
    where nothing outside counts: such a picture could teach nothing.
    """
    made = []
    for members, size in zip(groups, sizes, strict=True):
        rows: list[Tensor] = []
        for place, index in enumerate(members):
            found = masks.batch([index], Draw(0, 0, len(members), place, 1))
            weights = masking.weights(found.pictures.add(1).div(2), size)
            if not bool(weights.any()):
                raise FileError(
                    f"the mask of {shown(found.ids[0])} is black everywhere, so nothing could be "
                    "learned from it; mend it, or give mask.outside"
                )
            rows.append(weights)
        made.append(torch.cat(rows))
    return tuple(made)
