"""What a request says that has no say in its picture, and what SDXL is told of clip skip."""

from itertools import pairwise

import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)

from models_tiny import random
from pipelines_tiny import save, settings, xl_parts
from safelight.checkpoints.load import load
from safelight.diffusion.prediction import EPS
from safelight.diffusion.process import ddpm
from safelight.diffusion.samplers import SAMPLERS
from safelight.diffusion.samplers.restart import restart_path
from safelight.engines.sentinel import Sentinel
from safelight.model import Model
from safelight.tasks.generate import settled
from safelight.tasks.request import Guidance, SamplerOptions, Sizes
from safelight.tasks.wording import (
    RESTARTS_FROM,
    encoded,
    read,
    unused_by_sampler,
    unused_sizes,
)
from safelight.text.spec import Size

IDLE = "clip skip 2 does not act on this family"


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Model:
    pipeline = StableDiffusionXLPipeline(**xl_parts())
    return load(save(pipeline, tmp_path_factory.mktemp("sdxl")))


def told(model: Model, **changes: object) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The context of a short prompt beside a negative one of two chunks, and what was said."""
    long = " ".join(["dull"] * 80)  # the prompt is filled up to its length
    asked = settings(prompt="a cat", negative_prompt=long, steps=2, **changes)
    (request,) = settled(asked, model)
    wording = read(request, model, steps=2, calls_per_step=1)
    with torch.no_grad():
        conditions = encoded(model, request, wording, negated=True, sentinel=Sentinel())
    return conditions.positive["a cat"].context, wording.warnings


def test_clip_skip_moves_sdxl_only_where_it_is_forced(xl: Model) -> None:
    plain, said = told(xl)
    assert not any(IDLE in note for note in said)
    skipped, said = told(xl, clip_skip=2)
    assert torch.equal(skipped, plain) and any(IDLE in note for note in said)
    forced, said = told(xl, clip_skip=2, force_clip_skip=True)
    assert not any(IDLE in note for note in said)
    with torch.no_grad():
        own = xl.text.condition(
            "a cat",
            size=Size(height=64, width=64),
            clip_skip=2,
            force_clip_skip=True,
        )
        whole = xl.text.pad_to(own, 2, clip_skip=2, force_clip_skip=True)
    assert torch.equal(forced, whole.context)
    assert not torch.equal(forced[:, 77:], plain[:, 77:])  # the empty chunk moves with it


def test_sizes_that_a_model_is_not_told_are_said() -> None:
    score, target = Sizes(aesthetic_score=7), Sizes(target=(64, 64))
    for sizes, vector, count in (
        (score, "sdxl", 1),
        (score, "refiner", 0),
        (target, "sdxl", 0),
        (target, "refiner", 1),
        (target, "none", 1),
        (Sizes(), "none", 0),
        (Sizes(), "sdxl", 0),
        (Sizes(), "refiner", 0),
    ):
        assert len(list(unused_sizes(sizes, vector))) == count, (sizes, vector)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_ensd_is_said_to_do_nothing_just_where_no_noise_is_drawn(name: str) -> None:
    sampler = SAMPLERS[name]
    draws = 0

    class Counted:
        def __call__(self) -> torch.Tensor:
            nonlocal draws
            draws += 1
            return random(1, 4, 8, 8)

        def brownian(self, sigma: float, sigma_next: float) -> torch.Tensor:
            return self()

    sigmas = torch.linspace(14.0, 0.03, RESTARTS_FROM, dtype=torch.float64)
    sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
    options = {"process": ddpm(EPS)} if sampler.takes_process else {}
    first = random(1, 4, 8, 8) * 14
    for _ in sampler.run(lambda x, sigma: x * 0.5, first, sigmas, Counted(), **options):
        pass
    request = settings(prompt="", sampler=sampler.label, ensd=3, steps=RESTARTS_FROM)
    said = any("ensd 3 does nothing" in note for note in unused_by_sampler(request, RESTARTS_FROM))
    assert said == (draws == 0)


def test_eta_and_churn_decide_whether_noise_is_drawn() -> None:
    def said(sampler: str, **options: float) -> bool:
        request = settings(
            prompt="", sampler=sampler, ensd=3, sampler_options=SamplerOptions(**options)
        )
        return any("ensd 3" in note for note in unused_by_sampler(request, 20))

    assert said("DDIM") and not said("DDIM", eta=0.5)
    assert said("Euler") and not said("Euler", s_churn=1)
    assert not said("Euler a") and said("Euler a", eta=0)


def test_restart_says_that_it_does_not_restart_below_its_own_limit() -> None:
    def restarts(steps: int) -> bool:
        every = [*torch.linspace(14.0, 0.03, steps).tolist(), 0.0]
        path = restart_path(every)
        return any(later[0] > earlier[1] for earlier, later in pairwise(path))

    def said(steps: int) -> bool:
        request = settings(prompt="", sampler="Restart", steps=steps)
        return any("it is Heun's method" in note for note in unused_by_sampler(request, steps))

    assert restarts(RESTARTS_FROM) and not said(RESTARTS_FROM)
    assert not restarts(RESTARTS_FROM - 1) and said(RESTARTS_FROM - 1)


def test_guidance_rules_without_a_negative_are_said(xl: Model) -> None:
    guidance = Guidance(rescale=0.5, apg={})  # type: ignore[arg-type]
    for scale, count in ((1.0, 2), (2.0, 0)):
        said = told(xl, cfg_scale=scale, guidance=guidance)[1]
        assert sum("has nothing to act on" in note for note in said) == count
