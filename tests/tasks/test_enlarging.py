"""Pictures larger than a model was made for: second pass, windows, regions, seamless, x4."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.stable_diffusion_panorama import (
    pipeline_stable_diffusion_panorama as panorama,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_upscale import (
    StableDiffusionUpscalePipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from models_tiny import distance, randomised
from pipelines_tiny import (
    BETAS,
    NEGATIVE,
    PROMPT,
    generator,
    quiet,
    save,
    sd_parts,
    settings,
    unet,
    vae,
    xl_parts,
)
from safelight.checkpoints.load import load
from safelight.diffusion.noise import Noise
from safelight.engines.sentinel import Sentinel
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.super_resolution import CompactConfig
from safelight.tasks import painting
from safelight.tasks.drawing import drawn
from safelight.tasks.generate import generate, settled
from safelight.tasks.large import LATENT_UPSCALERS, RESAMPLERS
from safelight.tasks.painting import Tally, decoded, painted
from safelight.tasks.picture import Picture
from safelight.tasks.plan import Plan, plan
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.upscalers import latent, pixels as pixel_upscalers

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
SUPPLIES = Supplies({"photo.png": PIXELS})


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Model:
    pipeline = quiet(StableDiffusionPipeline(**sd_parts("sd15")))
    return load(save(pipeline, tmp_path_factory.mktemp("sd")))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upscaler to twice the size, in a file."""
    path = tmp_path_factory.mktemp("upscaler") / "2x.safetensors"
    save_file(dict(randomised(CompactConfig(3, 8, 3, 2).build()).state_dict()), path)
    return path


def asked(**changes: object) -> Request:
    return settings(**{"steps": 3, **changes})


def pictures(model: Model, request: Request, supplies: Supplies = SUPPLIES) -> list[Picture]:
    return list(generate(model, request, supplies=supplies))


def only(model: Model, request: Request, supplies: Supplies = SUPPLIES) -> Picture:
    (picture,) = pictures(model, request, supplies)
    return picture


def same(a: Picture, b: Picture) -> bool:
    return np.array_equal(a.pixels, b.pixels)


def test_the_names_of_upscalers_are_those_of_the_upscalers() -> None:
    assert set(LATENT_UPSCALERS) == set(latent.LATENT_UPSCALERS)
    assert set(RESAMPLERS) == set(pixel_upscalers.RESAMPLERS)


# -- the second pass ------------------------------------------------------------------------------


@pytest.mark.parametrize("upscaler", [*LATENT_UPSCALERS, *RESAMPLERS])
def test_a_second_pass_of_no_strength_and_no_growth_is_none(sd: Model, upscaler: str) -> None:
    plain = only(sd, asked())
    hires = {"upscaler": upscaler, "scale": 1, "strength": 0}
    made = only(sd, asked(hires=hires))
    assert same(made, plain)
    assert made.recipe.result.steps == 3


@pytest.mark.parametrize(
    ("steps", "second", "strength", "scale", "run"),
    [(20, 0, 0.7, 2.0, 40), (20, 10, 0.7, 1.5, 30), (4, 7, 0.3, 2.0, 11), (3, 2, 1.0, 1.0, 5)],
)
def test_all_steps_of_the_second_pass_are_run(
    sd: Model, steps: int, second: int, strength: float, scale: float, run: int
) -> None:
    """A1111 runs hires steps exactly, whatever the strength; 0 is as many as before."""
    hires = {"steps": second, "strength": strength, "scale": scale}
    made = only(sd, asked(width=32, height=32, steps=steps, hires=hires))
    assert made.recipe.result.steps == run
    assert made.pixels.shape == (int(32 * scale), int(32 * scale), 3)
    assert made.recipe.request.width == 32
    assert made.recipe.result.size == (None if scale == 1 else (int(32 * scale), int(32 * scale)))
