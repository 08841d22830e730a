"""Our samplers against Diffusers' schedulers: same levels, same smooth network, same draws.

Diffusers keeps its tables in float32, which is what the tolerances leave room for. What it does
differently is set aside as follows; the samplers themselves then agree.

- DDIM, DDPM, PNDM, LCM, TCD and the DPM-Solvers hold x in the variance-preserving scale; there x
  is multiplied by alpha = 1 / sqrt(1 + sigma²) at the start and divided by the last one at the end.
- With `set_alpha_to_one: false` (PNDM, DDIM of Stable Diffusion), with DEIS and with TCD the run
  ends at the smallest training level, not at 0: the same levels are given to ours.
- UniPC's bh1 ends in NaN at 0, so it is compared down to the smallest level.
- DDPM, Euler a and DPMSolverMultistep's SDE draw noise for the step to 0 too, of no strength.
- LCM's boundary scalings differ from (0, 1) by less than 1e-5 at the timesteps in use.
- TCD rounds its leap down to a whole timestep; the eta here makes it whole.
- Euler's churn is compared with k-diffusion only: Diffusers adds that noise after the network has
  answered for the x without it.
- DPMSolverMultistep's order 3 with fewer than 15 steps takes order 2 before the last step.
"""

import sys
from collections.abc import Callable
from functools import cache

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler
from diffusers.schedulers.scheduling_dpmsolver_singlestep import DPMSolverSinglestepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_ipndm import IPNDMScheduler
from diffusers.schedulers.scheduling_k_dpm_2_ancestral_discrete import (
    KDPM2AncestralDiscreteScheduler,
)
from diffusers.schedulers.scheduling_k_dpm_2_discrete import KDPM2DiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from safelight.diffusion.prediction import EPS
from safelight.diffusion.process import Process, ddpm
from safelight.diffusion.samplers import SAMPLERS
from sampler_lab import NoNoise, Replay, finish

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 3, 4, 4)


@cache
def process() -> Process:
    return ddpm(EPS)


def eps(x: Tensor, time: Tensor | float) -> Tensor:
    """A smooth, bounded and nonlinear answer to the scaled x at a timestep."""
    return torch.sin(1.3 * x + 0.002 * float(time)) + 0.3 * x


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return x - sigma * eps(x / (1 + sigma**2) ** 0.5, process().time(sigma))


def normal(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, dtype=torch.float64, generator=generator)


START = 14.6 * normal(1, 0)[0]


def theirs(scheduler: object, first: float, last: float, scaled: bool, **options: object) -> Tensor:
    """Runs a scheduler from START (noise level `first`) to `last`; back in our coordinate."""
    x = START / (1 + first**2) ** 0.5 if scaled else START
    for time in scheduler.timesteps:
        answer = eps(scheduler.scale_model_input(x, time), time)
        x = scheduler.step(answer, time, x, **options).prev_sample
    return x * (1 + last**2) ** 0.5 if scaled else x


def ours(name: str, sigmas: Tensor, noise: object, **options: object) -> Tensor:
    return finish(SAMPLERS[name].run(denoise, START, sigmas.double(), noise, **options))


def draw_from(noise: Replay, scheduler: object, patch: pytest.MonkeyPatch) -> None:
    """Makes a scheduler draw from `noise`."""
    module = sys.modules[type(scheduler).__module__]
    patch.setattr(module, "randn_tensor", lambda *_, **__: noise())


def levels_of(timesteps: Tensor, last: float) -> Tensor:
    return torch.cat([process().sigma_of(timesteps.double()), torch.tensor([last]).double()])


def close(found: Tensor, expected: Tensor, tolerance: float = 2e-5) -> bool:
    """Within `tolerance` of the deviation of the output."""
    return float((found - expected).abs().max()) < tolerance * float(expected.std())


LOWEST = float(ddpm(EPS).sigmas[0])

# The oracle's own use of NumPy.
OLD_NUMPY = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")

# --- schedulers in our own scale --------------------------------------------------------------


