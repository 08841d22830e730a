"""What every sampler must do for data whose perfect denoiser and flow are known. All in float64."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.prediction import EDM, EPS, X0, V
from safelight.diffusion.process import Process, ddpm, edm, flow
from safelight.diffusion.samplers import SAMPLERS, Step
from sampler_lab import (
    Basis,
    Mixture,
    NoNoise,
    Recorder,
    Replay,
    finish,
    moments_of,
    spaced,
)

NORMAL = Mixture((1.7,), 0.4)
TWO_HILLS = Mixture((-1.0, 1.5), 0.5)

# name, options, order. Where an order differs from the name, the docstring of the sampler says so.
DETERMINISTIC = [
    ("euler", {}, 1),
    ("heun", {}, 2),
    ("heunpp2", {}, 1),
    ("dpm2", {}, 2),
    ("dpm2_ancestral", {"eta": 0.0}, 2),
    ("euler_ancestral", {"eta": 0.0}, 1),
    ("ddim", {}, 1),
    ("lms", {"order": 1}, 1),
    ("lms", {"order": 2}, 2),
    ("lms", {"order": 3}, 3),
    ("lms", {"order": 4}, 4),
    ("plms", {}, 2),
    ("ipndm", {}, 2),
    ("ipndm", {"order": 1}, 1),
    ("deis", {"order": 1}, 1),
    ("deis", {"order": 2}, 2),
    ("deis", {"order": 3}, 3),
    ("dpmpp_2s", {}, 2),
    ("dpmpp_2s_ancestral", {"eta": 0.0}, 2),
    ("dpmpp_sde", {"eta": 0.0}, 2),
    ("dpmpp_sde", {"eta": 0.0, "r": 0.9}, 2),
    ("dpmpp_2m", {}, 2),
    ("dpmpp_2m_sde", {"eta": 0.0}, 2),
    ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}, 2),
    ("dpmpp_2m_sde_heun", {"eta": 0.0}, 2),
    ("dpmpp_3m", {}, 2),
    ("dpmpp_3m_sde", {"eta": 0.0}, 2),
    # the corrector of UniPC is one order above its predictor
    ("uni_pc", {"order": 1}, 2),
    ("uni_pc", {"order": 2}, 3),
    ("uni_pc", {"order": 3}, 4),
    ("uni_pc_bh2", {"order": 1}, 2),
    ("uni_pc_bh2", {"order": 2}, 3),
    ("uni_pc_bh2", {"order": 3}, 4),
    ("dpm_fast", {}, 3),
    ("tcd", {"eta": 0.0}, 1),
]


def pixels(law: Mixture, sigma: float) -> Tensor:
    """Nine pixels over the bulk of the law at sigma, (1, 1, 3, 3)."""
    mean, spread = law.noisy_moments(sigma)
    return mean + spread * torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)


def errors(
    name: str, options: dict[str, object], law: Mixture, counts: tuple[int, ...], rho: float
) -> list[float]:
    """Distance of the end point from the exact flow, for each number of steps."""
    # From far above to far below the law's own scale, so that the low orders with which
    # multistep methods begin and end act where there is nothing to get wrong.
    high, low = 999.0, 0.002
    start = pixels(law, high)
    exact = law.flow(start, high, low)
    run = SAMPLERS[name].run
    ends = [
        finish(run(law.denoise, start, spaced(high, low, n, rho=rho), NoNoise(), **options))
        for n in counts
    ]
    return [float((end - exact).abs().max()) for end in ends]


@pytest.mark.parametrize("law", [NORMAL, TWO_HILLS], ids=["normal", "two hills"])
@pytest.mark.parametrize(("name", "options", "order"), DETERMINISTIC, ids=str)
def test_the_error_falls_with_the_order_of_the_method(
    name: str, options: dict[str, object], order: int, law: Mixture
) -> None:
    coarse, fine = errors(name, options, law, (96, 192), rho=1000.0)
    measured = math.log2(coarse / fine)
    assert measured > order - 0.45
    if law is TWO_HILLS:  # on a linear problem with even steps some terms cancel
        assert measured < order + 0.45
    assert fine < {1: 0.1, 2: 1e-2, 3: 1e-3, 4: 1e-4}[order]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("euler", (0.145, 0.0744, 0.0377, 0.0190, 0.0095)),
        ("heun", (0.121, 0.0243, 0.0054, 0.0013, 0.00031)),
    ],
)
def test_errors_on_the_schedule_of_karras_are_the_golden_ones(
    name: str, published: tuple[float, ...]
) -> None:
    """Mean 1.7, deviation 0.4, sigma 80 to 0.002, start 1.3 deviations up: 10 to 160 steps."""
    mean, spread = NORMAL.noisy_moments(80.0)
    start = torch.full((1, 1, 1, 1), mean + 1.3 * spread, dtype=torch.float64)
    exact = NORMAL.flow(start, 80.0, 0.0)
    for steps, error in zip((10, 20, 40, 80, 160), published, strict=True):
        sigmas = spaced(80.0, 0.002, steps - 1, end=True)
        end = finish(SAMPLERS[name].run(NORMAL.denoise, start, sigmas, NoNoise()))
        assert float((end - exact).abs()) == pytest.approx(
            error, abs=6e-4 if error > 0.01 else 6e-5
        )


@pytest.mark.parametrize("law", [NORMAL, TWO_HILLS], ids=["normal", "two hills"])
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive_errs_in_proportion_to_its_tolerance(order: int, law: Mixture) -> None:
    sigmas = spaced(80.0, 0.002, 10)
    start = pixels(law, 80.0)
    exact = law.flow(start, 80.0, 0.002)
    found, taken = [], []
    for tolerance in (1e-1, 1e-2, 1e-3):
        steps = list(
            SAMPLERS["dpm_adaptive"].run(
                law.denoise, start, sigmas, NoNoise(), order=order, rtol=tolerance, atol=tolerance
            )
        )
        taken.append(len(steps))
        found.append(float((steps[-1].x - exact).abs().max()))
    assert found[0] > found[1] > found[2]
    assert found[0] < 0.6 and found[1] < 0.06 and found[2] < 0.006
    assert taken[0] < taken[1] < taken[2]


# Deviation of the pictures over the true one, minus 1, allowed at 50 and at 200 steps: first-order
# methods lose variance with long steps, second-order ones hardly any.
FIRST, SECOND = (0.14, 0.04), (0.03, 2.5e-3)
STOCHASTIC = [
    ("euler", {"s_churn": 20.0}, FIRST),
    ("heun", {"s_churn": 20.0}, SECOND),
    ("heun", {"s_churn": 20.0, "s_tmin": 0.05, "s_tmax": 50.0}, SECOND),
    ("heunpp2", {"s_churn": 20.0}, FIRST),
    ("dpm2", {"s_churn": 20.0}, SECOND),
    ("euler_ancestral", {}, FIRST),
    ("euler_ancestral", {"eta": 0.5}, FIRST),
    ("ddim", {"eta": 1.0}, FIRST),
    ("ddim", {"eta": 0.3}, FIRST),
    ("ddpm", {}, FIRST),
    ("dpm2_ancestral", {}, SECOND),
    ("dpmpp_2s_ancestral", {}, SECOND),
    ("dpmpp_sde", {}, SECOND),
    ("dpmpp_sde", {"r": 1.0}, SECOND),
    ("dpmpp_sde", {"eta": 0.5}, SECOND),
    ("dpmpp_2m_sde", {}, SECOND),
    ("dpmpp_2m_sde", {"eta": 0.5}, SECOND),
    ("dpmpp_2m_sde_heun", {}, (0.04, 2.0e-3)),
    ("dpmpp_3m_sde", {}, SECOND),
    ("restart", {}, SECOND),
    ("dpm_fast", {"eta": 1.0}, SECOND),
]


@pytest.mark.parametrize(("name", "options", "allowed"), STOCHASTIC, ids=str)
def test_stochastic_samplers_return_the_mean_and_the_deviation_of_the_data(
    name: str, options: dict[str, object], allowed: tuple[float, float]
) -> None:
    """The moments are exact (see `Basis`), so what is left is the error of the steps alone."""
    found = []
    for steps, tolerance in zip((50, 200), allowed, strict=True):
        sigmas = spaced(80.0, 0.002, steps - 1, end=True)
        mean, deviation = moments_of(name, NORMAL, sigmas, **options)
        assert mean == pytest.approx(1.7, abs=1e-9)
        found.append(abs(deviation / 0.4 - 1))
        assert found[-1] < tolerance
    assert found[1] < found[0] / 2 or found[1] < 1e-4


def test_moments_of_many_drawn_pixels_are_those_of_the_data() -> None:
    """The same law by brute force, with the noise that requests use: 40,000 pixels."""
    from safelight.diffusion.noise import Noise

    sigmas = spaced(80.0, 0.002, 59, end=True)
    for name in ("dpmpp_2m_sde", "dpmpp_sde", "euler_ancestral", "restart"):
        noise = Noise([5, 6], (2, 100, 100))
        start = 1.7 + math.hypot(0.4, 80.0) * noise().double()
        end = finish(SAMPLERS[name].run(NORMAL.denoise, start, sigmas, noise))
        assert float(end.mean()) == pytest.approx(1.7, abs=0.01)
        assert float(end.std()) == pytest.approx(
            0.4, rel=0.12 if name == "euler_ancestral" else 0.02
        )


class Consistent(Mixture):
    """The same data, with the answer of a consistency function: the end of the flow, not E[x0]."""

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.flow(x, float(sigma), 0.0)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_lcm_draws_from_the_data_in_any_number_of_steps_if_the_network_is_consistent(
    steps: int,
) -> None:
    sigmas = spaced(80.0, 0.5, steps - 1, end=True) if steps > 1 else torch.tensor([80.0, 0.0])
    mean, deviation = moments_of("lcm", Consistent((1.7,), 0.4), sigmas.double())
    assert mean == pytest.approx(1.7, abs=1e-9)
    assert deviation == pytest.approx(0.4, rel=1e-9)


@pytest.mark.parametrize("name", ["lcm", "tcd", "ddim", "euler", "dpmpp_2m", "uni_pc"])
def test_one_step_with_the_true_latents_gives_them_exactly(name: str) -> None:
    latents = torch.linspace(-1, 1, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    x = latents + 14.6 * torch.ones_like(latents)
    steps = list(
        SAMPLERS[name].run(lambda x, sigma: latents, x, torch.tensor([14.6, 0.0]), NoNoise())
    )
    assert len(steps) == 1
    assert torch.equal(steps[0].x, latents)


@pytest.mark.parametrize("name", SAMPLERS)
def test_if_the_picture_is_known_only_the_noise_level_changes(name: str) -> None:
    """x - latents has the deviation that Step.sigma says, after every step of every sampler."""
    latents = 0.7
    sigmas = spaced(14.6, 0.03, 24, end=True)
    info = SAMPLERS[name]

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.full_like(x, latents)

    def path(offset: float, noise: object, size: int = 1) -> list[Step]:
        start = torch.full((1, 1, 1, size), latents + offset, dtype=torch.float64)
        return list(info.run(denoise, start, sigmas, noise))

    recorder = Recorder(torch.Size((1, 1, 1, 1)))
    kept = path(14.6, recorder)
    basis = Basis(recorder)
    added = path(0.0, basis, basis.size) if basis.size else [None] * len(kept)
    for step, fresh in zip(kept, added, strict=True):
        variance = float((step.x - latents).square().sum())
        if fresh is not None:
            variance += float((fresh.x - latents).square().sum())
        assert math.sqrt(variance) == pytest.approx(float(step.sigma), rel=1e-9, abs=1e-12)


# --- every prediction gives the same picture --------------------------------------------------

PROCESSES = {
    "eps": ddpm(EPS),
    "v": ddpm(V),
    "v, zero terminal SNR": ddpm(V, zero_terminal_snr=True),
    "x0": ddpm(X0),
    "flow": flow(3.0),
    "edm": edm(EDM, sigma_max=120.0),
}


class Oracle:
    """A network that knows the law and answers in the terms of its process."""

    def __init__(self, process: Process, law: Mixture) -> None:
        self.process, self.law = process, law

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        sigma = self.process.sigma_of(time[0])
        noisy = x / self.process.prediction.scalings(sigma).c_in
        latents = self.law.denoise(noisy, sigma)
        return self.process.prediction.target(latents, (noisy - latents) / sigma, sigma)


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_prediction_gives_the_same_picture(name: str, kind: str) -> None:
    process, info = PROCESSES[kind], SAMPLERS[name]
    sigmas = spaced(14.0, 0.05, 20, end=True)
    draws = torch.randn(80, 1, 1, 3, 3, dtype=torch.float64, generator=torch.manual_seed(3))
    start = pixels(TWO_HILLS, 14.0)
    # TCD's leap goes by the clock of the process, so it is given one and the same.
    options = {"process": PROCESSES["eps"]} if info.takes_process else {}

    denoise = Denoiser(Oracle(process, TWO_HILLS), process).given(
        Condition(context=torch.zeros(1, 1, 1))
    )
    expected = finish(info.run(TWO_HILLS.denoise, start, sigmas, Replay(draws), **options))
    found = finish(info.run(denoise, start, sigmas, Replay(draws), **options))
    assert torch.allclose(found, expected, rtol=0, atol=1e-8)


def test_the_sampler_does_not_run_ahead_of_its_reader() -> None:
    calls = 0

    def counting(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros_like(x)

    steps: Iterator[Step] = SAMPLERS["euler"].run(
        counting, torch.ones(1, 1, 1, 1), spaced(10.0, 0.1, 5), NoNoise()
    )
    assert calls == 0
    next(steps)
    assert calls == 1
