"""Families that draw from more than text, from a saved folder to latents, against Diffusers.

Ours are composed from the library's public pieces, as a reader of the guide would do it: a loaded
model, its conditioner, a guided denoiser, a schedule and a sampler.
"""

from collections.abc import Mapping
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
    told,
    unet,
    vae,
    xl_parts,
)
from safelight.checkpoints.load import load
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import edited, guided
from safelight.diffusion.prediction import EPS
from safelight.diffusion.process import ddpm
from safelight.diffusion.schedules import SCHEDULES, truncated
from safelight.errors import RequestError
from safelight.models.layers import timestep_embedding
from safelight.tasks.generate import generate
from safelight.text.spec import Size

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of the reference's standard deviation, after ten steps
# Where the first noise differs a little: Diffusers scales EDM's as if the data had a deviation of
# 1, and here the pure noise of flow is a level of 10,000.
NEAR = 1e-3
EULER = EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace")
COMMON = {
    "negative_prompt": NEGATIVE,
    "num_inference_steps": 10,
    "output_type": "latent",
}
PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))  # in [0, 1]


def slow(family: str) -> object:
    """A family that differs from a quick one only where the modules are compared, too."""
    return pytest.param(family, marks=pytest.mark.slow)


def noise_of(seed: int = 5, *shape: int) -> Tensor:
    return torch.randn(shape or (1, 4, 8, 8), generator=generator(seed))


# --- from text alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", [slow("small-sd"), "bk-sdm-small"])
def test_small_derivatives_of_sd1_draw_as_diffusers_does(family: str, tmp_path: Path) -> None:
    pipeline = quiet(StableDiffusionPipeline(**{**sd_parts(family), "scheduler": EULER}))
    ours = drawn_latents(load(save(pipeline, tmp_path)), settings(cfg_scale=7.5))
    theirs = pipeline(PROMPT, width=64, height=64, generator=generator(5), **COMMON).images
    assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("family", ["ssd-1b", slow("vega"), "koala-700m", slow("koala-1b")])
def test_derivatives_of_sdxl_draw_as_diffusers_does(family: str, tmp_path: Path) -> None:
    pipeline = quiet(StableDiffusionXLPipeline(**{**xl_parts(family), "scheduler": EULER}))
    ours = drawn_latents(load(save(pipeline, tmp_path)), settings(cfg_scale=5.0))
    theirs = pipeline(PROMPT, width=64, height=64, generator=generator(5), **COMMON).images
    assert distance(ours, theirs) <= TOLERANCE


def test_a_guidance_distilled_model_is_told_the_scale_and_asked_once(tmp_path: Path) -> None:
    parts = {**sd_parts("lcm"), "scheduler": LCMScheduler(**BETAS)}
    pipeline = quiet(LatentConsistencyModelPipeline(**parts))
    model = load(save(pipeline, tmp_path))
    assert model.family.hint.sampler == "lcm"
    for steps in (1, 4, 7):
        request = settings(steps=steps, sampler="LCM", schedule="LCM", cfg_scale=8.5)
        theirs = pipeline(
            PROMPT,
            width=64,
            height=64,
            guidance_scale=8.5,
            num_inference_steps=steps,
            generator=generator(5),
            output_type="latent",
        ).images
        assert distance(drawn_latents(model, request), theirs) <= TOLERANCE
        # the scale is heard, although the network is asked once and no negative prompt is
        milder = drawn_latents(model, request.replace(cfg_scale=2.0))
        assert distance(milder, theirs) > 0.01


# --- from a picture ------------------------------------------------------------------------------