@OLD_NUMPY
@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("euler", EulerDiscreteScheduler),
        ("heun", HeunDiscreteScheduler),
        ("lms", LMSDiscreteScheduler),
        ("dpm2", KDPM2DiscreteScheduler),
    ],
)
def test_deterministic_sigma_schedulers_agree(
    name: str, kind: Callable[..., object], spacing: str, steps: int
) -> None:
    scheduler = kind(**BETAS, timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.unique().flip(0)  # Heun and KDPM2 list some levels twice
    assert len(sigmas) == steps + 1
    expected = theirs(scheduler, float(sigmas[0]), 0.0, scaled=False)
    assert close(ours(name, sigmas, NoNoise()), expected)


@OLD_NUMPY
@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("euler_ancestral", EulerAncestralDiscreteScheduler),
        ("dpm2_ancestral", KDPM2AncestralDiscreteScheduler),
    ],
)
def test_ancestral_sigma_schedulers_agree_on_the_same_draws(
    name: str, kind: Callable[..., object], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = kind(**BETAS)
    scheduler.set_timesteps(steps)
    draw_from(Replay(normal(steps, 1)), scheduler, monkeypatch)
    sigmas = scheduler.sigmas.unique().flip(0)
    expected = theirs(scheduler, float(sigmas[0]), 0.0, scaled=False)
    assert close(ours(name, sigmas, Replay(normal(steps, 1))), expected)


def test_dpm_solver_sde_agrees_on_the_same_draws() -> None:
    scheduler = DPMSolverSDEScheduler(**BETAS)
    scheduler.set_timesteps(12)
    their_noise = Replay(normal(24, 1))
    scheduler.noise_sampler = their_noise.brownian
    sigmas = scheduler.sigmas.unique().flip(0)
    expected = theirs(scheduler, float(sigmas[0]), 0.0, scaled=False)
    assert close(ours("dpmpp_sde", sigmas, Replay(normal(24, 1))), expected)


# --- schedulers in the variance-preserving scale ----------------------------------------------


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_agrees(eta: float, to_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=to_one, steps_offset=1)
    scheduler.set_timesteps(20)
    draw_from(Replay(normal(20, 1)), scheduler, monkeypatch)
    last = 0.0 if to_one else LOWEST
    sigmas = levels_of(scheduler.timesteps, last)
    expected = theirs(scheduler, float(sigmas[0]), last, scaled=True, eta=eta)
    assert close(ours("ddim", sigmas, Replay(normal(20, 1)), eta=eta), expected)


def test_ddpm_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = DDPMScheduler(**BETAS, clip_sample=False, steps_offset=1)
    scheduler.set_timesteps(20)
    draw_from(Replay(normal(20, 1)), scheduler, monkeypatch)
    sigmas = levels_of(scheduler.timesteps, 0.0)
    expected = theirs(scheduler, float(sigmas[0]), 0.0, scaled=True)
    assert close(ours("ddpm", sigmas, Replay(normal(20, 1))), expected)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("to_one", [True, False])
def test_pndm_agrees(to_one: bool, steps: int) -> None:
    scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=to_one, steps_offset=1)
    scheduler.set_timesteps(steps)
    last = 0.0 if to_one else LOWEST
    sigmas = levels_of(scheduler.timesteps.unique().flip(0), last)
    assert len(sigmas) == steps + 1
    expected = theirs(scheduler, float(sigmas[0]), last, scaled=True)
    assert close(ours("plms", sigmas, NoNoise()), expected)


