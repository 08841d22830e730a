import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from safelight.diffusion.draws import (
    DRAWS,
    CosineDraw,
    LogitNormalDraw,
    LogNormalDraw,
    MixedDraw,
    ModeDraw,
    SigmaDraw,
    UniformDraw,
    resolve_draw,
    stratified,
)
from safelight.diffusion.prediction import EDM, EPS, V
from safelight.diffusion.process import Process, ddpm, edm, flow
from safelight.errors import RequestError

COUNT = 20_000
WIDE = edm(EDM, sigma_min=1e-9, sigma_max=1e9)  # a table that cuts nothing off
SHIPPED = ddpm(V, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
LAWS = [UniformDraw(), LogitNormalDraw(), LogNormalDraw(), ModeDraw(), CosineDraw(), MixedDraw()]


def even(count: int = COUNT) -> Tensor:
    """The middles of equal parts of [0, 1): what a law gives is then its quantiles."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def flow_time(sigma: Tensor) -> Tensor:
    return sigma / (1 + sigma)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("process", [SHIPPED, flow(), edm()], ids=["ddpm", "flow", "edm"])
def test_every_law_stays_within_the_processs_table(law: SigmaDraw, process: Process) -> None:
    uniforms = torch.cat([torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), even(1000)])
    sigma = law(process, uniforms)
    assert sigma.dtype == torch.float64 and sigma.shape == uniforms.shape
    assert sigma.isfinite().all()
    assert sigma.min() >= process.sigma_min and sigma.max() <= process.sigma_max


def test_a_uniform_draw_takes_every_level_of_the_table_alike() -> None:
    process = ddpm(EPS, steps=50)
    sigma = UniformDraw()(process, even(5000))
    levels, counts = sigma.unique(return_counts=True)
    assert torch.equal(levels, process.sigmas)
    assert (counts == 100).all()


def test_logit_normal_draws_have_the_laws_histogram_of_flow_time() -> None:
    # t is 1 at pure noise: with a positive mean, most draws are noisier than half and half.
    for mean, std in ((0.0, 1.0), (0.8, 0.6), (-0.5, 1.5)):
        t = flow_time(LogitNormalDraw(mean, std)(WIDE, even())).numpy()
        edges = torch.linspace(0, 1, 21).numpy()
        expected = stats.norm.cdf(stats.logistic.ppf(edges), loc=mean, scale=std)
        found = [(t <= edge).mean() for edge in edges]
        assert found == pytest.approx(expected, abs=1e-3)
    assert (flow_time(LogitNormalDraw(0.8)(WIDE, even())) > 0.5).double().mean() > 0.75


def test_the_shift_of_a_logit_normal_draw_is_that_of_flow_time() -> None:
    plain = flow_time(LogitNormalDraw()(WIDE, even(100)))
    shifted = flow_time(LogitNormalDraw(shift=3.0)(WIDE, even(100)))
    assert torch.allclose(shifted, 3 * plain / (1 + 2 * plain))


def test_log_normal_draws_are_normal_in_log_sigma() -> None:
    found = stats.kstest(LogNormalDraw()(WIDE, even()).log().numpy(), "norm", args=(-1.2, 1.2))
    assert found.statistic < 1e-4


def test_laws_of_the_field_are_one_normal_law_in_log_snr() -> None:
    log_snr = -2 * LogitNormalDraw()(WIDE, even()).log()
    assert log_snr.mean().item() == pytest.approx(0, abs=1e-6)
    assert log_snr.std().item() == pytest.approx(2, abs=2e-3)
    # latents of unit variance see EDM's levels, made for data of deviation 0.5, twice as noisy
    edm_log_snr = -2 * (2 * LogNormalDraw()(WIDE, even())).log()
    assert edm_log_snr.mean().item() == pytest.approx(2.4 - 2 * math.log(2), abs=1e-3)
    assert edm_log_snr.std().item() == pytest.approx(2.4, abs=2e-3)


def test_mode_draws_are_sd3s_and_uniform_in_flow_time_at_scale_0() -> None:
    uniforms = even(500)
    t = flow_time(ModeDraw(0.0)(WIDE, uniforms))
    assert torch.allclose(t, 1 - uniforms)
    for scale in (-1.0, 1.29, 1.75):
        t = flow_time(ModeDraw(scale)(WIDE, uniforms))
        expected = 1 - uniforms - scale * ((uniforms * math.pi / 2).cos() ** 2 - 1 + uniforms)
        assert torch.allclose(t, expected)
        assert (t.diff() < 0).all()
    with pytest.raises(RequestError, match=r"scale of a mode draw must be -1 to 1\.7519; got 1\.8"):
        ModeDraw(1.8)


def test_cosine_draws_are_the_cosine_schedules_levels_and_sd3s_cosmap() -> None:
    uniforms = even(500)
    sigma = CosineDraw()(WIDE, uniforms)
    alphas_cumprod = (uniforms * math.pi / 2).cos() ** 2
    assert torch.allclose(sigma, ((1 - alphas_cumprod) / alphas_cumprod).sqrt())
    assert torch.allclose(flow_time(sigma), 1 - 1 / ((math.pi / 2 * uniforms).tan() + 1))


def test_a_mixed_draw_has_its_three_shares() -> None:
    sigma = MixedDraw()(SHIPPED, even())
    last = sigma == SHIPPED.sigmas[-1]
    # besides the 5 % that are the last level exactly, those drawn beyond it are cut to it
    beyond = 0.15 * (12 + -2 * math.log(SHIPPED.sigma_max)) / 9
    assert last.double().mean().item() == pytest.approx(0.05 + beyond, abs=1e-3)
    log_snr = -2 * MixedDraw()(WIDE, even()).log()
    # each share by its law: the normal law and the uniform tail, at several places
    for place in (-11.0, -8.0, -4.8, -3.0, 0.0, 3.0):
        expected = (
            0.05
            + 0.15 * min(max((place + 12) / 9, 0), 1)
            + 0.80 * stats.norm.cdf(place, loc=0.3, scale=2)
        )
        assert (log_snr <= place).double().mean().item() == pytest.approx(expected, abs=1e-3)


def test_a_mixed_draw_without_shares_is_the_normal_law() -> None:
    log_snr = -2 * MixedDraw(mean=-1.0, std=1.5, tail=0.0, last=0.0)(WIDE, even()).log()
    assert stats.kstest(log_snr.numpy(), "norm", args=(-1.0, 1.5)).statistic < 1e-4


def test_strata_hold_one_number_each_whatever_their_order() -> None:
    rng = torch.Generator().manual_seed(0)
    places = torch.randperm(64, generator=rng)
    numbers = stratified(torch.rand(64, generator=rng), places, 64)
    assert torch.equal((numbers * 64).floor().long(), places)
    assert numbers.dtype == torch.float64 and numbers.min() >= 0 and numbers.max() < 1


def test_strata_cut_the_spread_of_a_batchs_mean() -> None:
    rng = torch.Generator().manual_seed(1)
    free, even_spread = [], []
    for _ in range(200):
        uniforms = torch.rand(64, generator=rng)
        for into, numbers in (
            (free, uniforms.double()),
            (even_spread, stratified(uniforms, torch.arange(64), 64)),
        ):
            into.append(float(MixedDraw()(SHIPPED, numbers).log().mean()))
    assert torch.tensor(even_spread).std() < 0.15 * torch.tensor(free).std()


def test_draws_resolve_by_name_and_say_what_there_is() -> None:
    assert resolve_draw("logit_normal", shift=3.0) == LogitNormalDraw(shift=3.0)
    assert {type(resolve_draw(name)) for name in DRAWS} == {type(law) for law in LAWS}
    with pytest.raises(RequestError, match=r"unknown draw 'mixd'; choose one of uniform,.*mixed"):
        resolve_draw("mixd")
    with pytest.raises(RequestError, match="'mixed' has no option 'sigma'"):
        resolve_draw("mixed", sigma=1.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"std": 0.0}, "std of a noise level draw must be greater than 0; got 0"),
        ({"tail": 0.9, "last": 0.1}, "leave something for the normal law"),
        ({"low": -3.0, "high": -3.0}, "needs low < high"),
    ],
)
def test_a_mixed_draw_that_is_none_is_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        MixedDraw(**options)
