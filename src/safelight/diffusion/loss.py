"""The loss of one training step, and the noise it is taken with.

Shapes: B pictures, C latent channels, h w latent height and width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.diffusion.process import Process
from safelight.diffusion.weights import Constant, Weight
from safelight.errors import RequestError


@dataclass(frozen=True, slots=True)
class Levels:
    """The noise levels of a batch, and all that follows from them; each (B,) float32."""

    sigma: Tensor
    time: Tensor  # what the network is told
    c_in: Tensor  # factor of its input
    weight: Tensor  # of each picture's loss


def levels(
    process: Process,
    sigma: Tensor,
    weight: Weight | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Levels:
    """What a network is told at levels sigma (B,), computed in float64 on the CPU, on a device.

    All goes over in one transfer that no one waits for: clocks and tables live on the CPU, and
    asking for them from a GPU would stop it at every step.
    """
    sigma = sigma.cpu().double()
    scalings = process.prediction.scalings(sigma)
    told = (weight or Constant()).on(process.prediction, sigma)
    packed = torch.stack([sigma, process.time(sigma), scalings.c_in, told]).float()
    device = torch.device(device)
    if device.type == "cuda":
        packed = packed.pin_memory()
    return Levels(*packed.to(device, non_blocking=True))


def noisy_input(
    latents: Tensor, noise: Tensor, at: Levels, perturbation: Tensor | None = None
) -> Tensor:
    """What the network sees: c_in * (latents + sigma * noise), (B, C, h, w) float32.

    perturbation (B, C, h, w), already scaled, is noise that the target does not know of: it makes
    the network robust to its own errors in sampling. Ning et al. 2023 (arXiv:2301.11706).
    """
    seen = noise if perturbation is None else noise + perturbation
    return _wide(at.c_in) * (latents.float() + _wide(at.sigma) * seen)


def target(process: Process, latents: Tensor, noise: Tensor, at: Levels) -> Tensor:
    """What the network should answer, (B, C, h, w) float32."""
    return process.prediction.target(latents.float(), noise, _wide(at.sigma))


def picture_errors(
    output: Tensor, wanted: Tensor, *, huber: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """The error of each picture, averaged over its numbers: (B,) float32.

    Squared, or with `huber` the pseudo-Huber error 2 c (sqrt(d² + c²) - c), which is d² for
    d far below c and grows like 2 c |d| beyond. Song and Dhariwal 2023 (arXiv:2310.14189).
    mask (B, 1, h, w) is what the error of each place is multiplied by before the mean.
    """
    difference = output.float() - wanted.float()
    errors = difference.square()
    if huber is not None:
        # (sqrt(d² + c²) - c) loses all digits for small d; the quotient below does not.
        errors = 2 * huber * errors / ((errors + huber**2).sqrt() + huber)
    if mask is not None:
        errors = errors * mask.float()
    return errors.flatten(1).mean(1)


def diffusion_loss(
    output: Tensor,
    wanted: Tensor,
    weight: Tensor | None = None,
    *,
    huber: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The mean over pictures of weight (B,) times each picture's mean error; scalar, float32."""
    errors = picture_errors(output, wanted, huber=huber, mask=mask)
    return errors.mean() if weight is None else (weight * errors).mean()


def offset(noise: Tensor, shift: Tensor, strength: float) -> Tensor:
    """Noise (B, C, h, w) whose every channel is shifted by strength * shift (B, C).

    Its variance is 1 + strength². The target must be of this noise, too. Guttenberg 2023,
    "Diffusion with offset noise".
    """
    return noise + strength * shift[:, :, None, None]


def pyramid_sizes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Sizes of the coarser grids of pyramid noise: halved, rounded up, until one cell is left."""
    sizes: list[tuple[int, int]] = []
    while height > 1 or width > 1:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        sizes.append((height, width))
    return tuple(sizes)


def pyramid(noise: Tensor, coarser: Sequence[Tensor], discount: float) -> Tensor:
    """Noise (B, C, h, w) with ever larger patches in it, of unit variance at every place.

    coarser: unit normals of `pyramid_sizes`, level k (B, C, h / 2^k, w / 2^k), which enters with
    discount^k. Whitaker 2023, "Multi-resolution noise"; patches are flat, so that the variance is
    known and no picture is scaled by another's.
    Raises RequestError unless 0 <= discount <= 1.
    """
    if not 0 <= discount <= 1:
        raise RequestError(f"discount of pyramid noise must be 0 to 1; got {discount}.")
    total, variance = noise, 1.0
    for k, grid in enumerate(coarser, start=1):
        total = total + discount**k * F.interpolate(grid, size=noise.shape[2:], mode="nearest")
        variance += discount ** (2 * k)
    return total / math.sqrt(variance)


def _wide(numbers: Tensor) -> Tensor:
    return numbers[:, None, None, None]