def test_instruct_pix2pix_is_guided_three_ways_from_unscaled_latents(tmp_path: Path) -> None:
    parts = {**sd_parts("pix2pix"), "scheduler": EULER}
    del parts["requires_safety_checker"]
    pipeline = quiet(StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False))
    theirs = pipeline(
        PROMPT,
        image=PICTURE,
        guidance_scale=6.0,
        image_guidance_scale=1.8,
        generator=generator(5),
        **COMMON,
    ).images
    model = load(save(pipeline, tmp_path))
    assert model.family.task == "edit" and model.family.extra_channels == 4
    with torch.no_grad():
        positive, negative = told(model)
        picture = model.codec.autoencoder.encode(2 * PICTURE - 1).mode()
        denoise = edited(
            Denoiser(model.network, model.process),
            replace(positive, concat=picture),
            replace(negative, concat=picture),
            replace(negative, concat=torch.zeros_like(picture)),
            text_scale=6.0,
            image_scale=1.8,
        )
    ours = sampled(model, denoise, SCHEDULES["normal"](model.process, 10))
    assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_the_depth_model_draws_over_a_picture_along_its_depth(
    strength: float, tmp_path: Path
) -> None:
    parts = sd_parts("sd2-depth")
    for name in ("safety_checker", "requires_safety_checker"):
        del parts[name]
    parts["scheduler"] = DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=1
    )
    pipeline = quiet(StableDiffusionDepth2ImgPipeline(**parts, depth_estimator=None))
    depth = random(1, 20, 24).abs()
    theirs = pipeline(
        PROMPT,
        image=PICTURE,
        depth_map=depth,
        strength=strength,
        guidance_scale=7.5,
        generator=generator(5),
        **COMMON,
    ).images
    model = load(save(pipeline, tmp_path))
    assert model.family.task == "depth" and model.family.extra_channels == 1
    with torch.no_grad():
        small = torch.nn.functional.interpolate(depth[:, None], (8, 8), mode="bicubic")
        told_depth = 2 * (small - small.min()) / (small.max() - small.min()) - 1
        positive, negative = (replace(c, concat=told_depth) for c in told(model))
        denoise = guided(Denoiser(model.network, model.process), positive, negative, 7.5)
        draws = generator(5)
        latents = model.codec.encode(2 * PICTURE - 1).sample(draws)
        noise = torch.randn(latents.shape, generator=draws)
    sigmas, _ = truncated(
        lambda steps: SCHEDULES["leading"](model.process, steps), 10, strength, "diffusers"
    )
    ours = sampled(model, denoise, sigmas, first=latents + float(sigmas[0]) * noise)
    assert distance(ours, theirs) <= TOLERANCE


INPAINTING = {
    "sd15-inpaint": (StableDiffusionInpaintPipeline, sd_parts),
    "sd2-inpaint": (StableDiffusionInpaintPipeline, sd_parts),
    "sdxl-inpaint": (StableDiffusionXLInpaintPipeline, xl_parts),
}


@pytest.mark.parametrize("family", ["sd15-inpaint", slow("sd2-inpaint"), "sdxl-inpaint"])
def test_inpainting_models_are_given_mask_and_masked_picture(family: str, tmp_path: Path) -> None:
    kind, parts = INPAINTING[family]
    pipeline = quiet(kind(**{**parts(family), "scheduler": EULER}))
    model = load(save(pipeline, tmp_path))
    assert model.family.task == "inpaint"
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 13:50, 22:] = 1.0  # its edges fall inside latent pixels
    with torch.no_grad():
        masked = model.codec.encode((2 * PICTURE - 1) * (mask < 0.5)).mode()
    theirs = pipeline(
        PROMPT,
        image=PICTURE,
        mask_image=mask,
        masked_image_latents=masked,
        strength=1.0,
        width=64,
        height=64,
        guidance_scale=7.5,
        generator=generator(5),
        **COMMON,
    ).images
    size = Size(64, 64) if "sdxl" in family else None
    with torch.no_grad():
        given = torch.cat([torch.nn.functional.interpolate(mask, (8, 8)), masked], dim=1)
        positive, negative = (replace(c, concat=given) for c in told(model, size))
        denoise = guided(Denoiser(model.network, model.process), positive, negative, 7.5)
    ours = sampled(model, denoise, SCHEDULES["normal"](model.process, 10))
    assert distance(ours, theirs) <= TOLERANCE


