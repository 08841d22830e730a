from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.guider_utils import rescale_noise_cfg
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from guidance_toy import NEGATIVE, OTHER, POSITIVE, SD, SIGMA, Toy, Watched, context, latents, near
from models_tiny import random
from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import (
    AdaptiveProjection,
    AttentionNetwork,
    DynamicThresholding,
    Perturbation,
    Rescaled,
    guided,
    linear,
    self_attention_guided,
    with_freeu,
)
from safelight.diffusion.guidance.self_attention import blur, salient
from safelight.diffusion.prediction import EPS, PREDICTIONS, Prediction, V
from safelight.diffusion.process import Process, ddpm
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from unet_published import TINY_CONTEXT, twins

# --- classifier-free guidance -------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule", [linear, Rescaled(EPS), DynamicThresholding(), AdaptiveProjection()]
)
def test_scale_one_is_the_conditional_call_bit_for_bit_without_the_negative(rule: Any) -> None:
    network = Toy()
    x = latents()
    for negative in (NEGATIVE, None):
        result = guided(Denoiser(network, SD), POSITIVE, negative, 1, rule=rule)(x, SIGMA)
        assert torch.equal(result, Denoiser(Toy(), SD)(x, SIGMA, POSITIVE))
    assert all(torch.equal(c, POSITIVE.context.expand(2, -1, -1)) for c in network.contexts)
    assert len(network.calls) == 2


def test_one_stacked_call_equals_two() -> None:
    stacked, apart = Toy(), Toy()
    x = latents()
    together = guided(Denoiser(stacked, SD), POSITIVE, NEGATIVE, 7.5)(x, SIGMA)
    alone = guided(Denoiser(apart, SD), POSITIVE, NEGATIVE, 7.5, apart=True)(x, SIGMA)
    assert (len(stacked.calls), len(apart.calls)) == (1, 2)
    assert stacked.calls[0][0].shape[0] == 4
    assert near(together, alone)


def test_guidance_goes_scale_times_as_far_from_the_negative() -> None:
    denoiser = Denoiser(Toy(), SD)
    x = latents()
    c, u = denoiser(x, SIGMA, POSITIVE), denoiser(x, SIGMA, NEGATIVE)
    result = guided(denoiser, POSITIVE, NEGATIVE, 7.5)(x, SIGMA)
    assert near(result, u + 7.5 * (c - u))
    assert near(guided(denoiser, POSITIVE, NEGATIVE, 0)(x, SIGMA), u)


def test_guidance_is_the_same_seen_from_the_networks_output() -> None:
    network = Toy()
    x = latents()
    c_in = float((1 + SIGMA**2).rsqrt())
    time = SD.time(SIGMA).float().expand(2)
    c, u = (network(c_in * x, time, condition) for condition in (POSITIVE, NEGATIVE))
    expected = x - float(SIGMA) * (u + 7.5 * (c - u))
    assert near(guided(Denoiser(network, SD), POSITIVE, NEGATIVE, 7.5)(x, SIGMA), expected)


def test_conditions_that_cannot_be_stacked_are_asked_one_by_one() -> None:
    network = Toy()
    longer = context(5, length=10)
    x = latents()
    denoiser = Denoiser(network, SD)
    result = guided(denoiser, longer, NEGATIVE, 3)(x, SIGMA)
    assert [c.shape[1] for c in network.contexts] == [5, 10]
    u, c = denoiser(x, SIGMA, NEGATIVE), denoiser(x, SIGMA, longer)
    assert near(result, u + 3 * (c - u))


def test_a_picture_of_a_batch_is_guided_as_it_is_alone() -> None:
    positive, negative = context(6, batch=3), context(7, batch=3)
    x = latents(batch=3)
    sigma = torch.tensor([0.5, 3.0, 12.0])
    denoiser = Denoiser(Toy(), SD)
    together = guided(denoiser, positive, negative, 5)(x, sigma)
    for i in range(3):
        own = [Condition(c.context[i : i + 1]) for c in (positive, negative)]
        alone = guided(denoiser, *own, 5)(x[i : i + 1], sigma[i])
        assert near(together[i : i + 1], alone)


def test_a_missing_negative_is_named() -> None:
    with pytest.raises(RequestError, match="guidance at scale 7 needs a negative condition"):
        guided(Denoiser(Toy(), SD), POSITIVE, None, 7)
    with pytest.raises(RequestError, match="at least one positive"):
        guided(Denoiser(Toy(), SD), [], NEGATIVE, 7)


# --- AND ----------------------------------------------------------------------------------------


