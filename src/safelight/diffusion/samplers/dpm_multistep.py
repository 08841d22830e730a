"""DPM-Solver++ with memory: earlier estimates of the clean latents raise the order.

Lu et al. 2022 (arXiv:2211.01095); the SDE forms with eta, and the 3M, are Crowson's
(k-diffusion). λ = -log sigma, h a step in it. One call a step.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.samplers.step import Draws, Step, at, steps, toward

SolverType = Literal["midpoint", "heun"]


@torch.no_grad()
def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws) -> Iterator[Step]:
    """DPM-Solver++(2M): this estimate and the last, extrapolated to the middle of the step.

    Second order; the first step and the step to 0 are of first order.
    """
    previous: tuple[Tensor, float] | None = None  # the last estimate, and the last h
    for sigma, lower in steps(sigmas):
        denoised = denoise(x, at(sigma))
        h = math.log(sigma / lower) if lower > 0 else math.inf
        estimate = denoised
        if previous is not None and lower > 0:
            earlier, h_last = previous
            estimate = denoised + h / (2 * h_last) * (denoised - earlier)
        x = toward(estimate, x, lower / sigma)
        previous = denoised, h
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: SolverType = "midpoint",
) -> Iterator[Step]:
    """DPM-Solver++(2M) for the SDE whose noise is scaled by eta; eta = 0 is the ODE.

    solver_type says how the second-order term is integrated: as at the middle of the step, or
    exactly for an estimate linear in λ ("heun").
    """
    previous: tuple[Tensor, float] | None = None
    for sigma, lower in steps(sigmas):
        denoised = denoise(x, at(sigma))
        if lower == 0:
            yield Step(denoised, denoised, at(lower))
            return
        h = math.log(sigma / lower)
        z = (1 + eta) * h
        x = toward(denoised, x, math.exp(-z))
        if previous is not None:
            earlier, h_last = previous
            weight = -math.expm1(-z) / 2 if solver_type == "midpoint" else _phi2(z)
            x = x + weight * (h / h_last) * (denoised - earlier)
        x = _renoised(x, lower, h, noise, sigma, eta, s_noise)
        previous = denoised, h
        yield Step(x, denoised, at(lower))


def dpmpp_2m_sde_heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """`dpmpp_2m_sde` with solver type "heun"."""
    return dpmpp_2m_sde(denoise, x, sigmas, noise, eta=eta, s_noise=s_noise, solver_type="heun")


@torch.no_grad()
def dpmpp_3m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver++(3M) for the SDE whose noise is scaled by eta; eta = 0 is the ODE.

    The estimates of the last three steps give its first and second derivative in λ. The weight of
    the second is half of what third order asks for; so it is in k-diffusion and in
    Diffusers, and it is kept for the sake of their pictures. Second order.
    """
    estimates: list[Tensor] = []  # newest first, at most two besides the current
    widths: list[float] = []  # the steps h that lie between them, newest first
    for sigma, lower in steps(sigmas):
        denoised = denoise(x, at(sigma))
        if lower == 0:
            yield Step(denoised, denoised, at(lower))
            return
        h = math.log(sigma / lower)
        z = (1 + eta) * h
        x = toward(denoised, x, math.exp(-z))
        if len(estimates) == 1:
            x = x + _phi2(z) * (h / widths[0]) * (denoised - estimates[0])
        elif len(estimates) == 2:
            r0, r1 = widths[0] / h, widths[1] / h
            recent = (denoised - estimates[0]) / r0
            older = (estimates[0] - estimates[1]) / r1
            second = (recent - older) / (r0 + r1)
            first = recent + r0 * second
            x = x + _phi2(z) * first - _phi3(z) * second
        x = _renoised(x, lower, h, noise, sigma, eta, s_noise)
        estimates = [denoised, *estimates[:1]]
        widths = [h, *widths[:1]]
        yield Step(x, denoised, at(lower))


def dpmpp_3m(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws) -> Iterator[Step]:
    """DPM-Solver++(3M): `dpmpp_3m_sde` without noise."""
    return dpmpp_3m_sde(denoise, x, sigmas, noise, eta=0.0)


def _phi2(z: float) -> float:
    return math.expm1(-z) / z + 1


def _phi3(z: float) -> float:
    return _phi2(z) / z - 0.5


def _renoised(
    x: Tensor, lower: float, h: float, noise: Draws, sigma: float, eta: float, s_noise: float
) -> Tensor:
    if eta == 0:
        return x
    added = lower * math.sqrt(-math.expm1(-2 * eta * h))
    return x + added * s_noise * noise.brownian(sigma, lower).to(x)
