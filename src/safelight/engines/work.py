"""What is to be drawn, as far as its time goes, and a call of the U-Net that stands for it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from safelight.condition import Condition
from safelight.models.runner import Extra

if TYPE_CHECKING:
    from safelight.model import Model

TOKENS = 77


@dataclass(frozen=True)
class Work:
    """Calls of the U-Net for `batch` pictures of h w latents: with guidance twice the pictures.

    asked: what they ask of it besides the plain call.
    """

    height: int
    width: int
    batch: int
    calls: int
    asked: frozenset[Extra] = frozenset()


def example(model: "Model", work: Work) -> tuple[Tensor, Tensor, Condition]:
    """Latents of noise, a time and a condition of the right shapes; the same each time."""
    config, device, batch = model.network.unet.config, model.device, work.batch
    rng = torch.Generator().manual_seed(0)
    size = (work.height, work.width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng).to(device)

    channels = model.codec.channels
    extra = config.in_channels - channels
    level = None
    if config.noise_levels is not None:
        level = torch.zeros(batch, dtype=torch.int64, device=device)
    condition = Condition(
        context=normal(batch, TOKENS, config.context_width),
        vector=None if config.vector_width is None else normal(batch, config.vector_width),
        concat=normal(batch, extra, *size) if extra > 0 else None,
        level=level,
    )
    time = torch.full((batch,), 500.0, device=device)
    return normal(batch, channels, *size), time, condition
