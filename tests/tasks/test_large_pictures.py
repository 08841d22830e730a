"""Pictures larger than a model was made for, end to end against Diffusers."""

from pathlib import Path

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
from torch import Tensor

from models_tiny import distance
from pipelines_tiny import (
    BETAS,
    NEGATIVE,
    PROMPT,
    generator,
    quiet,
    save,
    sd_parts,
    told,
    unet,
    vae,
)
from safelight.checkpoints.load import load
from safelight.checkpoints.save import save as save_model
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import Tiled, Windows, guided
from safelight.diffusion.noise import Noise
from safelight.diffusion.process import start
from safelight.diffusion.samplers import resolve_sampler
from safelight.diffusion.schedules import SCHEDULES
from safelight.errors import RequestError
from safelight.families import Noising, ProcessConfig
from safelight.model import Model
from safelight.models.layers import Wrap, wrapped
from safelight.upscalers.x4 import small_picture

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of the reference's standard deviation, end to end
HEIGHT, WIDTH = 8, 20  # latents


class Panorama(panorama.StableDiffusionPanoramaPipeline):
    """Diffusers' MultiDiffusion with windows of 8 latents every 4, for a model this small."""

    def get_views(
        self, panorama_height: int, panorama_width: int, circular_padding: bool = False, **_: int
    ) -> list[tuple[int, int, int, int]]:
        views: list[tuple[int, int, int, int]] = super().get_views(
            panorama_height, panorama_width, 8, 4, circular_padding
        )
        return views


@pytest.mark.parametrize(("circular", "batch"), [(False, 1), (True, 3)])
def test_tiled_diffusion_is_multidiffusion(circular: bool, batch: int, tmp_path: Path) -> None:
    parts = sd_parts("sd15")
    parts["scheduler"] = DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=1
    )
    pipeline = quiet(Panorama(**parts))
    theirs = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=8 * HEIGHT,
        width=8 * WIDTH,
        num_inference_steps=5,
        guidance_scale=7.5,
        circular_padding=circular,
        generator=generator(5),
        output_type="latent",
    ).images
    model = load(save(pipeline, tmp_path))
    windows = Windows(8, 8, 4, batch=batch, wrap_x=circular)
    assert len(windows.over(HEIGHT, WIDTH)) == 4 + circular
    denoise = guided(Denoiser(Tiled(model.network, windows), model.process), *told(model), 7.5)
    noise = Noise([5], (4, HEIGHT, WIDTH))
    sigmas = SCHEDULES["leading"](model.process, 5)
    x = start(noise(), sigmas, model.process.prediction, "unit")
    with torch.no_grad():
        ours = list(resolve_sampler("DDIM").run(denoise, x, sigmas, noise))[-1].x
    assert distance(ours, theirs) <= TOLERANCE


# -- pictures that continue at their other side ---------------------------------------------------


@pytest.mark.parametrize("windows", [None, Windows(8, 8, 4, wrap_x=True)], ids=["whole", "tiles"])
def test_a_seamless_picture_rolls_with_its_noise(windows: Windows | None, tmp_path: Path) -> None:
    model = load(save(quiet(StableDiffusionPipeline(**sd_parts("sd15"))), tmp_path))
    network = Tiled(model.network, windows) if windows else model.network
    denoise = guided(Denoiser(network, model.process), *told(model), 5.0)
    sigmas = SCHEDULES["normal"](model.process, 4)
    noise = Noise([5], (4, 8, 16))
    first = start(noise(), sigmas, model.process.prediction)
    meets = windows.ends_meet(8, 16) if windows else (True, False)

    def drawn(x: Tensor, *, seamless: bool = True) -> Tensor:
        wrap = Wrap(x=seamless)
        with torch.no_grad(), wrapped(model.network.unet, x=meets[0] and seamless):
            latents = list(resolve_sampler("Euler").run(denoise, x, sigmas, noise))[-1].x
        with torch.no_grad():
            return model.codec.decode(latents, wrap=wrap)

    rolled = drawn(first.roll(8, 3))
    assert distance(drawn(first).roll(64, 3), rolled) <= 1e-3
    assert distance(drawn(first, seamless=False).roll(64, 3), rolled) > 0.1


# -- the x4 upscaler ------------------------------------------------------------------------------

