import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler
from scipy import stats
from torch import Tensor

from safelight.diffusion import schedules
from safelight.diffusion.beta_distribution import beta_cdf, beta_quantile
from safelight.diffusion.prediction import EPS, V
from safelight.diffusion.process import Process, ddpm, edm, flow
from safelight.diffusion.schedules import (
    SCHEDULES,
    Schedule,
    resolve_schedule,
    truncated,
    until_sigma_min,
    without_penultimate,
)
from safelight.errors import RequestError

SD = ddpm(EPS)
PROCESSES = {
    "sd": SD,
    "zero-snr": ddpm(V, zero_terminal_snr=True),
    "flow": flow(3.0),
    "edm": edm(),
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def timesteps(sigmas: Tensor) -> Tensor:
    return SD.time(sigmas[:-1])


# --- laws of all ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_every_schedule_descends_to_zero_in_as_many_steps_as_asked(
    schedule: Schedule, process: Process
) -> None:
    for steps in (1, 2, 3, 10, 20, 37, 50):
        sigmas = schedule(process, steps)
        assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float64
        assert sigmas[-1] == 0
        assert (sigmas.diff() < 0).all() and sigmas.isfinite().all()


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_fewer_than_one_step_is_refused(schedule: Schedule) -> None:
    for steps in (0, -1):
        with pytest.raises(RequestError, match=f"steps must be 1 or more; got {steps}"):
            schedule(SD, steps)


@pytest.mark.parametrize("name", ["leading", "leading_dpm", "linspace_dpm", "trailing", "simple"])
def test_schedules_of_training_levels_refuse_more_steps_than_there_are(name: str) -> None:
    with pytest.raises(RequestError, match=r"takes at most .* steps here; got 1001"):
        SCHEDULES[name](SD, 1001)


def test_unknown_options_are_named() -> None:
    with pytest.raises(RequestError, match="schedule karras has no option 'roh'; it has rho, sig"):
        SCHEDULES["karras"](SD, 10, roh=3)
    with pytest.raises(RequestError, match="0 < sigma_min < sigma_max; got 5"):
        SCHEDULES["karras"](SD, 10, sigma_min=5, sigma_max=1)


# --- recorded numbers (computed with diffusers 0.42.1 and k-diffusion) -------------------------

GOLDEN_TIMESTEPS = {
    ("leading", 10): (901, 801, 701, 601, 501, 401, 301, 201, 101, 1),
    ("leading_dpm", 10): (901, 811, 721, 631, 541, 451, 361, 271, 181, 91),
    ("linspace", 10): (999, 888, 777, 666, 555, 444, 333, 222, 111, 0),
    ("linspace_ddim", 10): (999, 888, 777, 666, 555, 444, 333, 222, 111, 0),
    ("linspace_dpm", 10): (999, 899, 799, 699, 599, 500, 400, 300, 200, 100),
    ("trailing", 10): (999, 899, 799, 699, 599, 499, 399, 299, 199, 99),
    ("lcm", 4): (999, 759, 499, 259),
}


@pytest.mark.parametrize(("name", "steps"), GOLDEN_TIMESTEPS)
def test_published_timesteps(name: str, steps: int) -> None:
    ours = timesteps(resolve_schedule(name)(SD, steps))
    expected = torch.tensor(GOLDEN_TIMESTEPS[name, steps], dtype=torch.float64)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("leading", (951, 901), 1), ("trailing", (999, 949), 49), ("linspace_ddim", (999, 946), 0)],
)
def test_published_timesteps_of_twenty_steps(name: str, first: tuple[int, int], last: int) -> None:
    ours = timesteps(SCHEDULES[name](SD, 20)).round().tolist()
    assert (ours[0], ours[1]) == first and ours[-1] == last