def test_weighted_prompts_add_their_own_ways_from_the_negative() -> None:
    network = Toy()
    denoiser = Denoiser(network, SD)
    x = latents()
    u, a, b = (denoiser(x, SIGMA, c) for c in (NEGATIVE, POSITIVE, OTHER))
    network.calls.clear()
    for scale in (7.0, 1.0):
        result = guided(denoiser, [(POSITIVE, 0.8), (OTHER, -0.3)], NEGATIVE, scale)(x, SIGMA)
        assert near(result, u + scale * (0.8 * (a - u) - 0.3 * (b - u)))
    assert len(network.calls) == 2


def test_one_prompt_of_weight_one_is_a_plain_prompt() -> None:
    denoiser = Denoiser(Toy(), SD)
    x = latents()
    plain = guided(denoiser, POSITIVE, NEGATIVE, 7)(x, SIGMA)
    assert torch.equal(guided(denoiser, [(POSITIVE, 1)], NEGATIVE, 7)(x, SIGMA), plain)


def test_weights_that_sum_to_one_need_no_negative_at_scale_one() -> None:
    network = Toy()
    denoiser = Denoiser(network, SD)
    x = latents()
    result = guided(denoiser, [(POSITIVE, 0.25), (OTHER, 0.75)], None, 1)(x, SIGMA)
    expected = 0.25 * denoiser(x, SIGMA, POSITIVE) + 0.75 * denoiser(x, SIGMA, OTHER)
    assert near(result, expected)
    with pytest.raises(RequestError, match="negative"):
        guided(denoiser, [(POSITIVE, 1), (OTHER, 1)], None, 1)


# --- rules --------------------------------------------------------------------------------------


def output_of(process: Process, x: Tensor, denoised: Tensor) -> Tensor:
    c_skip, c_out, _ = process.prediction.scalings(SIGMA)
    return (denoised - float(c_skip) * x) / float(c_out)


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
def test_rescaling_is_that_of_diffusers_on_the_networks_output(prediction: Prediction) -> None:
    process = ddpm(prediction)
    x, c, u = latents(1), latents(2), latents(3)
    result = Rescaled(prediction, 0.7)(c, u, 7.5, x, SIGMA)
    c_output = output_of(process, x, c)
    cfg_output = output_of(process, x, u + 7.5 * (c - u))
    expected = rescale_noise_cfg(cfg_output, c_output, 0.7)
    assert near(output_of(process, x, result), expected)


def test_full_rescaling_restores_the_spread_of_every_picture() -> None:
    x, c, u = latents(1), latents(2), latents(3)
    result = Rescaled(V, 1.0)(c, u, 7.5, x, SIGMA)
    process = ddpm(V)
    spread = output_of(process, x, result).std((1, 2, 3))
    assert torch.allclose(spread, output_of(process, x, c).std((1, 2, 3)), rtol=1e-4)
    assert torch.equal(Rescaled(V, 0.0)(c, u, 7.5, x, SIGMA), linear(c, u, 7.5, x, SIGMA))


def test_rescaling_an_output_without_spread_is_finite() -> None:
    flat = torch.zeros(1, 4, 8, 8)
    assert torch.equal(Rescaled(EPS)(flat, flat, 7.5, flat, SIGMA), flat)


def test_thresholding_takes_the_range_of_the_mimic_and_the_mean_of_the_guided() -> None:
    x, c, u = latents(1), latents(2), latents(3)
    result = DynamicThresholding(mimic_scale=5)(c, u, 20, x, SIGMA)
    strong, mimic = linear(c, u, 20, x, SIGMA), linear(c, u, 5, x, SIGMA)
    means = strong.mean((2, 3))
    assert torch.allclose(result.mean((2, 3)), means, atol=1e-4)

    def reach(t: Tensor) -> Tensor:
        return (t - t.mean((2, 3), keepdim=True)).abs().amax((2, 3))

    assert torch.allclose(reach(result), reach(mimic), rtol=1e-4)
    # nothing was clamped, so the pattern is the guided one's
    assert torch.stack([result[0, 0].flatten(), strong[0, 0].flatten()]).corrcoef()[0, 1] > 0.9999


def test_thresholding_clamps_beyond_the_percentile() -> None:
    x, c, u = latents(1), latents(2), latents(3)
    u[0, 0, 3, 3] -= 40  # an outlier that guidance blows up
    result = DynamicThresholding(mimic_scale=1, percentile=0.9)(c, u, 20, x, SIGMA)
    strong = linear(c, u, 20, x, SIGMA)
    values = (strong - strong.mean((2, 3), keepdim=True)).abs()[0, 0]
    own = values.flatten().quantile(0.9)
    mimic = (c - c.mean((2, 3), keepdim=True)).abs()[0, 0].amax()
    moved = (result - strong.mean((2, 3), keepdim=True)).abs()[0, 0]
    assert values[3, 3] > own > mimic  # so it is clamped at the percentile
    assert moved[3, 3] == pytest.approx(float(mimic), rel=1e-4)
    assert (moved <= mimic * 1.0001).all()