LINEAR = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
OTHER = {"beta_start": 0.002, "beta_end": 0.05, "beta_schedule": "linear"}
SMALL = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(3))  # in [0, 1]


def upscale_pipeline(noising: dict[str, object]) -> StableDiffusionUpscalePipeline:
    parts = sd_parts("sd2-depth")
    del parts["requires_safety_checker"]
    parts |= {
        "unet": unet("x4-upscaler", 64),
        "vae": vae(3, scale=0.08333),
        "scheduler": DDIMScheduler(
            **LINEAR, prediction_type="v_prediction", clip_sample=False, steps_offset=1
        ),
        "low_res_scheduler": DDPMScheduler(**noising),
    }
    return quiet(StableDiffusionUpscalePipeline(**parts, max_noise_level=400))  # type: ignore[return-value]


def enlarged(model: Model, level: int, windows: Windows | None = None) -> Tensor:
    """Our upscaled pictures, drawn as a task would."""
    noising = model.family.noising
    assert noising is not None
    small = small_picture(
        2 * SMALL - 1,
        torch.randn(SMALL.shape, generator=generator(7)),
        noising.process.build(),
        level=level,
        max_level=noising.max_level,
    )
    positive, negative = (small.told(condition) for condition in told(model))
    network = Tiled(model.network, windows) if windows else model.network
    noise = Noise([5], (4, 8, 12))
    sigmas = SCHEDULES["leading"](model.process, 5)
    x = start(noise(), sigmas, model.process.prediction, "unit")
    denoise = guided(Denoiser(network, model.process), positive, negative, 9.0)
    with torch.no_grad():
        latents = list(resolve_sampler("DDIM").run(denoise, x, sigmas, noise))[-1].x
        return model.codec.decode(latents).clamp(-1, 1) / 2 + 0.5


@pytest.mark.parametrize("noising", [LINEAR, OTHER], ids=["same betas", "betas of its own"])
@pytest.mark.parametrize("level", [0, 350])
def test_the_x4_upscaler_draws_the_pictures_of_diffusers(
    level: int, noising: dict[str, object], tmp_path: Path
) -> None:
    pipeline = upscale_pipeline(noising)
    theirs = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=SMALL,
        noise_level=level,
        guidance_scale=9.0,
        num_inference_steps=5,
        latents=Noise([5], (4, 8, 12))(),
        generator=generator(7),
        output_type="pt",
    ).images
    model = load(save(pipeline, tmp_path))
    assert theirs.shape == (1, 3, 32, 48) and theirs.std() > 0.1
    assert distance(enlarged(model, level), theirs) <= 1e-3


def test_the_noising_of_the_small_picture_is_kept_there_and_back(tmp_path: Path) -> None:
    model = load(save(upscale_pipeline(OTHER), tmp_path / "theirs"))
    assert model.family.noising == Noising(
        ProcessConfig(beta_start=0.002, beta_end=0.05, beta_schedule="linear"), 400
    )
    save_model(model, tmp_path / "folder")
    save_model(load(tmp_path / "folder"), tmp_path / "one.safetensors", "ldm")
    assert load(tmp_path / "one.safetensors").family.noising == model.family.noising
    saved = DDPMScheduler.from_pretrained(tmp_path / "folder", subfolder="low_res_scheduler")
    assert (saved.config.beta_end, saved.config.beta_schedule) == (0.05, "linear")


@pytest.mark.parametrize("level", [-1, 401])
def test_a_level_that_the_model_does_not_know_is_refused(level: int, tmp_path: Path) -> None:
    model = load(save(upscale_pipeline(LINEAR), tmp_path))
    with pytest.raises(RequestError, match="between 0 and 400 for this model"):
        enlarged(model, level)


def test_the_small_picture_is_cropped_with_its_window(tmp_path: Path) -> None:
    model = load(save(upscale_pipeline(LINEAR), tmp_path))
    whole = enlarged(model, 20)
    assert torch.equal(enlarged(model, 20, Windows(8, 12, 2)), whole)
    tiled = enlarged(model, 20, Windows(8, 8, 4))
    assert tiled.shape == whole.shape
    # the windows see the right part of the picture: they agree with the whole better than with
    # the whole of another picture
    assert (tiled - whole).abs().mean() < 0.5 * (tiled - whole.flip(3)).abs().mean()
