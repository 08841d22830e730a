"""Stable Diffusion's x4 upscaler: what it is told of the small picture.

Shapes: B pictures, h w pixels of the small picture, which are its latents too.
"""

from collections.abc import Sequence

import numpy as np
import torch

from safelight.canvas.resize import resized_by
from safelight.diffusion.noise import generator
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.request import Request
from safelight.tasks.stage import Stage
from safelight.tasks.supplies import Supplies
from safelight.tasks.work import Work
from safelight.upscalers.x4 import small_picture

SEED_OFFSET = 10  # ComfyUI's: the small picture's noise must not be that of the latents


def small_stage(model: Model, requests: Sequence[Request], work: Work, supplies: Supplies) -> Stage:
    """What the x4 upscaler starts from: noise alone, told the small picture under a little of it.

    Raises RequestError for a mask, and for a noise level that the model does not know.
    """
    request = requests[0]
    source, noising = request.source, model.family.noising
    assert source is not None and noising is not None
    assert request.width is not None and request.height is not None
    if work.place is not None or source.resize == "latent":
        raise RequestError(
            f"{model.family.label} makes the whole picture larger; leave masks and the resize mode "
            "latent out."
        )
    factor = model.codec.factor
    size = (request.width // factor, request.height // factor)
    pixels = resized_by(source.resize, supplies.picture(source.picture).pixels, size)
    picture = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    pictures = (picture.float() / 127.5 - 1).expand(len(requests), -1, -1, -1)
    noise = torch.stack(
        [
            generator(_seed(r) - SEED_OFFSET, r.noise_source).randn(tuple(pictures.shape[1:]))
            for r in requests
        ]
    )
    small = small_picture(
        pictures,
        noise,
        noising.process.build(),
        level=request.noise_level,
        max_level=noising.max_level,
    )
    strength = 0.0 if source.strength == 0 else None
    return Stage(strength=strength, extra=small.noised.to(model.device), level=small.level)


def _seed(request: Request) -> int:
    assert request.seed is not None
    return request.seed
