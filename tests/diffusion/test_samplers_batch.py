"""What a caller relies on: few steps, partial schedules, pictures apart, types, no gradients."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from safelight.diffusion.noise import Noise
from safelight.diffusion.prediction import EPS
from safelight.diffusion.process import ddpm, flow
from safelight.diffusion.samplers import SAMPLERS
from safelight.diffusion.samplers.restart import restart_path
from safelight.diffusion.samplers.step import ancestral, levels
from safelight.diffusion.schedules import SCHEDULES, truncated
from safelight.errors import NonFiniteError, RequestError
from sampler_lab import Mixture, NoNoise, Recorder, finish, spaced

LAW = Mixture((-1.0, 1.5), 0.5)
SHAPE = (4, 8, 8)
PROCESS = ddpm(EPS)


def run(name: str, sigmas: Tensor, seeds: list[int], **options: object) -> Tensor:
    noise = Noise(seeds, SHAPE)
    x = noise() * float(sigmas[0])
    return finish(SAMPLERS[name].run(LAW.denoise, x, sigmas, noise, **options))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SAMPLERS)
def test_few_steps_end_in_finite_pictures(name: str, steps: int) -> None:
    info = SAMPLERS[name]
    for process in (PROCESS, flow(3.0)):
        sigmas = SCHEDULES[info.default_schedule](process, steps)
        x = run(name, sigmas, [1, 2])
        assert x.shape == (2, *SHAPE)
        assert x.isfinite().all()
        if steps == 1:  # what is left is the network's own estimate
            start = Noise([1, 2], SHAPE)() * float(sigmas[0])
            assert torch.equal(x, LAW.denoise(start, sigmas[0]))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("lcm", "ddpm")])
def test_a_start_from_pure_noise_costs_no_accuracy(name: str) -> None:
    """Flow at t = 1 and zero terminal SNR start at sigma = 10,000, a step of a hundredfold."""
    sigmas = SCHEDULES["sgm_uniform"](flow(3.0), 16)
    assert float(sigmas[0]) == pytest.approx(1e4)
    x = float(sigmas[0]) * torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    exact = LAW.flow(x, float(sigmas[0]), 0.0)
    options = {"eta": 0.0} if "eta" in SAMPLERS[name].options else {}
    end = finish(SAMPLERS[name].run(LAW.denoise, x, sigmas, NoNoise(), **options))
    assert float((end - exact).abs().max()) < 0.2


@pytest.mark.parametrize("name", SAMPLERS)
def test_partial_schedules_start_anywhere(name: str) -> None:
    """Image to image: the end of a schedule, from 24, 4 and 1 of its steps."""
    info = SAMPLERS[name]
    latents = torch.full((1, *SHAPE), 1.5)

    def spacing(steps: int) -> Tensor:
        return SCHEDULES[info.default_schedule](PROCESS, steps)

    for strength in (0.999, 0.15, 0.01):
        sigmas, count = truncated(spacing, 24, strength)
        noise = Noise([3], SHAPE)
        x = latents + float(sigmas[0]) * noise()
        steps = list(info.run(LAW.denoise, x, sigmas, noise))
        if info.fixed_steps:
            assert len(steps) == count == len(sigmas) - 1
        assert float(steps[-1].sigma) == 0
        assert steps[-1].x.isfinite().all()
        assert float(steps[-1].x.abs().max()) < 8


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_alone_is_the_picture_in_a_batch(name: str) -> None:
    """Where the error estimate couples the batch, the table says so."""
    sigmas = spaced(14.6, 0.03, 24, end=True)
    together = run(name, sigmas, [11, 12, 13])
    same = all(torch.equal(run(name, sigmas, [11 + i])[0], together[i]) for i in range(3))
    assert same != SAMPLERS[name].couples_batch


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_type_of_x_is_kept_and_sigma_is_exact(name: str) -> None:
    sigmas = spaced(14.6, 0.03, 24, end=True)
    for dtype in (torch.float32, torch.float64):
        seen: list[tuple[torch.dtype, int]] = []

        def denoise(x: Tensor, sigma: Tensor, seen: list[tuple[torch.dtype, int]] = seen) -> Tensor:
            seen.append((sigma.dtype, sigma.ndim))
            assert not torch.is_grad_enabled()
            return LAW.denoise(x, sigma).to(x.dtype)

        noise = Noise([7], SHAPE)
        x = (14.6 * noise()).to(dtype)
        steps = list(SAMPLERS[name].run(denoise, x, sigmas, noise))
        assert (
            {step.x.dtype for step in steps} == {step.denoised.dtype for step in steps} == {dtype}
        )
        assert set(seen) == {(torch.float64, 0)}
        assert all(step.sigma.dtype == torch.float64 for step in steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_follows_float64(name: str) -> None:
    sigmas = spaced(14.6, 0.03, 24, end=True)
    ends = []
    for dtype in (torch.float32, torch.float64):
        noise = Noise([7], SHAPE)
        x = (14.6 * noise()).to(dtype)
        ends.append(finish(SAMPLERS[name].run(LAW.denoise, x, sigmas, noise)).double())
    # DPM adaptive also rounds its choice of steps
    assert float((ends[0] - ends[1]).abs().max()) < (1e-3 if name == "dpm_adaptive" else 1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_leave_their_inputs_alone(name: str) -> None:
    sigmas = spaced(14.6, 0.03, 24, end=True)
    x = torch.randn(1, *SHAPE, generator=torch.manual_seed(0))
    before, levels_before = x.clone(), sigmas.clone()
    finish(SAMPLERS[name].run(LAW.denoise, x, sigmas, Noise([1], SHAPE)))
    assert torch.equal(x, before)
    assert torch.equal(sigmas, levels_before)


@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_and_draws_are_those_of_the_table(name: str) -> None:
    info = SAMPLERS[name]
    sigmas = spaced(14.6, 0.03, 24, end=True)
    calls = 0

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return LAW.denoise(x, sigma)

    x = torch.full((1, 1, 1, 1), 14.6)
    recorder = Recorder(x.shape)
    steps = list(info.run(denoise, x, sigmas, recorder))
    assert (recorder.calls + len(recorder.spans) > 0) == info.stochastic
    if name == "plms":
        assert calls == len(steps) + 1
    elif info.fixed_steps:
        # the step to 0 needs one call, and Heun++ looks ahead less before it
        assert (len(steps) - 2) * info.calls_per_step < calls <= len(steps) * info.calls_per_step
    if info.fixed_steps:
        assert [float(step.sigma) for step in steps] == sigmas[1:].tolist() or name == "restart"
        assert len(steps) == len(sigmas) - 1
    elif name == "dpm_fast":
        assert calls == len(sigmas)


@pytest.mark.parametrize(
    "wrong",
    [[], [1.0], [1.0, 1.0, 0.0], [1.0, 2.0], [1.0, 0.0, 0.0], [1.0, -0.5], [math.inf, 1.0],
     [math.nan, 0.0], [1.0, math.nan, 0.0]],
)  # fmt: skip
def test_levels_that_do_not_fall_are_refused(wrong: list[float]) -> None:
    with pytest.raises(RequestError, match="only the last may be 0; got"):
        levels(torch.tensor(wrong))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_refuses_levels_that_do_not_fall(name: str) -> None:
    x = torch.ones(1, 1, 1, 1)
    with pytest.raises(RequestError, match="fall at every step"):
        next(SAMPLERS[name].run(LAW.denoise, x, torch.tensor([1.0, 2.0, 0.0]), NoNoise()))


def test_dpm_adaptive_stops_where_the_network_answers_nan() -> None:
    sigmas = spaced(14.6, 0.03, 5, end=True)
    steps = SAMPLERS["dpm_adaptive"].run(
        lambda x, sigma: torch.full_like(x, math.nan), torch.ones(1, 1, 1, 1), sigmas, NoNoise()
    )
    with pytest.raises(NonFiniteError, match=r"DPM adaptive: .* sigma 14\.6"):
        next(steps)


def test_dpm_adaptive_ends_though_the_network_jumps_about() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = list(
        SAMPLERS["dpm_adaptive"].run(
            lambda x, sigma: 100 * torch.randn(x.shape, generator=generator),
            torch.ones(1, 1, 8, 8),
            torch.tensor([0.1, 0.05, 0.0]),
            NoNoise(),
            rtol=1e-6,
            atol=1e-6,
        )
    )
    assert float(steps[-1].sigma) == 0
    assert len(steps) < 800


# --- ancestral noise and restarts ---------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize(("sigma", "lower"), [(14.6, 7.0), (1.0, 0.999), (0.03, 0.0), (1e4, 1e3)])
def test_down_and_up_add_up_to_the_next_level(sigma: float, lower: float, eta: float) -> None:
    down, up = ancestral(sigma, lower, eta)
    assert math.hypot(down, up) == pytest.approx(lower, rel=1e-12)
    assert 0 <= up <= lower
    assert (up == 0) == (eta == 0 or lower == 0)


def test_ddim_and_ddpm_are_the_ancestral_euler() -> None:
    sigmas = spaced(14.6, 0.03, 9, end=True)
    assert torch.equal(run("ddim", sigmas, [4]), run("euler_ancestral", sigmas, [4], eta=0.0))
    assert torch.equal(run("ddpm", sigmas, [4]), run("euler_ancestral", sigmas, [4]))
    assert torch.equal(
        run("ddim", sigmas, [4], eta=0.5), run("euler_ancestral", sigmas, [4], eta=0.5)
    )


def test_the_ancestral_split_is_the_rectified_flow_rule_in_the_one_coordinate() -> None:
    """x_t = (1 - t) latents + t noise: step to t', scale the signal to 1 - t, add what is missing.

    For rectified flow the noise to add is sqrt(t² - t'² (1 - t)² / (1 - t')²); ours, times 1 - t.
    """
    sigma, lower, eta = 4.0, 1.5, 0.8
    down, up = ancestral(sigma, lower, eta)
    t, below = lower / (1 + lower), down / (1 + down)
    added = math.sqrt(t**2 - below**2 * (1 - t) ** 2 / (1 - below) ** 2)
    assert up * (1 - t) == pytest.approx(added, rel=1e-12)


@pytest.mark.parametrize(
    ("steps", "times", "width"), [(19, 0, 0), (20, 1, 9), (36, 2, 9), (41, 2, 10)]
)
@pytest.mark.parametrize("ending", [[0.0], []])
def test_restart_runs_the_steps_asked_for(
    steps: int, times: int, width: int, ending: list[float]
) -> None:
    karras = spaced(14.6, 0.03, steps - len(ending)).tolist() + ending
    path = restart_path(karras)
    assert len(path) == steps
    jumps = [(a[1], b[0]) for a, b in pairwise(path) if b[0] != a[1]]
    assert len(jumps) == times
    for low, high in jumps:
        assert 0.05 < low < 0.2 and 1.2 < high < 3
    if times:
        # the main path is the Karras schedule of as many steps as are left
        shorter = spaced(14.6, 0.03, steps - times * width - len(ending)).tolist() + ending
        main = [path[0][0]] + [b for a, b in path if any(math.isclose(a, s) for s in shorter)]
        assert all(any(math.isclose(s, m, rel_tol=1e-12) for m in main) for s in shorter)


def test_heunpp2_weighs_slopes_by_their_share_of_the_first_level() -> None:
    """Three slopes while two levels lie ahead short of the last, then two, then one."""
    s0, s1, s2, s3 = 8.0, 4.0, 1.0, 0.25
    x = torch.tensor([3.0], dtype=torch.float64)

    def estimate(x: Tensor, sigma: float) -> Tensor:
        return LAW.denoise(x, torch.tensor(sigma))

    d0 = (x - estimate(x, s0)) / s0
    x1 = x + (s1 - s0) * d0
    d1 = (x1 - estimate(x1, s1)) / s1
    x2 = x1 + (s2 - s1) * d1
    d2 = (x2 - estimate(x2, s2)) / s2
    w1, w2 = s1 / (3 * s0), s2 / (3 * s0)
    first = x + (s1 - s0) * ((1 - w1 - w2) * d0 + w1 * d1 + w2 * d2)

    d1 = (first - estimate(first, s1)) / s1
    x2 = first + (s2 - s1) * d1
    d2 = (x2 - estimate(x2, s2)) / s2
    w2 = s2 / (2 * s0)
    second = first + (s2 - s1) * ((1 - w2) * d1 + w2 * d2)

    third = second + (s3 - s2) * (second - estimate(second, s2)) / s2
    sigmas = torch.tensor([s0, s1, s2, s3], dtype=torch.float64)
    found = [step.x for step in SAMPLERS["heunpp2"].run(LAW.denoise, x, sigmas, NoNoise())]
    for one, other in zip(found, (first, second, third), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_restart_below_its_interval_is_heun() -> None:
    sigmas = spaced(0.09, 0.03, 29, end=True)
    assert torch.equal(run("restart", sigmas, [4]), run("heun", sigmas, [4]))
