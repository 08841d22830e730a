"""DPM-Solver with a fixed budget of calls ("fast") and with steps chosen by an error estimate.

Lu et al. 2022 (arXiv:2206.00927), algorithms 1 and 2; both as in k-diffusion.
They use only the largest and the smallest positive level of `sigmas`. k-diffusion stops at the
smallest; if sigmas end in 0, one more call here takes the rest of the noise off. From pure noise
(flow at t = 1) one Euler step goes to the second level first: no error can be estimated up there,
and even steps in log sigma would be spent on noise.

λ = -log sigma, h a step in it; slopes are estimates of the noise (see `step.slope`).
"""

import math
from collections.abc import Iterator, Sequence

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
    toward,
)
from safelight.errors import NonFiniteError

# Where a step must be accepted whatever its error, so that a network that never looks smooth
# cannot keep the sampler for ever. A step of this width changes sigma by a thousandth.
SHORTEST = 1e-3


@torch.no_grad()
def dpm_fast(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver-fast: as many calls as `sigmas` has steps, in even steps of order 3, 2 and 1.

    Yields one `Step` for each group of up to three calls.
    """
    every = levels(sigmas)
    if len(every) > 2 and one_slope(every[0], every[1]):
        first = _descended(denoise, x, every)
        yield first
        x, every = first.x, every[1:]
    calls = len(every) - 1
    top, bottom = every[0], every[-1] if every[-1] > 0 else every[-2]
    if top > bottom:
        orders = _orders(calls)
        for i, order in enumerate(orders):
            sigma = top * (bottom / top) ** (i / len(orders))
            lower = top * (bottom / top) ** ((i + 1) / len(orders))
            down, up = _split(sigma, lower, bottom, eta)
            denoised = denoise(x, at(sigma))
            x = _step(denoise, x, slope(x, denoised, sigma), sigma, down, order)[-1]
            if up > 0:
                x = x + up * s_noise * noise().to(x)
            yield Step(x, denoised, at(lower))
    if every[-1] == 0:
        denoised = denoise(x, at(bottom))
        yield Step(denoised, denoised, at(0.0))


@torch.no_grad()
def dpm_adaptive(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver-12 or -23 with steps as long as the error estimate allows.

    The number of `sigmas` does not matter. Yields a `Step` for each accepted step (`order` calls;
    a rejected step costs as many). The error is one number for the whole batch, so run pictures
    apart if they must not depend on each other. Raises NonFiniteError if the estimate is not a
    number.
    """
    every = levels(sigmas)
    if len(every) > 2 and one_slope(every[0], every[1]):
        first = _descended(denoise, x, every)
        yield first
        x, every = first.x, every[1:]
    bottom = every[-1] if every[-1] > 0 else every[-2]
    sigma, h, reference = every[0], h_init, x
    exponent = 1 / (1.5 if eta else order)
    while math.log(sigma / bottom) > 1e-5:
        lower = max(bottom, sigma * math.exp(-h))
        down, up = _split(sigma, lower, bottom, eta)
        denoised = denoise(x, at(sigma))
        low, high = _step(denoise, x, slope(x, denoised, sigma), sigma, down, order)
        tolerance = (rtol * torch.maximum(low.abs(), reference.abs())).clamp(min=atol)
        error = float(((low - high) / tolerance).square().mean().sqrt())
        if not math.isfinite(error):
            raise NonFiniteError(
                f"DPM adaptive: the error estimate at sigma {sigma:.4g} is {error}; the network's "
                "answer is not finite. Run it in float32."
            )
        # Grow or shrink h as the order promises, but at most to 2.6 or 0.21 of it.
        factor = 1 + math.atan((1 / (error + 1e-8)) ** exponent - 1)
        if factor >= 0.81 or h <= SHORTEST:
            reference, x, sigma = low, high, lower
            if up > 0:
                x = x + up * s_noise * noise().to(x)
            yield Step(x, denoised, at(sigma))
        h = max(h * factor, SHORTEST)
    if every[-1] == 0:
        denoised = denoise(x, at(bottom))
        yield Step(denoised, denoised, at(0.0))


def _descended(denoise: Denoise, x: Tensor, every: Sequence[float]) -> Step:
    denoised = denoise(x, at(every[0]))
    return Step(toward(denoised, x, every[1] / every[0]), denoised, at(every[1]))


def _orders(calls: int) -> list[int]:
    groups = calls // 3 + 1
    if calls % 3 == 0:
        return [3] * (groups - 2) + [2, 1]
    return [3] * (groups - 1) + [calls % 3]


def _split(sigma: float, lower: float, bottom: float, eta: float) -> tuple[float, float]:
    down, _ = ancestral(sigma, lower, eta)
    down = max(down, bottom)
    return down, math.sqrt(max(lower**2 - down**2, 0.0))


def _step(
    denoise: Denoise, x: Tensor, eps: Tensor, sigma: float, lower: float, order: int
) -> tuple[Tensor, Tensor]:
    """x at lower by DPM-Solver of the order below, and of this order, sharing calls.

    eps (like x) is the slope at sigma. Order 1 gives the same twice.
    """
    h = math.log(sigma / lower)
    grown = lower * math.expm1(h)  # sigma - lower
    first = x - grown * eps
    if order == 1:
        return first, first
    if order == 2:
        near = sigma * math.exp(-h / 2)
        eps_near = _slope_at(denoise, x - near * math.expm1(h / 2) * eps, near)
        return first, first - grown * (eps_near - eps)
    near, far = sigma * math.exp(-h / 3), sigma * math.exp(-2 * h / 3)
    eps_near = _slope_at(denoise, x - near * math.expm1(h / 3) * eps, near)
    second = first - 1.5 * grown * (eps_near - eps)
    bend = 2 * far * (math.expm1(2 * h / 3) / (2 * h / 3) - 1)
    probe = x - far * math.expm1(2 * h / 3) * eps - bend * (eps_near - eps)
    eps_far = _slope_at(denoise, probe, far)
    third = first - 1.5 * lower * (math.expm1(h) / h - 1) * (eps_far - eps)
    return second, third


def _slope_at(denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
    return slope(x, denoise(x, at(sigma)), sigma)