def test_karras_levels_of_stable_diffusion() -> None:
    expected = [14.6146, 9.1029, 5.4784, 3.1686, 1.7494, 0.9141, 0.4469, 0.2014, 0.0819, 0.0292, 0]
    ours = SCHEDULES["karras"](SD, 10)
    assert torch.allclose(ours, torch.tensor(expected).double(), rtol=0, atol=6e-5)
    times = timesteps(ours).tolist()
    assert times[:4] == pytest.approx([999, 916.28, 815.04, 687.15], abs=0.01)
    assert times[-2:] == pytest.approx([6.73, 0], abs=0.01)


def test_align_your_steps_is_as_published_for_ten_steps() -> None:
    sd1 = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0]
    sdxl = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0]
    assert SCHEDULES["align_your_steps"](SD, 10).tolist() == pytest.approx(sd1)
    assert SCHEDULES["align_your_steps_sdxl"](SD, 10).tolist() == pytest.approx(sdxl)


def test_align_your_steps_is_log_linear_between() -> None:
    ten, twenty = (SCHEDULES["align_your_steps"](SD, n) for n in (10, 20))
    assert torch.allclose(twenty[:-1:2], ten[:-1])
    assert torch.allclose(twenty[1:-2:2] ** 2, ten[:-2] * ten[1:-1])


# --- other programs' schedules as oracles -------------------------------------------------------


def of_diffusers(scheduler: Any, steps: int) -> tuple[Tensor, Tensor]:
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double() if hasattr(scheduler, "sigmas") else None
    return scheduler.timesteps.double(), sigmas


@pytest.mark.parametrize("steps", [2, 7, 10, 20, 30])
@pytest.mark.parametrize(
    ("name", "spacing"),
    [("leading", "leading"), ("linspace_ddim", "linspace"), ("trailing", "trailing")],
)
def test_timesteps_of_diffusers_ddim(name: str, spacing: str, steps: int) -> None:
    theirs = DDIMScheduler(**BETAS, timestep_spacing=spacing, steps_offset=1)
    expected, _ = of_diffusers(theirs, steps)
    ours = timesteps(SCHEDULES[name](SD, steps))
    assert torch.allclose(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 10, 20, 30])
@pytest.mark.parametrize(
    ("name", "spacing"),
    [("leading_dpm", "leading"), ("linspace_dpm", "linspace"), ("trailing", "trailing")],
)
def test_timesteps_of_diffusers_dpm_solver(name: str, spacing: str, steps: int) -> None:
    theirs = DPMSolverMultistepScheduler(**BETAS, timestep_spacing=spacing, steps_offset=1)
    expected, sigmas = of_diffusers(theirs, steps)
    ours = SCHEDULES[name](SD, steps)
    assert torch.allclose(timesteps(ours), expected, rtol=0, atol=1e-6)
    assert torch.allclose(ours, sigmas, rtol=1e-4, atol=0)


@pytest.mark.parametrize("steps", [10, 20, 30])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linspace", {}),
        ("leading", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("trailing", {"timestep_spacing": "trailing"}),
        ("use_karras_sigmas", {"use_karras_sigmas": True}),
        ("use_exponential_sigmas", {"use_exponential_sigmas": True}),
        ("use_beta_sigmas", {"use_beta_sigmas": True}),
    ],
)
def test_sigmas_of_diffusers_euler(name: str, options: dict[str, Any], steps: int) -> None:
    expected_times, expected = of_diffusers(EulerDiscreteScheduler(**BETAS, **options), steps)
    ours = resolve_schedule(name)(SD, steps)
    assert torch.allclose(ours, expected, rtol=2e-4, atol=0)
    assert torch.allclose(timesteps(ours), expected_times, rtol=0, atol=0.02)


def test_uniform_in_log_snr_is_diffusers_lu_lambdas() -> None:
    _, expected = of_diffusers(DPMSolverMultistepScheduler(**BETAS, use_lu_lambdas=True), 10)
    ours = resolve_schedule("logSNR")(SD, 10)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=0)
    assert ours[:-1].log().diff().std() < 1e-12


