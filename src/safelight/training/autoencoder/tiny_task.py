"""Teaching a tiny decoder to show latents as the large decoder of the same latents does.

After TAESD (Ollin Boer Bohan, https://github.com/madebyollin/taesd), which is taught by pictures
and a critic. Here the large decoder's own pictures are the lesson, for what is drawn in the end is
to look as what is shown on the way.

Shapes: N examples, B of a batch, C latent channels, h w latents, H W pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from safelight.errors import RequestError
from safelight.measures.pictures import psnr
from safelight.models.taesd import TinyAutoencoder
from safelight.training.autoencoder.perceptual import PerceptualDistance
from safelight.training.autoencoder.pixels import PixelWeights, pixel_distance
from safelight.training.autoencoder.task import Robustness, as_floats
from safelight.training.draw import Draw
from safelight.training.task import Data, Loss
from safelight.training.validation import judging

DECODER = "decoder"


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """Latents of unit size, and what the large decoder makes of them, as bytes or in [-1, 1]."""

    latents: Tensor  # (B, C, h, w)
    pictures: Tensor  # (B, 3, H, W)


@dataclass(frozen=True, eq=False)
class DecodedPool:
    """Latents with their pictures, all on one device."""

    latents: Tensor  # (N, C, h, w)
    pictures: Tensor  # (N, 3, H, W) uint8

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Sequence[int], draw: Draw) -> DecodedBatch:
        at = torch.as_tensor(indices, dtype=torch.long).to(self.latents.device)
        return DecodedBatch(self.latents[at], self.pictures[at])


class TinyDecoderTask:
    """A tiny decoder that learns from a large one.

    Some rows get a little noise on their latents, as for the large decoder: both forgive what a
    sampler left. perceptual weighs the distance of a vision tower, if there is one.
    """

    def __init__(
        self,
        tiny: TinyAutoencoder,
        *,
        weights: PixelWeights | None = None,
        perceptual: PerceptualDistance | None = None,
        perceptual_weight: float = 0.0,
        robustness: Robustness | None = None,
    ) -> None:
        self.tiny = tiny
        self.weights = weights or PixelWeights()
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.robustness = robustness or Robustness()

    @property
    def players(self) -> Mapping[str, nn.Module]:
        return {DECODER: self.tiny}

    def plays(self, player: str, step: int) -> bool:
        return True

    def loss(self, player: str, batch: DecodedBatch, draw: Draw) -> Loss:
        """How far the tiny decoder's pictures are from the large one's."""
        pictures = as_floats(batch.pictures)
        images = self.shown(self._disturbed(batch.latents, draw))
        pixels = pixel_distance(images, pictures, self.weights)
        total, figures = pixels.total, {"l1": pixels.l1}
        if self.perceptual is not None and self.perceptual_weight:
            looks = self.perceptual(images, pictures)
            figures["perceptual"] = looks.detach()
            total = total + self.perceptual_weight * looks
        with torch.no_grad():
            figures["psnr"] = psnr(images.clamp(-1.0, 1.0), pictures).mean()
        return Loss(total, figures)

    def shown(self, latents: Tensor) -> Tensor:
        """The tiny decoder's pictures (B, 3, H, W), float32, not clamped."""
        return self.tiny.decode(latents.float()).float()

    def _disturbed(self, latents: Tensor, draw: Draw) -> Tensor:
        """Latents with noise in some rows; they are of unit size already."""
        share, (low, high) = self.robustness.share, self.robustness.sizes
        if not share or not self.tiny.training:
            return latents
        device = latents.device
        noise = draw.normal("disturbance", *latents.shape[1:], device=device)
        size = low + (high - low) * draw.uniform("disturbance size", 1, 1, 1, device=device)
        chosen = draw.uniform("disturbed rows", 1, 1, 1, device=device) < share
        return latents + noise * size * chosen


@dataclass(frozen=True)
class HeldOutLatents:
    """Held-out latents, on which the tiny decoder is compared with the large one.

    Raises RequestError for none.
    """

    data: Data[DecodedBatch]
    batch: int = 64

    def __post_init__(self) -> None:
        if not len(self.data) or self.batch < 1:
            raise RequestError("validation needs one or more latents, and batches of 1 or more.")

    def __call__(self, task: TinyDecoderTask) -> dict[str, float]:
        """Means over all: `held_out/psnr` in dB and `held_out/l1`, of pictures in [-1, 1]."""
        with judging(task.tiny):
            total = torch.stack([self._sums(task, draw) for draw in self._draws()]).sum(dim=0)
        decibels, l1 = (total / len(self.data)).tolist()
        return {"held_out/psnr": decibels, "held_out/l1": l1}

    def _draws(self) -> Iterator[Draw]:
        count = len(self.data)
        for start in range(0, count, self.batch):
            yield Draw(0, 0, count, start, min(self.batch, count - start))

    def _sums(self, task: TinyDecoderTask, draw: Draw) -> Tensor:
        batch = self.data.batch(range(len(self.data))[draw.rows], draw)
        pictures = as_floats(batch.pictures)
        images = task.shown(batch.latents).clamp(-1.0, 1.0)
        l1 = (images - pictures).abs().flatten(1).mean(dim=1)
        return torch.stack([psnr(images, pictures).sum(), l1.sum()])
