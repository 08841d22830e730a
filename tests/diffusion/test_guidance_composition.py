from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from guidance_toy import NEGATIVE, OTHER, POSITIVE, SD, SIGMA, Toy, latents, near
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import (
    Rescaled,
    between,
    edited,
    guided,
    keep,
    regions,
)
from safelight.diffusion.prediction import V
from safelight.diffusion.process import ddpm
from safelight.diffusion.samplers import resolve_sampler
from safelight.errors import RequestError


def constant(value: float, calls: list[float] | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        if calls is not None:
            calls.append(value)
        return torch.full_like(x, value)

    return denoise


def test_an_interval_holds_above_low_and_up_to_high_and_asks_one_denoiser() -> None:
    calls: list[float] = []
    denoise = between(constant(1, calls), constant(2, calls), high=5.0, low=1.0)
    got = [float(denoise(latents(), torch.tensor(s))[0, 0, 0, 0]) for s in (9.0, 5, 2, 1, 0.5)]
    assert got == [2, 1, 1, 2, 2] == calls


def test_pictures_on_both_sides_of_an_interval_get_their_own() -> None:
    denoise = between(constant(1), constant(2), high=5.0, low=1.0)
    result = denoise(latents(batch=3), torch.tensor([9.0, 2.0, 0.5]))
    assert result[:, 0, 0, 0].tolist() == [2, 1, 2]


def noises() -> Any:
    rng = torch.Generator().manual_seed(5)
    return lambda: torch.randn(2, 4, 8, 8, generator=rng)


@pytest.mark.parametrize("with_noise", [True, False])
def test_what_is_kept_ends_exactly_as_it_was(with_noise: bool) -> None:
    known, noise = latents(1), latents(2) / 3
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 3:7] = 1
    inner = guided(Denoiser(Toy(), SD), POSITIVE, NEGATIVE, 5)
    denoise = keep(inner, known, mask, noise if with_noise else None)
    sigmas = torch.tensor([14.0, 6.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    euler = resolve_sampler("euler")
    free = list(euler.run(inner, known + 14 * noise, sigmas, noises()))[-1].x
    held = list(euler.run(denoise, known + 14 * noise, sigmas, noises()))[-1].x
    outside = mask.expand_as(known) == 0
    assert torch.equal(held[outside], known[outside])
    assert not torch.equal(held[~outside], known[~outside])
    assert not torch.equal(held[~outside], free[~outside])


def test_the_kept_part_is_seen_at_the_right_noise_level() -> None:
    known, noise, x = latents(1), latents(2), latents(3)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :] = 1
    seen: list[Tensor] = []

    def watch(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return x

    keep(watch, known, mask, noise)(x, SIGMA)
    assert torch.equal(seen[0][:, :, :4], x[:, :, :4])
    assert torch.allclose(seen[0][:, :, 4:], (known + 3 * noise)[:, :, 4:])
    keep(watch, known, mask)(x, SIGMA)
    assert torch.equal(seen[1], x)


def test_a_soft_mask_mixes() -> None:
    result = keep(constant(10), torch.full((2, 4, 8, 8), 2.0), torch.tensor(0.25))(latents(), SIGMA)
    assert torch.allclose(result, torch.full_like(result, 4.0))


def test_regions_are_means_weighted_by_their_masks() -> None:
    left, whole = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    left[..., :4] = 3
    result = regions([(constant(1), left), (constant(5), whole)])(latents(), SIGMA)
    assert torch.allclose(result[..., :4], torch.tensor(2.0))
    assert torch.allclose(result[..., 4:], torch.tensor(5.0))


def test_one_region_that_covers_everything_is_its_denoiser() -> None:
    inner = guided(Denoiser(Toy(), SD), POSITIVE, NEGATIVE, 5)
    x = latents()
    assert torch.equal(regions([(inner, torch.ones(1, 1, 8, 8))])(x, SIGMA), inner(x, SIGMA))


def test_regions_must_cover_everything() -> None:
    half = torch.zeros(1, 1, 8, 8)
    half[..., :4] = 1
    for parts in ([(constant(1), half)], [(constant(1), 2 * half), (constant(2), half - 1)]):
        with pytest.raises(RequestError, match="leave no place uncovered"):
            regions(parts)
    with pytest.raises(RequestError, match="at least one part"):
        regions([])


def test_editing_goes_by_the_picture_and_then_by_the_text() -> None:
    network = Toy()
    denoiser = Denoiser(network, SD)
    x = latents()
    nothing, picture, full = (denoiser(x, SIGMA, c) for c in (NEGATIVE, OTHER, POSITIVE))
    network.calls.clear()
    result = edited(denoiser, POSITIVE, OTHER, NEGATIVE, text_scale=7.5, image_scale=1.5)(x, SIGMA)
    assert near(result, nothing + 1.5 * (picture - nothing) + 7.5 * (full - picture))
    assert len(network.calls) == 1
    plain = edited(denoiser, POSITIVE, OTHER, NEGATIVE, text_scale=1, image_scale=1)(x, SIGMA)
    assert torch.equal(plain, full)
    assert len(network.calls) == 2


def test_guidances_compose_into_one_another() -> None:
    # CFG with rescaling inside an interval, on the left half only, around a known picture
    denoiser = Denoiser(Toy(), ddpm(V))
    x, known = latents(), latents(1)
    strong = guided(denoiser, POSITIVE, NEGATIVE, 7.5, rule=Rescaled(V))
    weak = guided(denoiser, POSITIVE, None, 1)
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    whole = regions([(between(strong, weak, 5, 1), left), (weak, 1 - left)])
    result = keep(whole, known, left)(x, SIGMA)
    assert near(result[..., :4], strong(x, SIGMA)[..., :4])
    assert torch.equal(result[..., 4:], known[..., 4:])
    early = torch.tensor(9.0)
    calm = keep(whole, known, left)(x, early)
    assert near(calm[..., :4], weak(x, early)[..., :4])