@pytest.mark.parametrize("scheduler", [LCMScheduler, TCDScheduler])
def test_timesteps_of_diffusers_consistency_models(scheduler: Any) -> None:
    for steps in (1, 2, 3, 4, 7, 8, 50):
        expected, _ = of_diffusers(scheduler(**BETAS), steps)
        assert torch.allclose(timesteps(SCHEDULES["lcm"](SD, steps)), expected, atol=1e-6)
    with pytest.raises(RequestError, match="at most 50 steps here; got 51"):
        SCHEDULES["lcm"](SD, 51)


def test_karras_within_the_range_of_diffusers_leading_grid() -> None:
    theirs = EulerDiscreteScheduler(
        **BETAS, use_karras_sigmas=True, timestep_spacing="leading", steps_offset=1
    )
    _, expected = of_diffusers(theirs, 10)
    grid = SCHEDULES["leading"](SD, 10)
    ours = SCHEDULES["karras"](SD, 10, sigma_min=float(grid[-2]), sigma_max=float(grid[0]))
    assert torch.allclose(ours, expected, rtol=1e-4, atol=0)


def rounded_beta(steps: int) -> list[float]:
    quantiles = stats.beta.ppf(1 - np.linspace(0, 1, steps, endpoint=False), 0.6, 0.6)
    return [*SD.sigmas[np.rint(quantiles * 999).astype(int)].tolist(), 0.0]


@pytest.mark.parametrize("steps", [1, 4, 10, 20, 30, 50])
def test_beta_is_the_same_levels_as_with_scipy(steps: int) -> None:
    assert SCHEDULES["beta"](SD, steps).tolist() == pytest.approx(rounded_beta(steps))


def test_beta_keeps_its_length_where_rounding_would_repeat_a_level() -> None:
    assert len(set(rounded_beta(300))) < 301
    sigmas = SCHEDULES["beta"](SD, 300)
    assert len(sigmas) == 301 and (sigmas.diff() < 0).all()


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.6), (0.3, 2.0), (5.0, 1.0), (30.0, 40.0)])
def test_the_beta_distribution_agrees_with_scipy(alpha: float, beta: float) -> None:
    for p in np.linspace(0, 1, 41).tolist():
        assert beta_cdf(p, alpha, beta) == pytest.approx(stats.beta.cdf(p, alpha, beta), abs=1e-12)
        assert beta_quantile(p, alpha, beta) == pytest.approx(
            stats.beta.ppf(p, alpha, beta), rel=1e-8, abs=1e-12
        )


def test_simple_takes_every_nth_level_from_the_top() -> None:
    expected = [SD.sigmas[i].item() for i in (999, 966, 933, 899)]
    assert SCHEDULES["simple"](SD, 30)[:4].tolist() == pytest.approx(expected)


def test_ddim_uniform_is_compvis_where_the_steps_divide() -> None:
    expected = torch.arange(1, 1000, 50).flip(0).double()
    assert torch.allclose(timesteps(SCHEDULES["ddim_uniform"](SD, 20)), expected, atol=1e-9)


def test_sgm_uniform_is_normal_with_a_step_more_less_its_last() -> None:
    normal = SCHEDULES["normal"](SD, 21)
    assert torch.equal(SCHEDULES["sgm_uniform"](SD, 20)[:-1], normal[:-2])


def test_kl_optimal_is_even_in_the_angle() -> None:
    sigmas = SCHEDULES["kl_optimal"](SD, 12)[:-1]
    assert sigmas.atan().diff().std() < 1e-12
    assert sigmas[0].item() == pytest.approx(SD.sigma_max)
    assert sigmas[-1].item() == pytest.approx(SD.sigma_min)


def test_polyexponential_of_rho_one_is_exponential() -> None:
    plain = SCHEDULES["exponential"](SD, 12)
    assert torch.equal(SCHEDULES["polyexponential"](SD, 12, rho=1), plain)
    bent = SCHEDULES["polyexponential"](SD, 12, rho=2)
    assert bent[0].item() == pytest.approx(SD.sigma_max) and (bent[1:-2] < plain[1:-2]).all()


# --- names --------------------------------------------------------------------------------------

