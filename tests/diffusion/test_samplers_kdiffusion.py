"""Our samplers against k-diffusion's own functions: same levels, same denoiser, same draws."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from kdiffusion_oracle import kdiffusion
from safelight.diffusion.samplers import SAMPLERS
from sampler_lab import Mixture, NoNoise, Replay, finish, spaced

LAW = Mixture((-1.0, 1.5), 0.5)
START = torch.linspace(-20, 25, 2 * 3 * 2 * 2, dtype=torch.float64).reshape(2, 3, 2, 2)
ENDED, OPEN = spaced(14.6, 0.03, 11, end=True), spaced(14.6, 0.03, 11)


def model(x: Tensor, sigma: Tensor) -> Tensor:
    assert sigma.shape == (len(x),)
    return LAW.denoise(x, sigma[0])


def draws(count: int = 100) -> Tensor:
    return torch.randn(count, *START.shape, dtype=torch.float64, generator=torch.manual_seed(11))


def theirs(name: str, sigmas: Tensor, **options: object) -> Tensor:
    return getattr(kdiffusion(), name)(model, START, sigmas, disable=True, **options)


def ours(name: str, sigmas: Tensor, noise: object, **options: object) -> Tensor:
    return finish(SAMPLERS[name].run(LAW.denoise, START, sigmas, noise, **options))


def sampler(noise: Replay) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda sigma, sigma_next: noise()


@pytest.mark.parametrize("sigmas", [ENDED, OPEN], ids=["to zero", "to 0.03"])
@pytest.mark.parametrize(
    ("name", "their_name", "options"),
    [
        ("euler", "sample_euler", {}),
        ("heun", "sample_heun", {}),
        ("dpm2", "sample_dpm_2", {}),
        ("lms", "sample_lms", {}),
        ("lms", "sample_lms", {"order": 2}),
        ("dpmpp_2m", "sample_dpmpp_2m", {}),
        ("euler_ancestral", "sample_euler_ancestral", {"eta": 0.0}),
        ("dpm2_ancestral", "sample_dpm_2_ancestral", {"eta": 0.0}),
        ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {"eta": 0.0}),
        ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 0.0}),
        ("dpmpp_2m_sde_heun", "sample_dpmpp_2m_sde", {"eta": 0.0}),
        ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.0}),
    ],
)
def test_deterministic_samplers_agree_with_k_diffusion(
    name: str, their_name: str, options: dict[str, object], sigmas: Tensor
) -> None:
    extra = {"solver_type": "heun"} if name.endswith("_heun") else {}
    expected = theirs(their_name, sigmas, **options, **extra)
    assert torch.allclose(ours(name, sigmas, NoNoise(), **options), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sigmas", [ENDED, OPEN], ids=["to zero", "to 0.03"])
@pytest.mark.parametrize("eta", [1.0, 0.4])
@pytest.mark.parametrize(
    ("name", "their_name", "options"),
    [
        ("euler_ancestral", "sample_euler_ancestral", {}),
        ("dpm2_ancestral", "sample_dpm_2_ancestral", {}),
        ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {}),
        ("dpmpp_sde", "sample_dpmpp_sde", {}),
        ("dpmpp_sde", "sample_dpmpp_sde", {"r": 0.7}),
        ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"solver_type": "midpoint"}),
        ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"solver_type": "heun"}),
        ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {}),
    ],
)
def test_stochastic_samplers_agree_with_k_diffusion_on_the_same_draws(
    name: str, their_name: str, options: dict[str, object], eta: float, sigmas: Tensor
) -> None:
    options = {**options, "eta": eta, "s_noise": 1.03}
    noise, their_noise = Replay(draws()), Replay(draws())
    expected = theirs(their_name, sigmas, noise_sampler=sampler(their_noise), **options)
    found = ours(name, sigmas, noise, **options)
    assert noise.used == their_noise.used > 0
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sigmas", [ENDED, OPEN], ids=["to zero", "to 0.03"])
@pytest.mark.parametrize(
    ("name", "their_name"),
    [("euler", "sample_euler"), ("heun", "sample_heun"), ("dpm2", "sample_dpm_2")],
)
@pytest.mark.parametrize("s_churn", [2.0, 100.0])  # the second is capped
def test_churn_agrees_with_k_diffusion(
    name: str, their_name: str, s_churn: float, sigmas: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"s_churn": s_churn, "s_noise": 1.01}
    their_noise = Replay(draws())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda x: their_noise())
        expected = theirs(their_name, sigmas, **options)
    found = ours(name, sigmas, Replay(draws()), **options)
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["euler", "heun", "heunpp2", "dpm2"])
def test_churn_acts_between_its_limits_only(name: str) -> None:
    noise = Replay(draws())
    ours(name, ENDED, noise, s_churn=5.0, s_tmin=0.5, s_tmax=5.0)
    assert noise.used == sum(0.5 <= float(sigma) <= 5.0 for sigma in ENDED)


@pytest.fixture
def exact_clock() -> Iterator[None]:
    """k-diffusion's DPM-Solver makes its clock of the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("exact_clock")
@pytest.mark.parametrize("options", [{}, {"order": 2}, {"rtol": 0.01, "atol": 0.001}, {"eta": 1.0}])
def test_dpm_adaptive_agrees_with_k_diffusion(options: dict[str, object]) -> None:
    noise, their_noise = Replay(draws()), Replay(draws())
    expected = kdiffusion().sample_dpm_adaptive(
        model, START, 0.03, 14.6, disable=True, noise_sampler=sampler(their_noise), **options
    )
    found = ours("dpm_adaptive", OPEN, noise, **options)
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("exact_clock")
@pytest.mark.parametrize("calls", [3, 4, 5, 6, 9, 11])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_dpm_fast_agrees_with_k_diffusion(calls: int, eta: float) -> None:
    noise, their_noise = Replay(draws()), Replay(draws())
    expected = kdiffusion().sample_dpm_fast(
        model, START, 0.03, 14.6, calls, disable=True, eta=eta, noise_sampler=sampler(their_noise)
    )
    found = ours("dpm_fast", spaced(14.6, 0.03, calls), noise, eta=eta)
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["dpm_fast", "dpm_adaptive"])
def test_where_k_diffusion_stops_short_of_zero_one_call_more_takes_the_rest_off(name: str) -> None:
    short = ours(name, ENDED[:-1], NoNoise()) if name == "dpm_adaptive" else None
    steps = list(SAMPLERS[name].run(LAW.denoise, START, ENDED, NoNoise()))
    assert float(steps[-1].sigma) == 0
    if short is not None:
        assert torch.equal(steps[-2].x, short)
    assert torch.equal(steps[-1].x, LAW.denoise(steps[-2].x, ENDED[-2]))
