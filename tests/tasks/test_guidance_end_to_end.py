"""Guidances of a request: what the library's pieces make of them, and what Diffusers does."""

from collections.abc import Callable

import pytest
import torch
from diffusers.pipelines.deprecated.stable_diffusion_sag.pipeline_stable_diffusion_sag import (
    StableDiffusionSAGPipeline,
)
from diffusers.pipelines.pag.pipeline_pag_sd import StableDiffusionPAGPipeline
from diffusers.pipelines.pag.pipeline_pag_sd_xl import StableDiffusionXLPAGPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

from models_tiny import distance
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
    xl_parts,
)
from safelight.checkpoints.load import load
from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoise, Denoiser
from safelight.diffusion.guidance import (
    AdaptiveProjection,
    DynamicThresholding,
    Perturbation,
    Rescaled,
    between,
    guided,
    self_attention_guided,
    with_freeu,
)
from safelight.diffusion.schedules import SCHEDULES
from safelight.model import Model

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of the reference's standard deviation, after ten steps
FREEU = {"b1": 1.5, "b2": 1.6, "s1": 0.9, "s2": 0.2}
PERTURBED = ("down_blocks.1.attentions.0", "mid")  # names of a request


@pytest.fixture(scope="module")
def pipelines() -> dict[str, object]:
    linspace = EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace")
    return {
        "sd15": quiet(StableDiffusionPipeline(**{**sd_parts("sd15"), "scheduler": linspace})),
        "sdxl": quiet(StableDiffusionXLPipeline(**{**xl_parts(), "scheduler": linspace})),
    }


@pytest.fixture(scope="module")
def models(
    pipelines: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Model]:
    return {
        name: load(save(pipeline, tmp_path_factory.mktemp(name)))
        for name, pipeline in pipelines.items()
    }


def reference(pipeline: object, *, side: int = 64, **options: object) -> torch.Tensor:
    latents = pipeline(  # type: ignore[operator]
        PROMPT,
        negative_prompt=NEGATIVE,
        width=side,
        height=side,
        num_inference_steps=10,
        generator=generator(5),
        output_type="latent",
        **{"guidance_scale": 6.0, **options},
    ).images
    assert isinstance(latents, torch.Tensor)
    return latents


# --- the same as the library's pieces ------------------------------------------------------------

Compose = Callable[[Denoiser, Condition, Condition], Denoise]
COMPOSED: dict[str, tuple[dict[str, object], Compose]] = {
    "pag": (
        {"pag": {"scale": 2.5, "layers": PERTURBED}},
        lambda d, p, n: guided(
            d, p, n, 6, perturbation=Perturbation((PERTURBED[0], "mid_block"), 2.5)
        ),
    ),
    "sag": (
        {"sag": {"scale": 0.6}},
        lambda d, p, n: self_attention_guided(d, p, n, 6, sag_scale=0.6),
    ),
    "freeu": (
        {"freeu": FREEU},
        lambda d, p, n: guided(d, with_freeu(p, **FREEU), with_freeu(n, **FREEU), 6),
    ),
    "apg": (
        {"apg": {"eta": 0.3, "momentum": -0.4, "norm_threshold": 5.0}},
        lambda d, p, n: guided(d, p, n, 6, rule=AdaptiveProjection(0.3, 5.0, -0.4)),
    ),
    "thresholding": (
        {"thresholding": {"mimic_scale": 3.0, "percentile": 0.95}},
        lambda d, p, n: guided(d, p, n, 6, rule=DynamicThresholding(3.0, 0.95)),
    ),
    "rescale": (
        {"rescale": 0.7},
        lambda d, p, n: guided(d, p, n, 6, rule=Rescaled(d.process.prediction, 0.7)),
    ),
    "rescaled apg with freeu": (
        {"rescale": 0.5, "apg": {"momentum": 0.0}, "freeu": FREEU},
        lambda d, p, n: guided(
            d,
            with_freeu(p, **FREEU),
            with_freeu(n, **FREEU),
            6,
            rule=Rescaled(d.process.prediction, 0.5, AdaptiveProjection(0.0, 15.0, 0.0)),
        ),
    ),
    "pag in an interval": (
        {"pag": {}, "start": 0.2, "end": 0.6},
        lambda d, p, n: between(
            guided(d, p, n, 6, perturbation=Perturbation(("mid_block",), 3.0)),
            guided(d, p, None, 1),
            float(SCHEDULES["normal"](d.process, 10)[2]),
            float(SCHEDULES["normal"](d.process, 10)[6]),
        ),
    ),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_a_request_draws_what_the_composition_draws(models: dict[str, Model], name: str) -> None:
    guidance, compose = COMPOSED[name]
    model = models["sd15"]
    size = {"width": 128, "height": 128}  # so that the network's middle has places to tell apart
    request = settings(guidance=guidance, cfg_scale=6.0, **size)
    with torch.no_grad():
        denoise = compose(Denoiser(model.network, model.process), *told(model))
    composed = sampled(model, denoise, SCHEDULES["normal"](model.process, 10), side=16)
    drawn = drawn_latents(model, request)
    assert torch.equal(drawn, composed)
    plain = drawn_latents(model, settings(cfg_scale=6.0, **size))
    assert distance(drawn, plain) > 0.01


# --- the same as Diffusers -----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [6.0, 1.0])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_perturbed_attention_guidance_is_that_of_diffusers(
    pipelines: dict[str, object], models: dict[str, Model], family: str, scale: float
) -> None:
    pipeline = pipelines[family]
    kind = StableDiffusionPAGPipeline if family == "sd15" else StableDiffusionXLPAGPipeline
    perturbed = quiet(
        kind(
            **pipeline.components,  # type: ignore[attr-defined]
            **({"requires_safety_checker": False} if family == "sd15" else {}),
            pag_applied_layers=["mid", r"down_blocks\.1\.attentions\.0"],
        )
    )
    theirs = reference(perturbed, pag_scale=2.5, guidance_scale=scale)
    request = settings(cfg_scale=scale, guidance={"pag": {"scale": 2.5, "layers": PERTURBED}})
    assert distance(drawn_latents(models[family], request), theirs) <= TOLERANCE


@pytest.mark.parametrize("scale", [6.0, 1.0])
def test_self_attention_guidance_is_that_of_diffusers(
    pipelines: dict[str, object], models: dict[str, Model], scale: float
) -> None:
    components = dict(pipelines["sd15"].components)  # type: ignore[attr-defined]
    components["scheduler"] = DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=1
    )
    pipeline = quiet(StableDiffusionSAGPipeline(**components, requires_safety_checker=False))
    theirs = reference(pipeline, side=128, sag_scale=0.75, guidance_scale=scale)
    request = settings(
        sampler="DDIM",
        schedule="leading",
        cfg_scale=scale,
        guidance={"sag": {"scale": 0.75}},
        width=128,
        height=128,
    )
    assert distance(drawn_latents(models["sd15"], request), theirs) <= TOLERANCE


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_freeu_is_that_of_diffusers(
    pipelines: dict[str, object], models: dict[str, Model], family: str
) -> None:
    pipeline = pipelines[family]
    pipeline.enable_freeu(**FREEU)  # type: ignore[attr-defined]
    try:
        theirs = reference(pipeline)
    finally:
        pipeline.disable_freeu()  # type: ignore[attr-defined]
    request = settings(cfg_scale=6.0, guidance={"freeu": FREEU})
    assert distance(drawn_latents(models[family], request), theirs) <= TOLERANCE
