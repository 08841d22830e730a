"""End to end, from a saved folder to latents and pixels, against Diffusers' pipelines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint import (
    StableDiffusionInpaintPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import (
    EulerAncestralDiscreteScheduler,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

from models_tiny import distance
from pipelines_tiny import BETAS, generator, quiet, save, sd_parts, unet, xl_parts
from safelight.checkpoints.load import load
from safelight.engines.sentinel import Sentinel
from safelight.model import Model
from safelight.tasks.generate import generate, settled
from safelight.tasks.plan import plan
from safelight.tasks.request import Request

pytestmark = pytest.mark.slow

PROMPT, NEGATIVE = "a red apple on a blue table, oil painting", "blurry"

# name -> (Diffusers' scheduler, its options, our sampler, our schedule)
SCHEDULERS = {
    "ddim": (
        DDIMScheduler,
        {"set_alpha_to_one": True, "clip_sample": False, "steps_offset": 1},
        "DDIM",
        "leading",
    ),
    "euler": (EulerDiscreteScheduler, {"timestep_spacing": "linspace"}, "Euler", "normal"),
    "euler-trailing": (
        EulerDiscreteScheduler,
        {"timestep_spacing": "trailing"},
        "Euler",
        "trailing",
    ),
    "euler-a": (
        EulerAncestralDiscreteScheduler,
        {"timestep_spacing": "trailing"},
        "Euler a",
        "trailing",
    ),
    "dpmpp-2m": (DPMSolverMultistepScheduler, {}, "DPM++ 2M", "linspace_dpm"),
}


class Twin:
    """A Diffusers pipeline and our model loaded from its folder."""

    def __init__(self, pipeline: object, folder: Path) -> None:
        self.theirs = quiet(pipeline)
        self.ours = load(save(pipeline, folder))
        self.prediction = pipeline.scheduler.config.prediction_type  # type: ignore[attr-defined]

    def schedule(self, name: str) -> None:
        kind, options, _, _ = SCHEDULERS[name]
        self.theirs.scheduler = kind(**BETAS, prediction_type=self.prediction, **options)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Twin]:
    made = {
        name: Twin(StableDiffusionPipeline(**sd_parts(family)), tmp_path_factory.mktemp(name))
        for name, family in (("sd15", "sd15"), ("sd2", "sd21"), ("tiny-sd", "tiny-sd"))
    }
    velocity = sd_parts("sd21")
    velocity["scheduler"] = DDIMScheduler(
        **BETAS, prediction_type="v_prediction", clip_sample=False
    )
    made["sd2-v"] = Twin(StableDiffusionPipeline(**velocity), tmp_path_factory.mktemp("sd2v"))
    made["sdxl"] = Twin(StableDiffusionXLPipeline(**xl_parts()), tmp_path_factory.mktemp("sdxl"))
    return made


def request(name: str, **changes: object) -> Request:
    _, _, sampler, schedule = SCHEDULERS[name]
    settings = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "width": 64,
        "height": 64,
        "steps": 10,
        "seed": 5,
        "sampler": sampler,
        "schedule": schedule,
        "start": "diffusers",
        **changes,
    }
    return Request.parse(settings)


def latents(model: Model, request: Request) -> torch.Tensor:
    """What the sampler ends on."""
    with torch.no_grad():
        drawing = plan(model, settled(request, model), Sentinel())
        return list(drawing.steps())[-1].x


def reference(twin: Twin, request: Request, output: str, **options: object) -> object:
    return twin.theirs(
        request.prompt,
        negative_prompt=options.pop("negative_prompt", request.negative_prompt),
        width=64,
        height=64,
        num_inference_steps=request.steps,
        guidance_scale=request.cfg_scale,
        generator=generator(5),
        output_type=output,
        **options,
    ).images


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("family", ["sd15", "sd2", "sd2-v", "sdxl", "tiny-sd"])
def test_ten_steps_end_on_the_latents_of_diffusers(
    twins: dict[str, Twin], family: str, scheduler: str
) -> None:
    twin = twins[family]
    twin.schedule(scheduler)
    asked = request(scheduler)
    theirs = reference(twin, asked, "latent")
    assert isinstance(theirs, torch.Tensor)
    assert distance(latents(twin.ours, asked), theirs) <= 1e-3


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_pictures_are_those_of_diffusers_within_one_level(
    twins: dict[str, Twin], family: str
) -> None:
    twin = twins[family]
    twin.schedule("euler")
    asked = request("euler")
    (ours,) = generate(twin.ours, asked)
    theirs = np.asarray(reference(twin, asked, "pil")[0])  # type: ignore[index]
    assert np.abs(ours.pixels.astype(int) - theirs.astype(int)).max() <= 1
    assert theirs.std() > 10  # there is something to see


def test_without_a_negative_prompt_sdxl_is_guided_away_from_zeros(twins: dict[str, Twin]) -> None:
    twin = twins["sdxl"]
    twin.schedule("euler")
    asked = request("euler", negative_prompt="")
    theirs = reference(twin, asked, "latent", negative_prompt=None)
    assert isinstance(theirs, torch.Tensor)
    assert distance(latents(twin.ours, asked), theirs) <= 1e-3


def test_sdxl_is_told_sizes_and_crops_as_diffusers_tells_them(twins: dict[str, Twin]) -> None:
    twin = twins["sdxl"]
    twin.schedule("euler")
    sizes = {
        "original": (640, 480),
        "target": (512, 768),
        "crop_left": 8,
        "crop_top": 24,
        "negative_original": (100, 200),
    }
    asked = request("euler", sizes=sizes)
    theirs = reference(
        twin,
        asked,
        "latent",
        original_size=(480, 640),
        target_size=(768, 512),
        crops_coords_top_left=(24, 8),
        negative_original_size=(200, 100),
        negative_target_size=(768, 512),
        negative_crops_coords_top_left=(24, 8),
    )
    assert isinstance(theirs, torch.Tensor)
    assert distance(latents(twin.ours, asked), theirs) <= 1e-3


def test_guidance_rescale_is_that_of_diffusers(twins: dict[str, Twin]) -> None:
    twin = twins["sd2-v"]
    twin.schedule("ddim")
    asked = request("ddim", guidance={"rescale": 0.7})
    theirs = reference(twin, asked, "latent", guidance_rescale=0.7)
    assert isinstance(theirs, torch.Tensor)
    assert distance(latents(twin.ours, asked), theirs) <= 1e-3


def test_at_scale_1_the_negative_is_never_encoded(twins: dict[str, Twin]) -> None:
    twin = twins["sd15"]
    twin.schedule("euler")
    asked = request("euler", cfg_scale=1.0)
    theirs = reference(twin, asked, "latent")
    assert isinstance(theirs, torch.Tensor)
    assert distance(latents(twin.ours, asked), theirs) <= 1e-3
    with_other = request("euler", cfg_scale=1.0, negative_prompt="(anything) else")
    assert torch.equal(latents(twin.ours, asked), latents(twin.ours, with_other))


def test_clip_skip_2_is_diffusers_clip_skip_1(twins: dict[str, Twin]) -> None:
    twin = twins["sd15"]
    twin.schedule("euler")
    asked = request("euler", clip_skip=2)
    # Diffusers' own clip_skip reads an attribute that Transformers 5 no longer has
    encoder, words = twin.theirs.text_encoder, twin.theirs.tokenizer
    embeds = []
    for text in (PROMPT, NEGATIVE):
        ids = words(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = encoder(ids, output_hidden_states=True).hidden_states[-2]
            embeds.append(encoder.final_layer_norm(hidden))
    theirs = twin.theirs(
        prompt_embeds=embeds[0],
        negative_prompt_embeds=embeds[1],
        width=64,
        height=64,
        num_inference_steps=10,
        guidance_scale=7.0,
        generator=generator(5),
        output_type="latent",
    ).images
    assert isinstance(theirs, torch.Tensor)
    assert distance(latents(twin.ours, asked), theirs) <= 1e-3


def test_an_inpainting_model_paints_the_whole_picture_from_text(tmp_path: Path) -> None:
    parts = {**sd_parts("sd15"), "unet": unet("sd15-inpaint", 64)}
    parts["scheduler"] = EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace")
    pipeline = quiet(StableDiffusionInpaintPipeline(**parts))
    ours = load(save(pipeline, tmp_path))
    assert ours.family.task == "inpaint"
    # Diffusers draws the masked picture's latents from their distribution; ours takes its mean.
    pipeline._encode_vae_image = lambda image, generator: (  # type: ignore[attr-defined]
        pipeline.vae.encode(image).latent_dist.mode() * 0.18215  # type: ignore[attr-defined]
    )
    theirs = pipeline(  # type: ignore[operator]
        PROMPT,
        image=torch.zeros(1, 3, 64, 64),
        mask_image=torch.ones(1, 1, 64, 64),
        negative_prompt=NEGATIVE,
        strength=1.0,
        num_inference_steps=10,
        guidance_scale=7.0,
        width=64,
        height=64,
        generator=generator(5),
        output_type="latent",
    ).images
    assert distance(latents(ours, request("euler")), theirs) <= 1e-3
