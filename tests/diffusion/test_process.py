import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.prediction import EDM, EPS, FLOW, X0, V
from safelight.diffusion.process import Process, ddpm, edm, flow, start
from safelight.errors import RequestError

SD = ddpm(EPS)
PROCESSES = {
    "sd": SD,
    "cosine": ddpm(V, beta_schedule="cosine"),
    "zero-snr": ddpm(V, zero_terminal_snr=True),
    "flow": flow(3.0),
    "edm": edm(),
}


def alphas_cumprod(process: Process) -> Tensor:
    return 1 / (1 + process.sigmas**2)


def test_the_levels_of_stable_diffusion() -> None:
    kept = alphas_cumprod(SD)
    assert float(kept[0]) == pytest.approx(0.999150, abs=1e-6)
    assert float(kept[-1]) == pytest.approx(0.004660, abs=1e-6)
    assert SD.sigma_min == pytest.approx(0.02917, abs=1e-5)
    assert SD.sigma_max == pytest.approx(14.6146, abs=1e-4)


def test_plain_linear_betas_are_another_schedule() -> None:
    plain = ddpm(EPS, beta_schedule="linear")
    assert float(alphas_cumprod(plain)[-1]) == pytest.approx(0.001579, abs=1e-6)
    assert plain.sigma_max == pytest.approx(25.15, abs=5e-3)


def test_the_levels_of_latent_diffusion_on_imagenet() -> None:
    assert ddpm(EPS, beta_start=0.0015, beta_end=0.0195).sigma_max == pytest.approx(83.8, abs=0.05)


@pytest.mark.parametrize("schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_betas_agree_with_diffusers(schedule: str) -> None:
    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=schedule)
    ours = ddpm(EPS, beta_schedule=schedule, sigma_cap=math.inf)  # type: ignore[arg-type]
    expected = theirs.alphas_cumprod.double()
    assert torch.allclose(alphas_cumprod(ours), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_training_levels_ascend_in_float64(process: Process) -> None:
    assert process.sigmas.dtype == torch.float64
    assert (process.sigmas.diff() > 0).all() and process.sigmas.isfinite().all()


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_level_and_time_are_inverse_between_the_table_too(process: Process) -> None:
    rng = torch.Generator().manual_seed(3)
    low, high = math.log(process.sigma_min), math.log(process.sigma_max)
    sigma = (low + (high - low) * torch.rand(500, generator=rng, dtype=torch.float64)).exp()
    time = process.time(sigma)
    assert time.dtype == torch.float64
    assert torch.allclose(process.sigma_of(time), sigma, rtol=1e-9, atol=0)


def test_the_time_of_a_training_level_is_its_index() -> None:
    index = torch.arange(1000, dtype=torch.float64)
    assert torch.allclose(SD.time(SD.sigmas), index, rtol=0, atol=1e-9)
    assert torch.allclose(SD.level(index), SD.sigmas, rtol=1e-12, atol=0)
    assert torch.equal(SD.time(SD.sigmas.float()).round(), index.float())


def test_time_is_linear_in_log_sigma_between_two_levels() -> None:
    between = (SD.sigmas[100] ** 0.7 * SD.sigmas[101] ** 0.3).reshape(())
    assert float(SD.time(between)) == pytest.approx(100.3, abs=1e-9)
    assert float(SD.sigma_of(100.3)) == pytest.approx(float(between), rel=1e-12)


def test_time_stays_within_the_table() -> None:
    outside = torch.tensor([0.0, 1e-3, 20.0, 1e4], dtype=torch.float64)
    assert SD.time(outside).tolist() == [0, 0, 999, 999]


def test_zero_terminal_snr_leaves_no_signal_at_the_end_and_the_first_level_unchanged() -> None:
    process = ddpm(V, zero_terminal_snr=True)
    assert process.sigma_max == 1e4
    assert float(alphas_cumprod(process)[0]) == pytest.approx(0.999150, abs=1e-6)
    theirs = 1 - rescale_zero_terminal_snr(
        DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ).betas.double()
    )
    expected = theirs.cumprod(0)[:-1]
    assert torch.allclose(alphas_cumprod(process)[:-1], expected, rtol=1e-4, atol=0)


def test_zero_terminal_snr_can_end_where_diffusers_does() -> None:
    theirs = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )
    theirs.set_timesteps(10)
    process = ddpm(V, zero_terminal_snr=True, sigma_cap=4096)
    assert process.sigma_max == pytest.approx(float(theirs.sigmas[0]), rel=1e-6)


def test_eps_is_refused_where_nothing_but_noise_is() -> None:
    with pytest.raises(RequestError, match="zero terminal SNR cannot be used with eps"):
        ddpm(EPS, zero_terminal_snr=True)
    with pytest.raises(RequestError, match="zero terminal SNR"):
        ddpm(EPS, alphas_cumprod=torch.tensor([0.9, 0.5, 0.0]))
    for prediction in (V, X0):
        assert ddpm(prediction, zero_terminal_snr=True).sigma_max == 1e4


def test_a_checkpoints_own_table_replaces_the_betas() -> None:
    table = alphas_cumprod(SD)
    assert torch.allclose(ddpm(EPS, alphas_cumprod=table).sigmas, SD.sigmas, rtol=1e-9)
    for bad in (table.flip(0), table[:1], torch.tensor([[0.9, 0.1]]), torch.tensor([1.0, -0.1])):
        with pytest.raises(RequestError, match="alphas_cumprod"):
            ddpm(EPS, alphas_cumprod=bad)


