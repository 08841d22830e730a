"""Latents of pictures that do not lie in one pool: of several sizes, or encoded as they come.

Shapes: B pictures, C latent channels, h w latent height and width.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from safelight.models.autoencoder import Codec
from safelight.text.conditioner import Conditioner
from safelight.training.diffusion_task import LatentBatch
from safelight.training.draw import Draw
from safelight.training.latent_pool import Choice, LatentPool
from safelight.training.picture_data import PictureBatch
from safelight.training.task import Data
from safelight.training.text_states import tokens_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PoolsBySize:
    """A `Data` over several pools, one for each size of latents.

    places: for each example which pool it is in, and its row there.
    """

    pools: tuple[LatentPool, ...]
    places: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def buckets(self) -> list[tuple[int, int]]:
        """Latent height and width of every example, as an order by size wants them."""
        shapes = [(int(p.latents.shape[2]), int(p.latents.shape[3])) for p in self.pools]
        return [shapes[pool] for pool, _ in self.places]

    def batch(self, indices: Sequence[int], draw: Draw) -> LatentBatch:
        """The examples of these numbers. Raises ValueError if they are not of one size."""
        pools = {self.places[i][0] for i in indices}
        if len(pools) != 1:
            sizes = sorted({self.buckets[i] for i in indices})
            raise ValueError(f"a batch has latents of one size; got {sizes}")
        return self.pools[pools.pop()].batch([self.places[i][1] for i in indices], draw)


@dataclass(eq=False)
class EncodedPictures:
    """A `Data` that encodes pictures as they are asked for: for augmentation, and without a cache.

    cut: captions that were too long for the text encoder and how often they came; each is logged
        once, and its end is left out.
    """

    data: Data[PictureBatch]
    codec: Codec
    conditioner: Conditioner
    choice: Choice = "sample"
    cut: Counter[str] = field(default_factory=Counter, init=False)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Sequence[int], draw: Draw) -> LatentBatch:
        """The examples of these numbers, on the codec's device."""
        return self.encoded(self.data.batch(indices, draw), draw)

    @torch.no_grad()
    def encoded(self, pictures: PictureBatch, draw: Draw) -> LatentBatch:
        """These pictures, wherever they come from, on the codec's device."""
        device = next(self.codec.autoencoder.parameters()).device
        posterior = self.codec.encode(pictures.pictures.to(device, non_blocking=True))
        latents = posterior.mode()
        if self.choice == "sample":
            latents = posterior.sample(draw.normal("posterior", *latents.shape[1:], device=device))
        return LatentBatch(
            latents,
            self._tokens(pictures).to(device, non_blocking=True),
            sizes=self._sizes(pictures, device),
        )

    def _tokens(self, pictures: PictureBatch) -> Tensor:
        tokens = tokens_of(self.conditioner, pictures.captions)
        for row, left_out in tokens.cut:
            name = pictures.ids[row]
            self.cut[name] += 1
            if self.cut[name] == 1:
                log.warning(
                    "the caption of %s is longer than the text encoder reads: %d tokens left out",
                    name,
                    left_out,
                )
        return tokens.ids

    def _sizes(self, pictures: PictureBatch, device: torch.device) -> Tensor | None:
        if self.conditioner.spec.vector != "sdxl":
            return None
        return pictures.sizes.to(device, torch.float32, non_blocking=True)
