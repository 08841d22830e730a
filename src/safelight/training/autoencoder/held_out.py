"""How well an autoencoder gives held-out pictures back, always with the same noise.

Shapes: M pictures, B of them at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.measures.pictures import psnr, ssim
from safelight.models.autoencoder import Posterior
from safelight.models.vector_quantiser import VqAutoencoder, perplexity
from safelight.training.autoencoder.task import AutoencoderTask, PictureBatch, as_floats
from safelight.training.draw import Draw
from safelight.training.task import Data
from safelight.training.validation import judging

_SSIM_WINDOW = 11


@dataclass(frozen=True)
class HeldOutPictures:
    """Held-out pictures and how they are judged: in this order, `batch` of them at once.

    Raises RequestError for no pictures.
    """

    data: Data[PictureBatch]
    indices: Sequence[int]
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.indices) or self.batch < 1:
            raise RequestError("validation needs one or more pictures, and batches of 1 or more.")

    def __call__(self, task: AutoencoderTask) -> dict[str, float]:
        """Means over the pictures, clamped to [-1, 1]; the run's random numbers are not moved.

        `held_out/psnr`, `ssim` (0 for pictures below 11 pixels) and `l1` are of the most probable
        latents, and `psnr_drawn` of drawn ones: their difference is what the posterior's noise
        costs. `kl` is in nats a latent value. A codebook has `perplexity` in the place of the last
        two.
        """
        with judging(task.autoencoder):
            total = torch.stack([self._sums(task, draw) for draw in self._draws()]).sum(dim=0)
        means = (total / len(self.indices)).tolist()
        quantised = isinstance(task.autoencoder, VqAutoencoder)
        names = ["psnr", "ssim", "l1", *(["perplexity"] if quantised else ["psnr_drawn", "kl"])]
        return {f"held_out/{name}": mean for name, mean in zip(names, means, strict=True)}

    def _draws(self) -> Iterator[Draw]:
        count = len(self.indices)
        for start in range(0, count, self.batch):
            yield Draw(self.seed, 0, count, start, min(self.batch, count - start))

    def _sums(self, task: AutoencoderTask, draw: Draw) -> Tensor:
        """The sum of each figure over a batch: float32 on its device."""
        pictures = as_floats(self.data.batch(self.indices[draw.rows], draw).pictures)
        posterior = task.autoencoder.encode(pictures)
        rebuilt = _shown(task, posterior.mode())
        likeness = torch.zeros(len(pictures), device=pictures.device)
        if min(pictures.shape[2:]) >= _SSIM_WINDOW:
            likeness = ssim(rebuilt, pictures, window=_SSIM_WINDOW)
        l1 = (rebuilt - pictures).abs().flatten(1).mean(dim=1)
        rows = [
            psnr(rebuilt, pictures),
            likeness,
            l1,
            *self._of_latents(task, posterior, pictures, draw),
        ]
        return torch.stack([row.sum() for row in rows])

    def _of_latents(
        self, task: AutoencoderTask, posterior: Posterior, pictures: Tensor, draw: Draw
    ) -> tuple[Tensor, ...]:
        """What is asked of the latents, a number for each picture."""
        model = task.autoencoder
        if isinstance(model, VqAutoencoder):
            in_use = perplexity(model.quantize(posterior.mode()).indices, model.config.codes)
            return (in_use.expand(len(pictures)),)
        # Drawn on the CPU: the same on every device.
        noise = draw.normal("held-out noise", *posterior.mean.shape[1:], device="cpu")
        drawn = _shown(task, posterior.sample(noise))
        return psnr(drawn, pictures), posterior.kl() / posterior.mean[0].numel()


def _shown(task: AutoencoderTask, latents: Tensor) -> Tensor:
    return task.autoencoder.decode(latents).float().clamp(-1.0, 1.0)