def test_the_refiner_is_told_how_beautiful_a_picture_it_goes_on_from(tmp_path: Path) -> None:
    parts = xl_parts()
    parts |= {"text_encoder": None, "tokenizer": None, "scheduler": EULER}
    parts["unet"] = unet("sdxl-refiner", 128, 40 + 5 * 8)
    pipeline = quiet(StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True))
    latents = random(1, 4, 8, 8)
    theirs = pipeline(
        PROMPT,
        image=latents,
        strength=0.6,
        guidance_scale=5.0,
        aesthetic_score=7.25,
        negative_aesthetic_score=1.5,
        original_size=(480, 640),
        crops_coords_top_left=(8, 24),
        negative_original_size=(480, 640),
        negative_crops_coords_top_left=(8, 24),
        generator=generator(5),
        **COMMON,
    ).images
    model = load(save(pipeline, tmp_path))
    assert model.family.task == "refine"
    size = Size(
        64,
        64,
        original=(480, 640),
        crop=(8, 24),
        aesthetic_score=7.25,
        negative_aesthetic_score=1.5,
    )
    with torch.no_grad():
        denoise = guided(Denoiser(model.network, model.process), *told(model, size), 5.0)
    sigmas, count = truncated(
        lambda steps: SCHEDULES["normal"](model.process, steps), 10, 0.6, "diffusers"
    )
    assert count == 6
    ours = sampled(model, denoise, sigmas, first=latents + float(sigmas[0]) * noise_of())
    assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("level", [0, 350])
def test_the_x4_upscaler_is_given_a_noised_picture_and_its_level(
    level: int, tmp_path: Path
) -> None:
    linear = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    parts = sd_parts("sd2-depth")
    del parts["requires_safety_checker"]
    parts |= {
        "unet": unet("x4-upscaler", 64),
        "vae": vae(3, scale=0.08333),
        "scheduler": DDIMScheduler(
            **linear, prediction_type="v_prediction", clip_sample=False, steps_offset=1
        ),
        "low_res_scheduler": DDPMScheduler(**linear),
    }
    pipeline = quiet(StableDiffusionUpscalePipeline(**parts))
    picture, first = PICTURE[..., :8, :8], noise_of()
    theirs = pipeline(
        PROMPT,
        image=picture,
        noise_level=level,
        guidance_scale=9.0,
        latents=first,
        generator=generator(7),
        **COMMON,
    ).images
    model = load(save(pipeline, tmp_path))
    assert model.family.task == "upscale" and model.codec.factor == 4
    sigma = float(model.process.sigma_of(level))
    noise = noise_of(7, 1, 3, 8, 8)
    noised = (2 * picture - 1 + sigma * noise) / (1 + sigma**2) ** 0.5
    with torch.no_grad():
        positive, negative = (
            replace(c, concat=noised, level=torch.tensor([level])) for c in told(model)
        )
        denoise = guided(Denoiser(model.network, model.process), positive, negative, 9.0)
    sigmas = SCHEDULES["leading"](model.process, 10)
    ours = sampled(model, denoise, sigmas, sampler="DDIM", rule="unit")
    assert distance(ours, theirs) <= TOLERANCE


def test_unclip_is_told_a_noised_picture_embedding_and_its_level(tmp_path: Path) -> None:
    from transformers.models.clip.configuration_clip import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

    width, level = 10, 30
    parts = sd_parts("sd21-unclip-l")
    for name in ("safety_checker", "requires_safety_checker"):
        del parts[name]
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        projection_dim=width,
        image_size=16,
        patch_size=8,
    )
    normaliser = randomised(StableUnCLIPImageNormalizer(embedding_dim=width), 6)
    parts |= {
        "image_encoder": CLIPVisionModelWithProjection(vision),
        "image_normalizer": normaliser,
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "scheduler": EulerDiscreteScheduler(**BETAS, prediction_type="v_prediction"),
    }
    pipeline = quiet(StableUnCLIPImg2ImgPipeline(**parts))
    embedding = random(1, width, seed=8)
    theirs = pipeline(
        prompt=PROMPT,
        image_embeds=embedding,
        noise_level=level,
        guidance_scale=10.0,
        width=64,
        height=64,
        generator=generator(7),
        **COMMON,
    ).images
    model = load(save(pipeline, tmp_path))
    assert model.family.task == "variation" and model.process.prediction.name == "v"
    sigma = float(ddpm(EPS, beta_schedule="squaredcos_cap_v2").sigma_of(level))
    mean, std = normaliser.mean.data, normaliser.std.data
    draws = generator(7)
    noised = (embedding - mean) / std + sigma * torch.randn(embedding.shape, generator=draws)
    noised = noised / (1 + sigma**2) ** 0.5 * std + mean
    vector = torch.cat([noised, timestep_embedding(torch.tensor([float(level)]), width)], dim=1)
    with torch.no_grad():
        positive, negative = told(model)
        positive = replace(positive, vector=vector)
        negative = replace(negative, vector=torch.zeros_like(vector))
        denoise = guided(Denoiser(model.network, model.process), positive, negative, 10.0)
    sigmas = SCHEDULES["normal"](model.process, 10)
    first = float(sigmas[0]) * torch.randn((1, 4, 8, 8), generator=draws)
    assert distance(sampled(model, denoise, sigmas, first=first), theirs) <= TOLERANCE