@pytest.mark.parametrize("steps", [1, 3, 8, 20])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_dpm_solver_multistep_agrees(solver_type: str, final: str, steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(
        **BETAS,
        solver_type=solver_type,
        final_sigmas_type=final,
        lower_order_final=False,
        # ours takes the step to 0 alone at first order
    )
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double()
    expected = theirs(scheduler, float(sigmas[0]), float(sigmas[-1]), scaled=True)
    if solver_type == "midpoint":
        assert close(ours("dpmpp_2m", sigmas, NoNoise()), expected)
    assert close(
        ours("dpmpp_2m_sde", sigmas, NoNoise(), eta=0.0, solver_type=solver_type), expected
    )


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_sde_dpm_solver_multistep_agrees_on_the_same_draws(
    solver_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="sde-dpmsolver++", solver_type=solver_type
    )
    scheduler.set_timesteps(20)
    draw_from(Replay(normal(20, 1)), scheduler, monkeypatch)
    sigmas = scheduler.sigmas.double()
    expected = theirs(scheduler, float(sigmas[0]), 0.0, scaled=True)
    found = ours("dpmpp_2m_sde", sigmas, Replay(normal(20, 1)), solver_type=solver_type)
    assert close(found, expected)


def test_dpm_solver_multistep_of_order_3_agrees() -> None:
    scheduler = DPMSolverMultistepScheduler(**BETAS, solver_order=3, solver_type="heun")
    scheduler.set_timesteps(20)
    sigmas = scheduler.sigmas.double()
    expected = theirs(scheduler, float(sigmas[0]), 0.0, scaled=True)
    assert close(ours("dpmpp_3m", sigmas, NoNoise()), expected)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_dpm_solver_singlestep_agrees(steps: int, final: str) -> None:
    scheduler = DPMSolverSinglestepScheduler(
        **BETAS, final_sigmas_type=final, lower_order_final=True
    )
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double()
    expected = theirs(scheduler, float(sigmas[0]), float(sigmas[-1]), scaled=True)
    assert close(ours("dpmpp_2s", sigmas, NoNoise()), expected)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("solver_type", "final"), [("bh1", "sigma_min"), ("bh2", "sigma_min"), ("bh2", "zero")]
)
def test_unipc_agrees(solver_type: str, final: str, order: int, steps: int) -> None:
    scheduler = UniPCMultistepScheduler(
        **BETAS, solver_order=order, solver_type=solver_type, final_sigmas_type=final
    )
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double()
    expected = theirs(scheduler, float(sigmas[0]), float(sigmas[-1]), scaled=True)
    name = "uni_pc" if solver_type == "bh1" else "uni_pc_bh2"
    assert close(ours(name, sigmas, NoNoise(), order=order), expected)


@pytest.mark.parametrize("steps", [1, 2, 8, 14, 15, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_agrees(order: int, steps: int) -> None:
    scheduler = DEISMultistepScheduler(**BETAS, solver_order=order)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double()
    expected = theirs(scheduler, float(sigmas[0]), LOWEST, scaled=True)
    # third-order coefficients lose four digits in Diffusers' float32 logarithms
    assert close(ours("deis", sigmas, NoNoise(), order=order), expected, 1e-4)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_lcm_agrees_on_the_same_draws(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = LCMScheduler(**BETAS, clip_sample=False)
    scheduler.set_timesteps(steps)
    draw_from(Replay(normal(8, 1)), scheduler, monkeypatch)
    sigmas = levels_of(scheduler.timesteps, 0.0)
    expected = theirs(scheduler, float(sigmas[0]), 0.0, scaled=True)
    assert close(ours("lcm", sigmas, Replay(normal(8, 1))), expected)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_tcd_agrees_on_the_same_draws(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = TCDScheduler(**BETAS, clip_sample=False)
    scheduler.set_timesteps(timesteps=[998, 758, 498, 258], original_inference_steps=500)
    draw_from(Replay(normal(4, 1)), scheduler, monkeypatch)
    sigmas = levels_of(scheduler.timesteps, LOWEST)
    expected = theirs(scheduler, float(sigmas[0]), LOWEST, scaled=True, eta=eta)
    found = ours("tcd", sigmas, Replay(normal(4, 1)), eta=eta, process=process())
    assert close(found, expected)
    assert torch.equal(found, ours("tcd", sigmas, Replay(normal(4, 1)), eta=eta))


def test_ipndm_agrees() -> None:
    """Its "beta" is the noise's share sin² of x, alpha = sqrt(1 - beta²), and its network answers
    with v."""
    scheduler = IPNDMScheduler()
    scheduler.set_timesteps(12)
    shares = torch.sin(torch.linspace(1, 0, 13, dtype=torch.float64)[1:] * torch.pi / 2) ** 2
    sigmas = shares / (1 - shares**2) ** 0.5  # without the first, infinite one
    x = START / (1 + sigmas[0] ** 2) ** 0.5
    states = []
    for i, sigma in enumerate(sigmas[:-1], start=1):
        alpha = 1 / (1 + sigma**2) ** 0.5
        scheduler._step_index = i
        answer = (eps(x, process().time(sigma)) - sigma * alpha * x) / alpha
        x = scheduler.step(answer, None, x).prev_sample
        states.append(x * (1 + sigmas[i] ** 2) ** 0.5)
    steps = list(SAMPLERS["ipndm"].run(denoise, START, sigmas, NoNoise()))
    # The step to 0 differs by design: ours, like ComfyUI's, ends with the last estimate.
    for step, state in zip(steps[:-1], states[:-1], strict=True):
        assert close(step.x, state)
    assert torch.equal(steps[-1].x, steps[-1].denoised)
