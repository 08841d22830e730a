"""Control maps for training: made of the pictures as they come, read from files, or kept.

Shapes: B pictures, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.preprocessors.making import Making
from safelight.preprocessors.maps import resolve_preprocessor
from safelight.training.control_task import ControlBatch
from safelight.training.diffusion_task import LatentBatch
from safelight.training.draw import Draw, number
from safelight.training.latent_data import EncodedPictures
from safelight.training.picture_data import PictureBatch
from safelight.training.task import Data

Look = Callable[[Sequence[int], Draw], Tensor]
"""Numbers of examples -> what there is to see, (B, 3, H, W) in [-1, 1]."""
_CHUNK = 64  # pictures whose maps are made between two words on how far it is


@dataclass(frozen=True)
class MapMaker:
    """A preprocessor with its options, for batches.

    A preprocessor with a seed of its own (shuffle) is given another for each row and step, unless
    the options fix it. Raises RequestError for a preprocessor that needs masks.
    """

    making: Making = field(default_factory=Making)

    def __post_init__(self) -> None:
        if resolve_preprocessor(self.making.preprocessor).masked:
            raise RequestError(
                f"the preprocessor {self.making.preprocessor} needs masks, which training does not "
                "draw; choose another, or give finished maps"
            )

    @property
    def drawn(self) -> bool:
        """Whether a picture's map is another in every step."""
        how = resolve_preprocessor(self.making.preprocessor)
        return "seed" in {o.name for o in how.options} and "seed" not in self.making.options

    def maps(self, pictures: Tensor, draw: Draw) -> Tensor:
        """The maps (B, 3, H, W) uint8 on the CPU of pictures (B, 3, H, W) in [-1, 1]."""
        pixels = pictures.add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)
        rows = pixels.permute(0, 2, 3, 1).numpy()
        made = [self._making(draw, i).map_of(row).pixels for i, row in enumerate(rows)]
        return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()

    def _making(self, draw: Draw, row: int) -> Making:
        if not self.drawn:
            return self.making
        seed = number(draw.seed, "map", draw.step, draw.start + row)
        return replace(self.making, options={**self.making.options, "seed": seed})


@dataclass(frozen=True, eq=False)
class WithMaps:
    """Latents beside the maps of their pictures, which are looked at anew in every step.

    look: gives what there is to see: the pictures themselves, or finished maps. numbers: of each
    example of `latents` among those of `look`; left out, they are the same.
    """

    latents: Data[LatentBatch]
    look: Look
    maker: MapMaker
    numbers: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Sequence[int], draw: Draw) -> ControlBatch:
        """The examples of these numbers, where the latents are."""
        batch = self.latents.batch(indices, draw)
        seen = indices if self.numbers is None else [self.numbers[i] for i in indices]
        return _beside(batch, self.maker.maps(self.look(seen, draw), draw))


@dataclass(frozen=True, eq=False)
class WithKeptMaps:
    """Latents beside their maps, which all stay on the device.

    maps: (M, 3 or 1, H, W) uint8 each, one tensor for each size. places: of each example, which of
    these its map is in, and its row there.
    """

    latents: Data[LatentBatch]
    maps: tuple[Tensor, ...]
    places: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Sequence[int], draw: Draw) -> ControlBatch:
        """The examples of these numbers, where the latents are."""
        batch = self.latents.batch(indices, draw)
        maps = self.maps[self.places[indices[0]][0]]  # latents of a batch are of one size
        rows = torch.as_tensor([self.places[i][1] for i in indices], dtype=torch.long)
        return _beside(batch, maps[rows.to(maps.device, non_blocking=True)])


@dataclass(frozen=True, eq=False)
class EncodedWithMaps:
    """Pictures that are cropped and mirrored by chance, encoded as they come, with their maps.

    maps: finished maps, cropped and mirrored alike by the same draw; left out, they are made of the
    pictures.
    """

    pictures: Data[PictureBatch]
    encoder: EncodedPictures
    maker: MapMaker
    maps: Data[PictureBatch] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], draw: Draw) -> ControlBatch:
        """The examples of these numbers, on the codec's device."""
        pictures = self.pictures.batch(indices, draw)
        latents = self.encoder.encoded(pictures, draw)
        seen = pictures if self.maps is None else self.maps.batch(indices, draw)
        return _beside(latents, self.maker.maps(seen.pictures, draw))


def kept_maps(
    look: Look, numbers: Sequence[int], maker: MapMaker, told: Callable[[int], None]
) -> Tensor:
    """The maps of these pictures, all of one size: (M, 3 or 1, H, W) uint8 on the CPU.

    Of one channel if all are grey. `told` hears how many are done.
    """
    made: list[Tensor] = []
    grey = True
    for start in range(0, len(numbers), _CHUNK):
        rows = numbers[start : start + _CHUNK]
        draw = Draw(0, 0, len(numbers), start, len(rows))
        part = maker.maps(look(rows, draw), draw)
        if grey and not bool((part == part[:, :1]).all()):
            made, grey = [old.expand(-1, 3, -1, -1) for old in made], False
        made.append(part[:, :1] if grey else part)
        told(len(rows))
    return torch.cat(made)


def _beside(batch: LatentBatch, maps: Tensor) -> ControlBatch:
    told = {part.name: getattr(batch, part.name) for part in fields(LatentBatch)}
    return ControlBatch(**told, maps=maps.to(batch.latents.device, non_blocking=True))
