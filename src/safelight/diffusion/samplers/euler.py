"""One-step methods on the probability-flow ODE, and their ancestral twins.

Karras et al. 2022 (arXiv:2206.00364), algorithms 1 and 2; Song et al. 2021 (arXiv:2010.02502).
Shapes and coordinate: see `step`.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.samplers.step import (
    Draws,
    Step,
    ancestral,
    at,
    levels,
    one_slope,
    slope,
    steps,
    toward,
)


@torch.no_grad()
def euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Euler's method on the ODE; without churn equal to DDIM with eta = 0. First order.

    `s_churn` adds noise before each step between s_tmin and s_tmax (see `churned`).
    """
    amount = s_churn / (len(sigmas) - 1)
    for sigma, lower in steps(sigmas):
        if s_tmin <= sigma <= s_tmax:
            x, sigma = churned(x, sigma, noise, amount, s_noise)
        denoised = denoise(x, at(sigma))
        x = toward(denoised, x, lower / sigma)
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Heun's method (Karras et al. 2022, algorithm 2): the mean of the slopes at both ends.

    Second order, two calls a step; the step to 0 is Euler's, and so is one from pure noise.
    """
    amount = s_churn / (len(sigmas) - 1)
    for sigma, lower in steps(sigmas):
        if s_tmin <= sigma <= s_tmax:
            x, sigma = churned(x, sigma, noise, amount, s_noise)
        x, denoised = heun_step(denoise, x, sigma, lower)
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def heunpp2(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Heun++: the slopes here and at the next two levels, weighted by their noise levels.

    Up to three calls a step. ComfyUI's `heunpp2`; its weights (share of sigma_k in k * sigmas[0])
    are a heuristic that favours the first slope, and the method is of first order.
    """
    every = levels(sigmas)
    amount = s_churn / (len(every) - 1)
    last = len(every) - 1
    for i, (sigma, lower) in enumerate(steps(sigmas)):
        if s_tmin <= sigma <= s_tmax:
            x, sigma = churned(x, sigma, noise, amount, s_noise)
        denoised = denoise(x, at(sigma))
        ahead = every[i + 1 : min(i + 3, last)]  # levels short of the final one
        weights = [level / ((len(ahead) + 1) * every[0]) for level in ahead]
        here = slope(x, denoised, sigma)
        probe, probed, below = x, denoised, sigma
        x = toward(denoised, x, lower / sigma)
        for level, weight in zip(ahead, weights, strict=True):
            probe = toward(probed, probe, level / below)
            probed, below = denoise(probe, at(level)), level
            x = x + (lower - sigma) * weight * (slope(probe, probed, level) - here)
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Euler's step further down than asked, then fresh noise back up.

    In this coordinate it *is* DDIM with the same eta, and DDPM's posterior step for eta = 1.
    """
    for sigma, lower in steps(sigmas):
        denoised = denoise(x, at(sigma))
        down, up = ancestral(sigma, lower, eta)
        x = toward(denoised, x, down / sigma)
        if up > 0:
            x = x + up * s_noise * noise().to(x)
        yield Step(x, denoised, at(lower))


def ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, eq. 12): deterministic unless eta > 0; eta = 1 is DDPM."""
    return euler_ancestral(denoise, x, sigmas, noise, eta=eta, s_noise=s_noise)


def ddpm(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws, *, s_noise: float = 1.0
) -> Iterator[Step]:
    """DDPM's posterior step (Ho et al. 2020, arXiv:2006.11239, eq. 7) between any two levels."""
    return euler_ancestral(denoise, x, sigmas, noise, eta=1.0, s_noise=s_noise)


def heun_step(denoise: Denoise, x: Tensor, sigma: float, lower: float) -> tuple[Tensor, Tensor]:
    """(x at lower, denoised at sigma) by one step of Heun's method, or Euler's: see `one_slope`."""
    denoised = denoise(x, at(sigma))
    guess = toward(denoised, x, lower / sigma)
    if one_slope(sigma, lower):
        return guess, denoised
    ahead = slope(guess, denoise(guess, at(lower)), lower)
    return x + (lower - sigma) / 2 * (slope(x, denoised, sigma) + ahead), denoised


def churned(
    x: Tensor, sigma: float, noise: Draws, amount: float, s_noise: float
) -> tuple[Tensor, float]:
    """(x, sigma) with noise added until sigma has grown by the factor 1 + min(amount, √2 - 1).

    Karras et al. 2022, algorithm 2, lines 5 and 6. Nothing is drawn if amount is 0.
    """
    growth = 1 + min(amount, math.sqrt(2) - 1)
    if growth == 1:
        return x, sigma
    added = sigma * math.sqrt(growth**2 - 1)
    return x + added * s_noise * noise().to(x), sigma * growth