A1111 = (
    "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal",
    "Align Your Steps", "Simple", "Normal", "DDIM", "Beta",
)  # fmt: skip
COMFYUI = (
    "normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta",
    "kl_optimal",
)  # fmt: skip


def test_the_names_of_other_programs_resolve() -> None:
    for name in (*A1111, *COMFYUI, *SCHEDULES, "SGMUniform", "sgm-uniform", " KARRAS "):
        assert resolve_schedule(name).name in SCHEDULES
    for label in A1111:
        if label != "Normal":
            assert resolve_schedule(label).label == label
    assert resolve_schedule("Beta").name == "beta_sigma"
    assert resolve_schedule("beta").name == "beta"
    with pytest.raises(RequestError, match="unknown schedule 'carras'; choose one of normal, kar"):
        resolve_schedule("carras")


def test_the_public_functions_are_the_tables() -> None:
    for name, schedule in SCHEDULES.items():
        assert schedule.spacing is getattr(schedules, name)


# --- strength -----------------------------------------------------------------------------------


def karras(steps: int) -> Tensor:
    return SCHEDULES["karras"](SD, steps)


@pytest.mark.parametrize(
    ("rule", "steps", "strength", "run", "of"),
    [
        ("a1111", 20, 0.75, 16, 20),
        ("a1111", 20, 1.0, 20, 20),
        ("a1111", 20, 0.0, 1, 20),
        ("a1111", 1, 1.0, 1, 1),
        ("a1111_exact", 20, 0.75, 20, 26),
        ("a1111_exact", 20, 1.0, 20, 20),
        ("diffusers", 20, 0.75, 15, 20),
        ("diffusers", 50, 0.8, 40, 50),
        ("diffusers", 20, 1.0, 20, 20),
        ("diffusers", 20, 0.04, 0, 20),
        ("comfy", 20, 0.75, 20, 26),
        ("comfy", 20, 0.5, 20, 40),
        ("comfy", 20, 1.0, 20, 20),
    ],
)
def test_strength_runs_the_end_of_the_schedule(
    rule: Any, steps: int, strength: float, run: int, of: int
) -> None:
    result = truncated(karras, steps, strength, rule)
    assert result.steps == run
    assert torch.equal(result.sigmas, karras(of)[-(run + 1) :])


@pytest.mark.parametrize("rule", ["a1111_exact", "diffusers", "comfy"])
def test_no_strength_is_no_steps_and_no_noise(rule: Any) -> None:
    assert truncated(karras, 20, 0, rule) == (torch.zeros(1), 0)


def test_more_strength_starts_with_more_noise() -> None:
    for rule in ("a1111", "a1111_exact", "diffusers", "comfy"):
        starts = [
            truncated(partial(SCHEDULES["normal"], SD), 20, strength, rule).sigmas[0]
            for strength in (0.2, 0.4, 0.6, 0.8, 1.0)
        ]
        assert all(low < high for low, high in pairwise(starts))


def test_wrong_strengths_are_refused() -> None:
    for strength in (-0.1, 1.1, math.nan):
        with pytest.raises(RequestError, match="strength must lie between 0 and 1"):
            truncated(karras, 20, strength)
    with pytest.raises(RequestError, match="steps must be 1 or more; got 0"):
        truncated(karras, 0, 0.5)
    with pytest.raises(RequestError, match="unknown strength rule 'half'"):
        truncated(karras, 20, 0.5, "half")  # type: ignore[arg-type]


def test_the_penultimate_level_is_dropped_from_a_longer_schedule() -> None:
    sigmas = without_penultimate(karras)(10)
    assert len(sigmas) == 11 and sigmas[-1] == 0
    assert torch.equal(sigmas[:-1], karras(11)[:-2])


def test_schedules_may_end_at_the_smallest_level() -> None:
    leading = until_sigma_min(SCHEDULES["leading"](SD, 10), SD.sigma_min)
    assert len(leading) == 11 and leading[-1] == SD.sigma_min
    # a schedule that visits the smallest level has nothing left to do there
    assert torch.equal(until_sigma_min(karras(10), SD.sigma_min)[:-1], karras(10)[:-2])
