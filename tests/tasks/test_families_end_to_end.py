"""Families that draw from more than text, from a saved folder to latents, against Diffusers.

Ours are composed from the library's public pieces, as a reader of the guide would do it: a loaded
model, its conditioner, a guided denoiser, a schedule and a sampler.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
    LatentConsistencyModelPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_depth2img import (
    StableDiffusionDepth2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint import (
    StableDiffusionInpaintPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_upscale import (
    StableDiffusionUpscalePipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_unclip_img2img import (
    StableUnCLIPImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint import (
    StableDiffusionXLInpaintPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor

from models_tiny import distance, random, randomised
from pipelines_tiny import (
    BETAS,
    NEGATIVE,
    PROMPT,
    drawn_latents,
    generator,
    quiet,
    sampled,
    save,
    sd_parts,
    settings,
    text_model,
    told,
    tokenizer,
    unet,
    vae,
    xl_parts,
)
from safelight.checkpoints.load import load
from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import edited, guided
from safelight.diffusion.prediction import EPS
from safelight.diffusion.process import ddpm
from safelight.diffusion.schedules import SCHEDULES, truncated
from safelight.models.layers import timestep_embedding
from safelight.tasks.generate import generate
from safelight.text.spec import Size

TOLERANCE = 1e-3  # of the reference's standard deviation, after ten steps
EULER = EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace")
COMMON = {
    "negative_prompt": NEGATIVE,
    "num_inference_steps": 10,
    "output_type": "latent",
}
PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))  # in [0, 1]


def noise_of(seed: int = 5, *shape: int) -> Tensor:
    return torch.randn(shape or (1, 4, 8, 8), generator=generator(seed))


# --- text to image: the derivatives --------------------------------------------------------------


@pytest.mark.parametrize("family", ["small-sd", "bk-sdm-small"])
def test_small_derivatives_of_sd1_draw_as_diffusers_does(family: str, tmp_path: Path) -> None:
    pipeline = quiet(StableDiffusionPipeline(**{**sd_parts(family), "scheduler": EULER}))
    ours = drawn_latents(load(save(pipeline, tmp_path)), settings())
    theirs = pipeline(PROMPT, width=64, height=64, generator=generator(5), **COMMON).images
    assert distance(ours, replace_scale(pipeline, theirs, ours)) <= TOLERANCE


@pytest.mark.parametrize("family", ["ssd-1b", "vega", "koala-700m", "koala-1b"])
def test_derivatives_of_sdxl_draw_as_diffusers_does(family: str, tmp_path: Path) -> None:
    pipeline = quiet(StableDiffusionXLPipeline(**{**xl_parts(family), "scheduler": EULER}))
    ours = drawn_latents(load(save(pipeline, tmp_path)), settings(cfg_scale=5.0))
    theirs = pipeline(
        PROMPT, width=64, height=64, guidance_scale=5.0, generator=generator(5), **COMMON
    ).images
    assert distance(ours, theirs) <= TOLERANCE