def test_thresholding_at_the_mimic_scale_or_without_phi_is_plain_guidance() -> None:
    x, c, u = latents(1), latents(2), latents(3)
    plain = linear(c, u, 7, x, SIGMA)
    assert near(DynamicThresholding(mimic_scale=7)(c, u, 7, x, SIGMA), plain)
    assert torch.equal(DynamicThresholding(mimic_scale=3, phi=0)(c, u, 7, x, SIGMA), plain)
    flat = torch.zeros(1, 4, 8, 8)
    assert torch.equal(DynamicThresholding()(flat, flat, 9, flat, SIGMA), flat)


@pytest.mark.parametrize("threshold", [0.0, 15.0])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_adaptive_projection_is_that_of_diffusers_with_its_momentum(
    eta: float, threshold: float
) -> None:
    ours = AdaptiveProjection(eta, threshold, momentum=-0.5)
    theirs = MomentumBuffer(-0.5)
    for step in range(3):
        c, u = latents(10 + step), latents(20 + step)
        expected = normalized_guidance(c, u, 6.5, theirs, eta, threshold, True)
        assert near(ours(c, u, 7.5, latents(), SIGMA), expected)


def test_adaptive_projection_that_keeps_everything_is_plain_guidance() -> None:
    c, u = latents(1), latents(2)
    assert near(AdaptiveProjection(eta=1)(c, u, 7, c, SIGMA), linear(c, u, 7, c, SIGMA))


def test_adaptive_projection_moves_across_the_estimate_only() -> None:
    c, u = latents(1), latents(2)
    moved = AdaptiveProjection(eta=0)(c, u, 7, c, SIGMA) - c
    along = (moved * c).sum((1, 2, 3)) / (moved.norm() * c.norm())
    assert along.abs().max() < 1e-5


# --- perturbed attention ------------------------------------------------------------------------


def test_perturbed_attention_adds_the_way_from_the_blind_network() -> None:
    network = Toy()
    denoiser = Denoiser(network, SD)
    x = latents()
    perturbation = Perturbation(("mid_block.attentions.0",), 3.0)
    blind = perturbation.of(POSITIVE)
    assert blind.intervention.identity_attention == ("mid_block.attentions.0",)
    u, c, p = (denoiser(x, SIGMA, k) for k in (NEGATIVE, POSITIVE, blind))
    network.calls.clear()
    result = guided(denoiser, POSITIVE, NEGATIVE, 7, perturbation=perturbation)(x, SIGMA)
    # Diffusers: u + s (c - u) + pag (c - p)
    assert near(result, u + 7 * (c - u) + 3 * (c - p))
    assert len(network.calls) == 2  # the perturbed one cannot share the call of the others
    network.calls.clear()
    alone = guided(denoiser, POSITIVE, NEGATIVE, 1, perturbation=perturbation)(x, SIGMA)
    assert near(alone, c + 3 * (c - p))
    assert all(torch.equal(k, POSITIVE.context.expand(2, -1, -1)) for k in network.contexts)


def test_perturbed_attention_of_several_prompts_follows_their_weights() -> None:
    denoiser = Denoiser(Toy(), SD)
    x = latents()
    perturbation = Perturbation(("mid_block",), 2.0)
    parts = [(POSITIVE, 0.5), (OTHER, 0.7)]
    plain = guided(denoiser, parts, NEGATIVE, 4)(x, SIGMA)
    result = guided(denoiser, parts, NEGATIVE, 4, perturbation=perturbation)(x, SIGMA)
    expected = plain
    for condition, weight in parts:
        seeing = denoiser(x, SIGMA, condition)
        expected = expected + 2 * weight * (seeing - denoiser(x, SIGMA, perturbation.of(condition)))
    assert near(result, expected)


# --- self-attention guidance --------------------------------------------------------------------


def test_self_attention_guidance_is_that_of_diffusers() -> None:
    from diffusers.pipelines.deprecated.stable_diffusion_sag.pipeline_stable_diffusion_sag import (
        StableDiffusionSAGPipeline,
    )

    network = Watched()
    t = 400
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    theirs: Any = SimpleNamespace(
        unet=SimpleNamespace(config=SimpleNamespace(attention_head_dim=2)), scheduler=scheduler
    )
    sigma = SD.level(t)
    noisy = latents(batch=2, size=16) / 3  # as their scheduler holds it
    time = torch.full((2,), float(t))
    u, c = (network(noisy, time, k) for k in (NEGATIVE, POSITIVE))
    estimate = StableDiffusionSAGPipeline.pred_x0(theirs, noisy, u, t)
    degraded = StableDiffusionSAGPipeline.sag_masking(
        theirs, estimate, network.map.flatten(0, 1), (4, 4), torch.tensor(t), u
    )
    assert not near(degraded, noisy, 0.01)
    expected = u + 7.5 * (c - u) + 0.75 * (u - network(degraded, time, NEGATIVE))

    network.calls.clear()
    x = noisy * float((1 + sigma**2).sqrt())
    denoiser = Denoiser(network, SD)
    result = self_attention_guided(denoiser, POSITIVE, NEGATIVE, 7.5, sag_scale=0.75)(x, sigma)
    assert len(network.calls) == 3
    assert near(network.calls[1][0], degraded, 1e-4)
    assert near((x - result) / float(sigma), expected, 1e-4)


