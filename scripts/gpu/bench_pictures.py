"""Whole pictures from given embeddings and first noise, by both libraries' own functions."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from bench_contenders import Bench, Contender
from bench_twins import BETAS, Setup, noise
from torch import Tensor, nn

from safelight.condition import Condition
from safelight.families import Family
from safelight.model import Model
from safelight.models.autoencoder import Codec
from safelight.models.backbone import Backbone
from safelight.models.clip import ClipText
from safelight.tasks.generate import generate, settled
from safelight.tasks.plan import first_noise
from safelight.tasks.request import Request
from safelight.text.conditioner import Conditioner


class GivenText(Conditioner):
    """The two conditions of a prompt and of the empty one, as if they had been encoded before."""

    def __init__(self, family: Family, told: Condition, empty: Condition) -> None:
        with torch.device("meta"):
            encoders = [ClipText(role.encoder) for role in family.text.roles]
        super().__init__(family.text, encoders)
        self._told, self._empty = told, empty

    def condition(self, text: str, **settings: Any) -> Condition:
        return self._told if text.strip() else self._empty


def picture_contenders(
    bench: Bench, dtype: str, count: int, steps: int
) -> Iterator[Callable[[], Contender]]:
    """Euler at guidance 7, from given text embeddings and first noise to pixels of 8 bits."""
    setup = bench.setup
    family = setup.family("sd15")
    unet, coder = bench.unets("sd15", dtype), bench.autoencoders("sd15", dtype)
    width = family.backbone.context_width
    states = noise(setup, torch.float32, 2, 77, width)
    text = GivenText(family, Condition(states[:1]), Condition(states[1:]))
    network = Backbone(unet.ours)  # type: ignore[arg-type]
    codec = Codec(coder.ours, family.codec)  # type: ignore[arg-type]
    model = Model(family, text, network, codec, family.process.build())
    side = setup.side(512) * family.codec.factor
    request = Request(
        prompt="given",
        width=side,
        height=side,
        steps=steps,
        cfg_scale=7.0,
        sampler="Euler",
        schedule="Uniform",
        seed=1,
        count=count,
        batch=count,
    )

    def ours() -> Any:
        return list(generate(model, request))

    def read(pictures: Any) -> Tensor:
        for picture in pictures:
            assert not picture.warnings, picture.warnings
        return torch.from_numpy(np.stack([picture.pixels for picture in pictures]))

    yield lambda: Contender("ours", ours, (unet.ours, coder.ours), read)
    if unet.theirs is None or coder.theirs is None:
        return
    first = first_noise(model, settled(request, model))()
    yield lambda: their_pictures(setup, dtype, unet.theirs, coder.theirs, states, first, request)  # type: ignore[arg-type]


def their_pictures(
    setup: Setup,
    dtype: str,
    unet: nn.Module,
    coder: nn.Module,
    states: Tensor,
    first: Tensor,
    request: Request,
) -> Contender:
    """Diffusers' pipeline on the same embeddings and first noise."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=coder,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    told, latents = (tensor.to(setup.dtype(dtype)) for tensor in (states, first))

    def call() -> Any:
        return pipeline(
            prompt_embeds=told[:1],
            negative_prompt_embeds=told[1:],
            num_images_per_prompt=request.count,
            num_inference_steps=request.steps,
            guidance_scale=request.cfg_scale,
            height=request.height,
            width=request.width,
            latents=latents,
        ).images

    def read(images: Any) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(image) for image in images]))

    return Contender("diffusers", call, (unet, coder), read)
