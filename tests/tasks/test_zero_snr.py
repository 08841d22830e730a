"""Models trained to zero terminal SNR, from a saved folder to latents, against Diffusers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

from models_tiny import distance
from pipelines_tiny import (
    BETAS,
    HASTE,
    NEGATIVE,
    PROMPT,
    drawn_latents,
    generator,
    quiet,
    save,
    sd_parts,
    settings,
    xl_parts,
)
from safelight.checkpoints.load import load
from safelight.diffusion.samplers import SAMPLERS
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.generate import generate

pytestmark = pytest.mark.slow

ZERO = {
    **BETAS,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
# name -> (Diffusers' scheduler, our sampler)
SCHEDULERS = {
    "ddim": (DDIMScheduler(**ZERO, clip_sample=False, set_alpha_to_one=True), "DDIM"),
    "euler": (EulerDiscreteScheduler(**ZERO), "Euler"),
}


@pytest.fixture(scope="module")
def pipelines() -> dict[str, object]:
    scheduler = SCHEDULERS["ddim"][0]
    return {
        "sd2": quiet(StableDiffusionPipeline(**{**sd_parts("sd21"), "scheduler": scheduler})),
        "sdxl": quiet(StableDiffusionXLPipeline(**{**xl_parts(), "scheduler": scheduler})),
    }


@pytest.fixture(scope="module")
def models(
    pipelines: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Model]:
    return {
        name: load(save(pipeline, tmp_path_factory.mktemp(name)))
        for name, pipeline in pipelines.items()
    }


def test_the_folder_says_that_the_noise_is_complete(models: dict[str, Model]) -> None:
    for model in models.values():
        assert model.family.process.zero_terminal_snr
        assert model.process.sigma_max == 1e4
        assert float(model.process.time(model.process.sigmas[-1])) == 999


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_ten_steps_end_on_the_latents_of_diffusers(
    pipelines: dict[str, object],
    models: dict[str, Model],
    family: str,
    scheduler: str,
    rescale: float,
) -> None:
    theirs, sampler = SCHEDULERS[scheduler]
    pipeline = pipelines[family]
    pipeline.scheduler = theirs  # type: ignore[attr-defined]
    expected = pipeline(  # type: ignore[operator]
        PROMPT,
        negative_prompt=NEGATIVE,
        width=64,
        height=64,
        num_inference_steps=10,
        guidance_scale=7.5,
        guidance_rescale=rescale,
        generator=generator(5),
        output_type="latent",
    ).images
    request = settings(
        sampler=sampler, schedule="trailing", cfg_scale=7.5, guidance={"rescale": rescale}
    )
    assert distance(drawn_latents(models[family], request), expected) <= 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_a_finite_picture_from_nothing_but_noise(
    models: dict[str, Model], sampler: str
) -> None:
    options = {"sampler_options": HASTE} if sampler == "dpm_adaptive" else {}
    request = settings(
        sampler=sampler, schedule="trailing", steps=4, guidance={"rescale": 0.7}, **options
    )
    latents = drawn_latents(models["sd2"], request)
    assert torch.isfinite(latents).all()
    assert 0.1 < float(latents.std()) < 30


def test_a_picture_from_complete_noise_has_something_to_see(models: dict[str, Model]) -> None:
    request = settings(schedule="trailing", guidance={"rescale": 0.7})
    (picture,) = generate(models["sdxl"], request)
    assert not picture.warnings
    assert picture.pixels.std() > 10
    assert len(np.unique(picture.pixels)) > 50


def test_complete_noise_and_a_prediction_of_it_exclude_each_other(tmp_path: Path) -> None:
    scheduler = DDIMScheduler(**{**ZERO, "prediction_type": "epsilon"})
    folder = save(StableDiffusionPipeline(**{**sd_parts("sd15"), "scheduler": scheduler}), tmp_path)
    with pytest.raises(RequestError, match="zero terminal SNR cannot be used with eps"):
        load(folder)
    # The setting overrules what the folder says.
    assert load(folder, zero_terminal_snr=False).process.sigma_max == pytest.approx(14.6, abs=0.1)
    assert load(folder, prediction="v").process.sigma_max == 1e4