def test_self_attention_guidance_at_scale_one_never_evaluates_the_negative() -> None:
    network = Watched()
    denoiser = Denoiser(network, SD)
    x = latents(size=16)
    for negative in (NEGATIVE, None):
        none = self_attention_guided(denoiser, POSITIVE, negative, 1, sag_scale=0)(x, SIGMA)
        assert near(none, Denoiser(Toy(), SD)(x, SIGMA, POSITIVE))
    assert all(torch.equal(c, POSITIVE.context.expand(2, -1, -1)) for c in network.contexts)
    assert len(network.calls) == 4


def test_self_attention_guidance_refuses_what_it_cannot_use() -> None:
    assert isinstance(Watched(), AttentionNetwork) and not isinstance(Toy(), AttentionNetwork)
    with pytest.raises(RequestError, match="needs a network that shows its attention"):
        self_attention_guided(Denoiser(Toy(), SD), POSITIVE, NEGATIVE, 7)
    with pytest.raises(RequestError, match="needs a negative"):
        self_attention_guided(Denoiser(Watched(), SD), POSITIVE, None, 7)
    with pytest.raises(RequestError, match="16 tokens does not fit latents of 24 x 8"):
        salient(Watched().map, (24, 8))
    with pytest.raises(RequestError, match="latents of 5 x 5 or more; got 4 x 9"):
        blur(torch.zeros(1, 4, 4, 9))


@torch.no_grad()
def test_attention_guidances_work_with_the_u_net() -> None:
    backbone = Backbone(twins("sd15")[0])
    denoiser = Denoiser(backbone, SD)
    told, untold = (Condition(random(1, 7, TINY_CONTEXT, seed=s)) for s in (1, 2))
    x = latents(size=17)  # halved with rounding up: 9, 5, ...
    plain = guided(denoiser, told, untold, 5)(x, SIGMA)
    seen = self_attention_guided(denoiser, told, untold, 5, sag_scale=0)(x, SIGMA)
    assert near(seen, plain, 1e-4)
    assert not near(self_attention_guided(denoiser, told, untold, 5)(x, SIGMA), plain, 0.01)
    perturbed = guided(denoiser, told, untold, 5, perturbation=Perturbation(("mid_block",)))
    assert not near(perturbed(x, SIGMA), plain, 1e-3)
    unknown = guided(denoiser, told, untold, 5, perturbation=Perturbation(("middle",)))
    with pytest.raises(RequestError, match=r"no self-attention .* 'middle'"):
        unknown(x, SIGMA)


def test_salient_places_are_those_that_receive_more_than_an_even_share() -> None:
    attention = torch.full((1, 2, 6, 6), 0.01)
    attention[:, :, :, 4] = 1  # every query looks at token 4: row 1, column 1 of 2 x 3
    mask = salient(attention, (3, 5))  # halved once, rounding up
    assert mask.shape == (1, 1, 3, 5)
    assert mask[0, 0].nonzero().tolist() == [[2, 2], [2, 3]]


def test_blur_keeps_flat_pictures_and_the_mean_of_a_point() -> None:
    flat = torch.full((1, 4, 9, 7), 2.5)
    assert torch.allclose(blur(flat), flat)
    point = torch.zeros(1, 1, 21, 21)
    point[0, 0, 10, 10] = 1
    spread = blur(point)[0, 0]
    assert float(spread.sum()) == pytest.approx(1, abs=1e-6)
    assert float(spread[10, 11] / spread[10, 10]) == pytest.approx(0.6065, abs=1e-4)
    assert torch.allclose(spread, spread.T)


def test_freeu_is_told_to_the_network() -> None:
    condition = with_freeu(POSITIVE, 1.5, 1.6, 0.9, 0.2)
    assert condition.intervention.freeu == (1.5, 1.6, 0.9, 0.2)
    perturbed = Perturbation(("mid_block",)).of(condition)
    assert perturbed.intervention.freeu == (1.5, 1.6, 0.9, 0.2)
    assert POSITIVE.intervention.freeu is None
    network = Toy()
    Denoiser(network, SD)(latents(), SIGMA, condition)
    assert network.calls[0][1].intervention == condition.intervention
