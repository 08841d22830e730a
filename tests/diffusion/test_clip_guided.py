"""Guidance by a score draws from the law that the score weighs, at every noise level alike."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from guidance_toy import NEGATIVE, POSITIVE, SD, SIGMA, Toy, latents, near
from safelight.diffusion.denoiser import Denoise, Denoiser
from safelight.diffusion.guidance import (
    GRADIENTS,
    AdaptiveProjection,
    Gradient,
    GuidanceCost,
    clip_guided,
    guided,
)
from safelight.diffusion.guidance.clip_guided import REACH
from safelight.errors import NonFiniteError, RequestError

MEAN, DEVIATION = 0.7, 0.5
LEVELS = torch.cat([torch.logspace(math.log10(300), -3, 80, dtype=torch.float64), torch.zeros(1)])


def gaussian(mean: float = MEAN, deviation: float = DEVIATION) -> Denoise:
    """The best denoiser of pictures that are independent normal numbers."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.to(x).expand(len(x))[:, None, None, None].square()
        return (deviation**2 * x + level * mean) / (deviation**2 + level)

    return denoise


def sampled(denoise: Denoise, count: int = 64) -> Tensor:
    """Heun's method on the probability flow, without gradients as all samplers run."""
    x = LEVELS[0].float() * latents(batch=count) / 3
    with torch.no_grad():
        for sigma, lower in pairwise(LEVELS):
            slope = (x - denoise(x, sigma)) / sigma
            ahead = x + (lower - sigma) * slope
            if lower > 0:
                slope = (slope + (ahead - denoise(ahead, lower)) / lower) / 2
            x = (x + (lower - sigma) * slope).float()
    return x


def linear(latent: Tensor, sigma: Tensor) -> Tensor:
    """The sum of all numbers of a picture."""
    return latent.sum((1, 2, 3))


