import pytest
import torch
from torch import Tensor

from safelight.diffusion.prediction import (
    EDM,
    EDM_LATENT,
    EPS,
    FLOW,
    PREDICTIONS,
    X0,
    Prediction,
    V,
    resolve_prediction,
)
from safelight.errors import RequestError

ALL = list(PREDICTIONS.values())
SIGMAS = torch.logspace(-2, 4, 61, dtype=torch.float64)


def pairs() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    latents, noise = torch.randn(2, 61, 500, generator=rng, dtype=torch.float64)
    return latents, noise


@pytest.mark.parametrize("prediction", ALL, ids=lambda p: p.name)
def test_target_is_what_the_denoiser_needs_to_be_right(prediction: Prediction) -> None:
    latents, noise = pairs()
    sigma = SIGMAS[:, None]
    x = latents + sigma * noise
    c_skip, c_out, _ = prediction.scalings(sigma)
    target = prediction.target(latents, noise, sigma)
    # the quotient loses about x / c_out digits, which is why the code uses the closed form
    lost = 1e-15 * (x.abs() + latents.abs()) / c_out.abs()
    assert ((latents - c_skip * x) / c_out - target).abs().le(8 * lost + 1e-12).all()
    assert torch.allclose(c_skip * x + c_out * target, latents, rtol=0, atol=1e-11)


@pytest.mark.parametrize("prediction", ALL, ids=lambda p: p.name)
def test_the_network_sees_unit_variance_for_data_of_its_spread(prediction: Prediction) -> None:
    spread = 0.5 if prediction is EDM else 1.0
    variance = (SIGMAS**2 + spread**2) * prediction.scalings(SIGMAS).c_in ** 2
    if prediction is FLOW:  # a straight path has t^2 + (1 - t)^2
        t = SIGMAS / (1 + SIGMAS)
        assert torch.allclose(variance, t**2 + (1 - t) ** 2)
    else:
        assert torch.allclose(variance, torch.ones_like(SIGMAS))


def test_edm_of_unit_variance_is_v_with_its_sign_turned() -> None:
    latents, noise = pairs()
    sigma = SIGMAS[:, None]
    assert torch.allclose(
        EDM_LATENT.target(latents, noise, sigma), -V.target(latents, noise, sigma)
    )


def test_edm_targets_have_unit_variance() -> None:
    latents, noise = pairs()
    target = EDM.target(0.5 * latents, noise, SIGMAS[:, None])
    assert target.var() == pytest.approx(1, abs=0.03)


def test_one_error_in_the_picture_is_weighed_alike_by_all() -> None:
    # e_v^2 = e_eps^2 (1 + 1/SNR) = e_x0^2 (1 + SNR), with SNR = 1/sigma^2
    per_output = {p.name: p.scalings(SIGMAS).c_out.abs() for p in (EPS, V, X0)}
    e = {name: 1 / c_out for name, c_out in per_output.items()}
    snr = SIGMAS**-2
    assert torch.allclose(e["v"] ** 2, e["eps"] ** 2 * (1 + 1 / snr))
    assert torch.allclose(e["v"] ** 2, e["x0"] ** 2 * (1 + snr))


@pytest.mark.parametrize("prediction", ALL, ids=lambda p: p.name)
def test_perfect_networks_of_every_kind_give_the_same_estimate(prediction: Prediction) -> None:
    # data N(m, d^2): the best estimate is linear in x, and so is the best output of any network
    m, d = 0.7, 0.4
    rng = torch.Generator().manual_seed(2)
    x = 3 * torch.randn(61, 20, generator=rng, dtype=torch.float64)
    sigma = SIGMAS[:, None]
    best = (d**2 * x + sigma**2 * m) / (d**2 + sigma**2)
    expected_noise = (x - best) / sigma
    output = prediction.target(best, expected_noise, sigma)  # targets are linear in both
    c_skip, c_out, _ = prediction.scalings(sigma)
    assert torch.allclose(c_skip * x + c_out * output, best, rtol=0, atol=1e-10)


def test_scalings_keep_the_type_and_shape_of_sigma() -> None:
    for prediction in ALL:
        for sigma in (torch.tensor(2.0), torch.ones(3, 1, dtype=torch.float64)):
            for factor in prediction.scalings(sigma):
                assert factor.shape == sigma.shape and factor.dtype == sigma.dtype


def test_predictions_resolve_by_the_names_of_diffusers() -> None:
    names = {"epsilon": EPS, "v_prediction": V, "sample": X0, "flow": FLOW, "EDM": EDM}
    for name, prediction in names.items():
        assert resolve_prediction(name) is prediction
    with pytest.raises(RequestError, match="unknown prediction 'score'; choose one of eps, v"):
        resolve_prediction("score")