@pytest.mark.parametrize("family", ["pix2pix", "x4-upscaler", "sd21-unclip-l"])
def test_a_model_that_wants_a_picture_says_so_when_given_only_text(
    family: str, tmp_path: Path
) -> None:
    parts = sd_parts("sd15")
    parts["unet"] = unet(family, 64)
    model = load(save(StableDiffusionPipeline(**parts), tmp_path))
    with pytest.raises(RequestError, match="which draws from a picture, not from text alone"):
        list(generate(model, settings()))


# --- other noise processes -----------------------------------------------------------------------

PLAYGROUND_VAE = {
    "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
    "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
}
EDM: Mapping[str, tuple[object, str, str]] = {
    "playground-2.5": (EDMDPMSolverMultistepScheduler(), "DPM++ 2M", "edm"),
    "playground-2.5-euler": (EDMEulerScheduler(), "Euler", "edm"),
    "cosxl": (
        EDMEulerScheduler(sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction"),
        "Euler",
        "v",
    ),
}


@pytest.mark.parametrize("name", ["playground-2.5", slow("playground-2.5-euler"), "cosxl"])
def test_edm_models_draw_as_diffusers_does(name: str, tmp_path: Path) -> None:
    scheduler, sampler, prediction = EDM[name]
    parts = {**xl_parts(), "scheduler": scheduler}
    if "playground" in name:
        parts["vae"] = vae(scale=0.5, **PLAYGROUND_VAE)
    pipeline = quiet(StableDiffusionXLPipeline(**parts))
    model = load(save(pipeline, tmp_path))
    assert model.process.prediction.name == prediction
    assert model.process.sigma_max == pytest.approx(120.0 if name == "cosxl" else 80.0)
    request = settings(sampler=sampler, schedule="Karras", start="unit", cfg_scale=3.0)
    call = {**COMMON, "width": 64, "height": 64, "guidance_scale": 3.0}
    theirs = pipeline(PROMPT, generator=generator(5), **call).images
    assert distance(drawn_latents(model, request), theirs) <= NEAR
    shown = pipeline(PROMPT, generator=generator(5), **{**call, "output_type": "np"}).images[0]
    (ours,) = generate(model, request)
    assert np.abs(ours.pixels / 255 - shown).max() <= 1.5 / 255
    assert shown.std() > 0.04  # there is something to see


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_model_follows_its_velocity_as_diffusers_does(shift: float, tmp_path: Path) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    pipeline = StableDiffusionPipeline(**{**sd_parts("sd15"), "scheduler": scheduler})
    model = load(save(pipeline, tmp_path))
    assert model.process.prediction.name == "flow"
    ours = drawn_latents(model, settings(schedule="simple", start="unit", cfg_scale=4.0))
    # Diffusers has no pipeline that joins this scheduler to a U-Net
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.1, 10))
    positive, negative = (c.context for c in told(model))
    x = noise_of()
    with torch.no_grad():
        for time in scheduler.timesteps:
            above = pipeline.unet(x, time, positive).sample
            below = pipeline.unet(x, time, negative).sample
            x = scheduler.step(below + 4.0 * (above - below), time, x).prev_sample
    assert distance(ours, x) <= NEAR
