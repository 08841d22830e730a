import pytest
import torch

from safelight.diffusion.prediction import (
    EDM,
    EDM_LATENT,
    EPS,
    FLOW,
    PREDICTIONS,
    X0,
    Prediction,
    V,
)
from safelight.diffusion.process import ddpm
from safelight.diffusion.weights import (
    P2,
    WEIGHTS,
    Constant,
    CosMapWeight,
    Debiased,
    EdmWeight,
    MinSnr,
    SigmaSqrt,
    SoftMinSnr,
    Weight,
    resolve_weight,
)
from safelight.errors import RequestError

SIGMAS = torch.logspace(-2, 2, 41, dtype=torch.float64)
SNR = SIGMAS**-2
T = SIGMAS / (1 + SIGMAS)
SPACE_WEIGHTS = [
    MinSnr(),
    SoftMinSnr(),
    P2(),
    Debiased(),
    EdmWeight(),
    SigmaSqrt(),
    CosMapWeight(),
    Constant("x0"),
    Constant("eps"),
    Constant("v"),
    Constant("flow"),
]


@pytest.mark.parametrize("weight", SPACE_WEIGHTS, ids=str)
def test_a_weight_trains_the_same_denoiser_whatever_is_predicted(weight: Weight) -> None:
    # an error e of the output is an error c_out e of the latents, so weights differ by c_out²
    in_latents = [
        weight.on(p, SIGMAS) / p.scalings(SIGMAS).c_out ** 2 for p in PREDICTIONS.values()
    ]
    for other in in_latents[1:]:
        assert torch.allclose(other, in_latents[0], rtol=1e-12)


def test_min_snr_on_v_has_the_published_table() -> None:
    # Stable Diffusion's betas, gamma 5, timesteps 0, 500 and 999
    at = ddpm(V).sigmas[[0, 500, 999]]
    assert MinSnr(5.0).on(V, at).tolist() == pytest.approx([0.00425, 0.2763, 0.00466], rel=2e-3)


def test_min_snr_by_prediction_is_the_papers() -> None:
    least = SNR.clamp(max=5.0)
    assert torch.allclose(MinSnr(5.0).on(EPS, SIGMAS), least / SNR)
    assert torch.allclose(MinSnr(5.0).on(V, SIGMAS), least / (SNR + 1))
    assert torch.allclose(MinSnr(5.0).on(X0, SIGMAS), least)
    assert torch.allclose(MinSnr(5.0).on(FLOW, SIGMAS), least * T**2)


def test_min_snr_switches_zero_terminal_snr_off() -> None:
    last = ddpm(V, zero_terminal_snr=True).sigmas[-1:]
    assert MinSnr().on(V, last).item() < 1e-7
    assert Constant().on(V, last).item() == 1


def test_soft_min_snr_is_k_diffusions_on_edm_outputs() -> None:
    s = EDM.sigma_data
    on_output = (SIGMAS * s) ** 2 / (SIGMAS**2 + s**2) ** 2
    assert torch.allclose(SoftMinSnr(1 / s**2).on(EDM, SIGMAS), on_output)
    # and min-SNR without the corner: within a factor of two, equal far from gamma
    ratio = SoftMinSnr(5.0).x0(SIGMAS) / MinSnr(5.0).x0(SIGMAS)
    assert ratio.min() >= 0.5 - 1e-12 and ratio.max() <= 1
    assert ratio[0].item() == pytest.approx(1, abs=1e-3)
    assert ratio[-1].item() == pytest.approx(1, abs=1e-3)


def test_p2_and_debiased_are_the_papers_on_noise() -> None:
    assert torch.allclose(P2(0.5, 1.0).on(EPS, SIGMAS), (1 + SNR) ** -0.5)
    assert torch.allclose(P2().on(EPS, SIGMAS), 1 / (1 + SNR))
    assert torch.allclose(Debiased(1e9).on(EPS, SIGMAS), SIGMAS)
    assert torch.allclose(Debiased().on(EPS, SIGMAS), 1 / SNR.clamp(max=1000).sqrt())


def test_edms_weight_is_constant_on_its_own_output_and_at_unit_data_on_v() -> None:
    ones = torch.ones_like(SIGMAS)
    assert torch.allclose(EdmWeight(0.5).on(EDM, SIGMAS), ones)
    assert torch.allclose(EdmWeight(1.0).on(EDM_LATENT, SIGMAS), ones)
    assert torch.allclose(EdmWeight(1.0).on(V, SIGMAS), ones)


def test_flow_weights_are_diffusers() -> None:
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    for name, weight in (("sigma_sqrt", SigmaSqrt()), ("cosmap", CosMapWeight())):
        theirs = compute_loss_weighting_for_sd3(name, T)
        assert torch.allclose(weight.on(FLOW, SIGMAS), theirs.double(), rtol=1e-6)


@pytest.mark.parametrize("prediction", [*PREDICTIONS.values()], ids=lambda p: p.name)
def test_a_constant_weight_is_one_on_the_prediction(prediction: Prediction) -> None:
    assert (Constant().on(prediction, SIGMAS) == 1).all()


def test_a_constant_weight_in_a_space_is_that_of_a_network_there() -> None:
    assert torch.allclose(Constant("eps").on(V, SIGMAS), SNR / (SNR + 1))
    assert torch.allclose(Constant("x0").on(EPS, SIGMAS), SIGMAS**2)
    assert (Constant("flow").on(FLOW, SIGMAS) == 1).all()


def test_weights_resolve_by_name_and_say_what_there_is() -> None:
    assert resolve_weight("min_snr", gamma=3.0) == MinSnr(3.0)
    assert all(resolve_weight(name) is not None for name in WEIGHTS)
    with pytest.raises(RequestError, match=r"unknown weight 'minsnr'; .* Did you mean min_snr\?"):
        resolve_weight("minsnr")
    with pytest.raises(RequestError, match="'p2' has no option 'beta'; its options: gamma, k"):
        resolve_weight("p2", beta=1)
    with pytest.raises(RequestError, match="gamma of a loss weight must be greater than 0; got 0"):
        MinSnr(0.0)
    with pytest.raises(RequestError, match="space of a constant weight must be one of prediction"):
        Constant("score")  # type: ignore[arg-type]
