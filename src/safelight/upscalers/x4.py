"""What Stable Diffusion's x4 upscaler is given: the small picture, noised, and the noise's level.

Its latents are as large as the small picture, and its autoencoder makes four pixels of each side of
one; the prompt says what the picture shows, and may be empty.

Shapes: B pictures, h w pixels of the small picture, which are its latents too.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safelight.condition import Condition
from safelight.diffusion.process import Process
from safelight.errors import RequestError

DEFAULT_LEVEL = 20


@dataclass(frozen=True)
class SmallPicture:
    """The small picture as the U-Net sees it."""

    noised: Tensor  # (B, 3, h, w): of about unit size, whatever the level
    level: int

    def told(self, condition: Condition) -> Condition:
        """The condition with the picture; positive and negative are both told it."""
        level = torch.full((condition.batch,), self.level, device=condition.context.device)
        return replace(condition, concat=self.noised, level=level)


def small_picture(
    picture: Tensor,
    noise: Tensor,
    process: Process,
    *,
    level: int = DEFAULT_LEVEL,
    max_level: int = 350,
) -> SmallPicture:
    """The picture (B, 3, h, w) in [-1, 1] under as much noise as the level says.

    noise: unit normals of its shape. process, max_level: the model's own (`Family.noising`). More
    noise leaves the model more to invent. Raises RequestError for a level that it does not know.
    """
    if not 0 <= level <= max_level:
        raise RequestError(
            f"the noise level of the small picture lies between 0 and {max_level} for this model; "
            f"got {level}. Usual is {DEFAULT_LEVEL}."
        )
    if noise.shape != picture.shape:
        raise RequestError(
            f"the noise is {tuple(noise.shape)} and the small picture {tuple(picture.shape)}; they "
            "must be of one shape."
        )
    sigma = float(process.sigma_of(level))
    noised = (picture + sigma * noise.to(picture)) / (1 + sigma**2) ** 0.5
    return SmallPicture(noised, level)