def parabola(target: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda latent, sigma: -(latent - target).square().sum((1, 2, 3)) / 2


def test_the_unguided_toy_draws_its_own_law() -> None:
    drawn = sampled(gaussian())
    assert abs(float(drawn.mean()) - MEAN) < 0.02 and abs(float(drawn.std()) - DEVIATION) < 0.02


@pytest.mark.parametrize("scale", [-1.5, 0.8, 2.0])
def test_a_linear_score_moves_samples_to_the_mean_of_the_tilted_law(scale: float) -> None:
    """N(m, s^2) times exp(w x) is N(m + w s^2, s^2): the closed form."""
    plain, tilted = sampled(gaussian()), sampled(clip_guided(gaussian(), linear, scale=scale))
    moved = tilted - plain
    assert torch.allclose(moved, torch.full_like(moved, scale * DEVIATION**2), atol=0.01)


def test_a_weak_quadratic_score_moves_samples_to_the_mean_of_the_tilted_law() -> None:
    """N(m, s^2) times exp(-w (x - y)^2 / 2) has the mean (m + w s^2 y) / (1 + w s^2)."""
    target, scale = 3.0, 0.2
    drawn = sampled(clip_guided(gaussian(), parabola(target), scale=scale))
    weight = scale * DEVIATION**2
    expected = (MEAN + weight * target) / (1 + weight)
    shift = float(drawn.mean() - sampled(gaussian()).mean())
    assert abs(shift - (expected - MEAN)) < 0.05 * (expected - MEAN)


def test_the_estimates_own_gradient_is_exact_for_latents_of_unit_size() -> None:
    plain = sampled(gaussian(MEAN, 1.0))
    cheap = sampled(clip_guided(gaussian(MEAN, 1.0), linear, scale=0.8, gradient="estimate"))
    assert torch.allclose(cheap - plain, torch.full_like(plain, 0.8), atol=0.02)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_scale_means_the_same_at_every_noise_level(gradient: Gradient) -> None:
    """The estimate moves by scale times what the noise leaves open, for unit latents s/(1+s)."""
    inner = gaussian(0.0, 1.0)
    outer = clip_guided(inner, linear, scale=0.5, gradient=gradient)
    x = latents()
    for sigma in (0.01, 0.3, 1.0, 4.0, 100.0):
        level = torch.tensor(sigma, dtype=torch.float64)
        moved = outer(x, level) - inner(x, level)
        expected = 0.5 * sigma**2 / (1 + sigma**2)
        assert torch.allclose(moved, torch.full_like(moved, expected), rtol=2e-3, atol=1e-6)


def test_scale_0_is_the_denoiser_itself() -> None:
    inner = gaussian()
    assert clip_guided(inner, linear, scale=0) is inner


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_outside_its_range_nothing_changes_bit_for_bit(gradient: Gradient) -> None:
    inner = Denoiser(Toy(), SD).given(POSITIVE)
    outer = clip_guided(inner, linear, scale=3, gradient=gradient, high=4.0, low=0.5)
    x = latents()
    for sigma, inside in ((5.0, False), (4.0, True), (0.51, True), (0.5, False)):
        level = torch.tensor(sigma, dtype=torch.float64)
        assert torch.equal(outer(x, level), inner(x, level)) != inside
    mixed = torch.tensor([5.0, 1.0], dtype=torch.float64)
    both, plain = outer(x, mixed), inner(x, mixed)
    assert torch.equal(both[0], plain[0]) and not torch.equal(both[1], plain[1])


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_picture_of_a_batch_is_guided_as_it_is_alone(gradient: Gradient) -> None:
    outer = clip_guided(
        guided(Denoiser(Toy(), SD), POSITIVE, NEGATIVE, 4), parabola(1.0), scale=2,
        gradient=gradient,
    )  # fmt: skip
    x, sigma = latents(batch=3), torch.tensor([0.5, 3.0, 12.0])
    together = outer(x, sigma)
    for i in range(3):
        assert near(together[i : i + 1], outer(x[i : i + 1], sigma[i]))


def test_the_way_through_the_network_is_its_jacobian() -> None:
    """sigma^2 times the gradient of the score of the estimate, by differences."""
    inner = Denoiser(Toy(), SD).given(POSITIVE)
    x, score, sigma = latents(batch=1), parabola(1.0), torch.tensor(0.7, dtype=torch.float64)
    moved = clip_guided(inner, score, scale=1.5)(x, sigma) - inner(x, sigma)
    rng = torch.Generator().manual_seed(2)
    for _ in range(4):
        way = torch.randn(x.shape, generator=rng)
        ahead, behind = (score(inner(x + s * 1e-2 * way, sigma), sigma) for s in (1, -1))
        slope = float(ahead - behind) / 2e-2
        assert math.isclose(float((moved * way).sum()), 1.5 * 0.7**2 * slope, rel_tol=0.02)


def test_no_gradient_is_left_behind_and_none_is_needed() -> None:
    inner = Denoiser(Toy(), SD).given(POSITIVE)
    outer = clip_guided(inner, linear, scale=1)
    x = latents()
    with torch.no_grad():
        quiet = outer(x, SIGMA)
    assert not quiet.requires_grad and not outer(x, SIGMA).requires_grad
    assert torch.equal(quiet, outer(x, SIGMA)) and not x.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_16_bits_are_guided_as_in_32(dtype: torch.dtype) -> None:
    """Even by slopes that 16 bits cannot hold."""
    toy = Toy()

    def network(x: Tensor, time: Tensor, condition: object) -> Tensor:
        mixed = torch.nn.functional.conv2d(x.to(kernel.dtype), kernel, padding=1)
        return mixed.tanh().float()

    def faint(latent: Tensor, sigma: Tensor) -> Tensor:
        return 1e-9 * linear(latent, sigma)

    x, sigma = latents(), torch.tensor(0.7, dtype=torch.float64)
    moved = []
    for kind in (torch.float32, dtype):
        kernel = toy.kernel.to(kind)
        inner = Denoiser(network, SD).given(POSITIVE)
        moved.append(clip_guided(inner, faint, scale=1e9)(x, sigma) - inner(x, sigma))
    assert near(moved[1], moved[0], 0.15)


def test_a_unet_of_16_bits_is_guided_as_in_32() -> None:
    from diffusion_lab import backbone, frozen_text, process

    with torch.no_grad():
        condition = frozen_text().conditioner(["a red circle"])
    x, sigma, moved = latents(), torch.tensor(2.0, dtype=torch.float64), []
    for dtype in (torch.float32, torch.bfloat16):
        network = backbone()
        network.unet.to(dtype).requires_grad_(False)
        inner = Denoiser(network, process()).given(condition)
        moved.append(clip_guided(inner, parabola(1.0), scale=0.5)(x, sigma) - inner(x, sigma))
    both = torch.stack([change.flatten() for change in moved])
    assert float(torch.corrcoef(both)[0, 1]) > 0.98
    assert float(moved[1].norm() / moved[0].norm()) == pytest.approx(1, abs=0.1)


def test_a_rule_that_remembers_goes_along() -> None:
    """Adaptive projected guidance keeps what it was given, and so the way it was computed."""
    rule = AdaptiveProjection(eta=0.3, momentum=-0.5)
    inner = guided(Denoiser(Toy(), SD), POSITIVE, NEGATIVE, 4, rule=rule)
    outer = clip_guided(inner, linear, scale=1)
    for _ in range(3):
        assert bool(torch.isfinite(outer(latents(), SIGMA)).all())
    assert rule._average is not None and not rule._average.requires_grad


def test_errors_of_the_network_are_bounded_where_noise_drowns_the_picture() -> None:
    """At sigma 1000 a slope that is wrong by 1/10 would move the estimate by 100,000."""

    def careless(x: Tensor, sigma: Tensor) -> Tensor:
        return 0.1 * x

    x, sigma = latents(), torch.tensor(1000.0, dtype=torch.float64)
    moved = clip_guided(careless, linear, scale=1)(x, sigma) - careless(x, sigma)
    assert torch.allclose(moved, torch.full_like(moved, REACH), rtol=1e-3)


def test_a_score_follows_the_noise_level_and_is_asked_once_a_call() -> None:
    asked: list[Tensor] = []

    def score(latent: Tensor, sigma: Tensor) -> Tensor:
        asked.append(sigma)
        return linear(latent, sigma)

    network = Toy()
    outer = clip_guided(Denoiser(network, SD).given(POSITIVE), score, scale=1)
    outer(latents(), SIGMA)
    assert asked == [SIGMA] and len(network.calls) == 1


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_cost_is_told(gradient: Gradient) -> None:
    cost = GuidanceCost()
    outer = clip_guided(gaussian(), linear, scale=1, gradient=gradient, high=5.0, cost=cost)
    for sigma in (10.0, 4.0, 1.0):
        outer(latents(), torch.tensor(sigma, dtype=torch.float64))
    assert cost.calls == 2 and 0 < cost.seconds < 10


def test_wrong_settings_and_broken_gradients_are_named() -> None:
    with pytest.raises(RequestError, match="one of through, estimate; got 'both'"):
        clip_guided(gaussian(), linear, scale=1, gradient="both")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="finite number; got nan"):
        clip_guided(gaussian(), linear, scale=math.nan)
    with pytest.raises(RequestError, match="never acts"):
        clip_guided(gaussian(), linear, scale=1, high=1, low=2)

    def broken(latent: Tensor, sigma: Tensor) -> Tensor:
        return latent.sum((1, 2, 3)) * math.nan

    with pytest.raises(NonFiniteError, match="through the score is NaN"):
        clip_guided(gaussian(), broken, scale=1)(latents(), SIGMA)
