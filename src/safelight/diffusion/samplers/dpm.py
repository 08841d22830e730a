"""DPM-Solver-2 and the single-step solvers of DPM-Solver++, with their stochastic forms.

Lu et al. 2022 (arXiv:2206.00927, arXiv:2211.01095); the ancestral and SDE forms are Crowson's
(k-diffusion). λ = -log sigma is half the log-SNR, and h a step in it, so exp(-h) = lower / sigma.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.samplers.euler import churned
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
def dpm2(
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
    """The slope half-way in log sigma serves for the whole step (a midpoint rule).

    Second order, two calls a step; the step to 0 is Euler's, and so is one from pure noise.
    """
    amount = s_churn / (len(sigmas) - 1)
    for sigma, lower in steps(sigmas):
        if s_tmin <= sigma <= s_tmax:
            x, sigma = churned(x, sigma, noise, amount, s_noise)
        denoised = denoise(x, at(sigma))
        x = _midpoint(denoise, x, denoised, sigma, lower)
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def dpm2_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """`dpm2` further down than asked, then fresh noise back up."""
    for sigma, lower in steps(sigmas):
        denoised = denoise(x, at(sigma))
        down, up = ancestral(sigma, lower, eta)
        x = _midpoint(denoise, x, denoised, sigma, down)
        if up > 0:
            x = x + up * s_noise * noise().to(x)
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def dpmpp_2s(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws) -> Iterator[Step]:
    """DPM-Solver++(2S): of each pair of levels, the first is the midpoint of one second-order step.

    One call a step (Diffusers' DPMSolverSinglestepScheduler). The final step, and with an even
    number of steps the one before it, are of first order.
    """
    every = levels(sigmas)
    begin, first = x, x  # where the running pair began, and what was denoised there
    from_sigma = every[0]
    second = False
    for i, (sigma, lower) in enumerate(pairwise(every)):
        denoised = denoise(x, at(sigma))
        if second:
            r = math.log(from_sigma / sigma) / math.log(from_sigma / lower)
            x = toward(torch.lerp(first, denoised, 1 / (2 * r)), begin, lower / from_sigma)
            second = False
        else:
            begin, first, from_sigma = x, denoised, sigma
            x = toward(denoised, x, lower / sigma)
            second = i + 2 < len(every) - 1
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def dpmpp_2s_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++(2S) with its own midpoint, further down than asked, then fresh noise back up.

    Second order for eta = 0; two calls a step.
    """
    for sigma, lower in steps(sigmas):
        denoised = denoise(x, at(sigma))
        down, up = ancestral(sigma, lower, eta)
        if down == 0:
            x = denoised
        else:
            middle = math.sqrt(sigma * down)
            probed = denoise(toward(denoised, x, middle / sigma), at(middle))
            x = toward(probed, x, down / sigma)
        if up > 0:
            x = x + up * s_noise * noise().to(x)
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> Iterator[Step]:
    """DPM-Solver++(2S) for the SDE, with a probe at the fraction r of the step in log sigma.

    Two calls a step. The probe and the step ride on the same Brownian path.
    """
    for sigma, lower in steps(sigmas):
        denoised = denoise(x, at(sigma))
        if lower == 0:
            yield Step(denoised, denoised, at(lower))
            return
        middle = sigma ** (1 - r) * lower**r
        probe = _sde_euler(x, denoised, sigma, middle, noise, eta, s_noise)
        probed = denoise(probe, at(middle))
        estimate = torch.lerp(denoised, probed, 1 / (2 * r))
        x = _sde_euler(x, estimate, sigma, lower, noise, eta, s_noise)
        yield Step(x, denoised, at(lower))


def _midpoint(denoise: Denoise, x: Tensor, denoised: Tensor, sigma: float, lower: float) -> Tensor:
    if one_slope(sigma, lower):
        return toward(denoised, x, lower / sigma)
    middle = math.sqrt(sigma * lower)
    probe = toward(denoised, x, middle / sigma)
    return x + (lower - sigma) * slope(probe, denoise(probe, at(middle)), middle)


def _sde_euler(
    x: Tensor,
    denoised: Tensor,
    sigma: float,
    lower: float,
    noise: Draws,
    eta: float,
    s_noise: float,
) -> Tensor:
    down, up = ancestral(sigma, lower, eta)
    x = toward(denoised, x, down / sigma)
    if up > 0:
        x = x + up * s_noise * noise.brownian(sigma, lower).to(x)
    return x