def test_unknown_betas_are_refused() -> None:
    with pytest.raises(RequestError, match="unknown beta schedule 'sqrt'"):
        ddpm(EPS, beta_schedule="sqrt")  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_levels_are_those_of_diffusers(shift: float) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    process = flow(shift)
    t = process.sigmas / (1 + process.sigmas)
    # theirs is float32 and descending; ours is capped at the last level
    assert torch.allclose(t[:-1], theirs.sigmas.double().flip(0)[:-1], rtol=1e-5, atol=0)
    # the cap stands for infinity, so the network is told t = 1 there
    told = process.time(process.sigmas)
    assert torch.allclose(told[:-1], 1000 * t[:-1]) and float(told[-1]) == 1000
    assert process.sigma_max == 1e4 and process.prediction is FLOW


def test_a_flow_shift_is_a_factor_of_sigma() -> None:
    assert torch.allclose(flow(3.0).sigmas[:-1], 3 * flow(1.0).sigmas[:-1])
    with pytest.raises(RequestError, match="greater than 0; got 0"):
        flow(0)


def test_edm_time_is_a_quarter_of_log_sigma() -> None:
    sigma = torch.tensor([0.002, 1.0, 80.0], dtype=torch.float64)
    assert torch.allclose(edm().time(sigma), sigma.log() / 4)
    assert (edm().sigma_min, edm().sigma_max) == pytest.approx((0.002, 80.0))
    assert edm(V, sigma_max=120.0).prediction is V
    with pytest.raises(RequestError, match="sigma_min"):
        edm(sigma_min=1, sigma_max=1)


def test_time_has_the_shape_and_type_of_sigma() -> None:
    for process in PROCESSES.values():
        for sigma in (torch.tensor(2.0), torch.full((3,), 0.5, dtype=torch.float64)):
            time = process.time(sigma)
            assert time.shape == sigma.shape and time.dtype == sigma.dtype


@pytest.mark.parametrize(
    ("spacing", "rule"), [("linspace", "sigma"), ("trailing", "sigma"), ("leading", "unit")]
)
def test_start_rules_are_those_of_diffusers(spacing: str, rule: str) -> None:
    theirs = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing=spacing,
        steps_offset=1,
    )
    theirs.set_timesteps(10)
    noise = torch.randn(1, 4, 8, 8)
    ours = start(noise, theirs.sigmas.double(), EPS, rule)  # type: ignore[arg-type]
    assert torch.allclose(ours, noise * theirs.init_noise_sigma)


def test_a_unit_start_shows_the_network_the_noise_itself() -> None:
    noise = torch.randn(2, 4, 8, 8)
    for process in PROCESSES.values():
        sigmas = process.sigmas.flip(0)
        x = start(noise, sigmas, process.prediction, "unit")
        seen = process.prediction.scalings(sigmas[0]).c_in.float() * x
        assert torch.allclose(seen, noise, rtol=1e-5)
    with pytest.raises(RequestError, match="unknown start rule 'vp'"):
        start(noise, sigmas, EPS, "vp")  # type: ignore[arg-type]


class Recorder:
    """A network that remembers what it was told, and answers with what it saw."""

    def __init__(self) -> None:
        self.told: list[tuple[Tensor, Tensor, Condition]] = []

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.told.append((x, time, condition))
        return x


def test_the_denoiser_scales_tells_the_time_and_spreads_the_condition() -> None:
    network = Recorder()
    denoise = Denoiser(network, SD).given(Condition(torch.randn(1, 5, 3)))
    x = torch.randn(2, 4, 8, 8)
    sigma = SD.level(500.25)
    result = denoise(x, sigma)
    seen, time, condition = network.told[0]
    c_in = float((1 + sigma**2).rsqrt())
    assert torch.allclose(seen, x * c_in)
    assert time.tolist() == [500.25, 500.25] and time.dtype == torch.float32
    assert condition.context.shape == (2, 5, 3)
    assert torch.allclose(result, x - float(sigma) * x * c_in, atol=1e-5)
    assert result.dtype == torch.float32


def test_every_picture_may_have_its_own_level() -> None:
    denoiser = Denoiser(Recorder(), ddpm(V))
    condition = Condition(torch.randn(1, 5, 3))
    x = torch.randn(3, 4, 8, 8)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    together = denoiser(x, sigma, condition)
    for i in range(3):
        assert torch.equal(together[i : i + 1], denoiser(x[i : i + 1], sigma[i], condition))


@pytest.mark.parametrize("prediction", [EPS, V, X0, FLOW, EDM], ids=lambda p: p.name)
def test_a_perfect_network_denoises_gaussian_data_perfectly(prediction: object) -> None:
    m, d = 0.7, 0.4
    process = ddpm(prediction)  # type: ignore[arg-type]

    def network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        sigma = process.sigma_of(time)[:, None, None, None]
        x = x / process.prediction.scalings(sigma).c_in
        best = (d**2 * x + sigma**2 * m) / (d**2 + sigma**2)
        return process.prediction.target(best, (x - best) / sigma, sigma)

    x = 3 * torch.randn(2, 4, 8, 8, dtype=torch.float64)
    for sigma in process.level(torch.tensor([3.5, 400.0, 998.2])):
        estimate = Denoiser(network, process)(x, sigma, Condition(torch.zeros(1, 1, 1)))
        best = (d**2 * x + sigma**2 * m) / (d**2 + sigma**2)
        assert torch.allclose(estimate, best, rtol=0, atol=1e-9)
