"""What a drawing begins with besides noise: a picture as latents, a mask, extra channels.

Shapes: B pictures (1 serves all), C latent channels, h w latent height and width, K extra channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.guidance import between, keep
from safelight.diffusion.prediction import Prediction
from safelight.diffusion.process import Start, start
from safelight.tasks.edits import StrengthRule


@dataclass(frozen=True)
class Stage:
    """The latent side of what is drawn on.

    strength: how much of the schedule is run, by `rule`; None runs all of it from noise alone.
    place: 1 is painted, 0 held; between them each part counts as much as it says or, if `soft`,
        is painted only in the last steps, the fewer the less.
    noisy: where the picture is replaced by noise. afresh: all begins as noise alone.
    extra: what the U-Net's extra channels hold; bare: the same for InstructPix2Pix when it is not
        shown the picture.
    """

    latents: Tensor | None = None  # (B, C, h, w)
    strength: float | None = None
    rule: StrengthRule = "a1111"
    place: Tensor | None = None  # (B, 1, h, w)
    soft: bool = False
    noisy: Tensor | None = None  # (B, 1, h, w)
    afresh: bool = False
    extra: Tensor | None = None  # (B, K, h, w)
    bare: Tensor | None = None  # (B, K, h, w)
    level: int | None = None  # of the noise in the x4 upscaler's small picture
    earlier_steps: int | None = None  # of the first pass, if this is the second


NOTHING = Stage()


def begun(
    stage: Stage, noise: Tensor, sigmas: Tensor, prediction: Prediction, rule: Start
) -> Tensor:
    """The first x (B, C, h, w): the picture under noise of the first level, or noise alone.

    A schedule without a step begins, and ends, with the picture.
    """
    latents = stage.latents
    if latents is None or stage.afresh:
        return start(noise, sigmas, prediction, rule)
    if stage.noisy is not None:
        latents = torch.lerp(latents, noise, stage.noisy)
    return latents + float(sigmas[0]) * noise


def held(denoise: Denoise, stage: Stage, noise: Tensor, sigmas: Tensor) -> Denoise:
    """The denoiser that keeps to the picture outside the mask; the same one without a mask.

    What is held lies under the first noise at every level, whatever the sampler did to it.
    """
    if stage.place is None or stage.latents is None:
        return denoise
    if not stage.soft:
        always = keep(denoise, stage.latents, stage.place, noise)
        if not stage.afresh:
            return always
        # the first step is taken from noise alone, as begun
        first = keep(denoise, stage.latents, stage.place)
        return between(first, always, float("inf"), float(sigmas[0]) * (1 - 1e-6))
    return _softly(denoise, stage.latents, stage.place, noise, sigmas)


def _softly(
    denoise: Denoise, latents: Tensor, place: Tensor, noise: Tensor, sigmas: Tensor
) -> Denoise:
    """Differential diffusion: a part is let go once the steps left are the share it asks for.

    Levin and Fried 2023 (arXiv:2306.00950): step i of n, from 0, paints where the mask is at least
    1 - i / n. Levels between those of the schedule belong to the step above.
    """
    steps = len(sigmas) - 1

    def at(x: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma.max())
        done = int((sigmas[:-1] > level * (1 + 1e-6)).sum())  # steps before this one
        free = (place >= 1 - done / steps - 1e-6) & (place > 0)
        return keep(denoise, latents, free.to(place.dtype), noise)(x, sigma)

    return at
