"""Linear multistep methods: slopes already computed stand in for more calls. One call a step.

Shapes and coordinate: see `step`.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.samplers.step import (
    Draws,
    Step,
    at,
    levels,
    one_slope,
    slope,
    steps,
    toward,
)

# Adams-Bashforth weights of orders 1 to 4 for equal steps, newest slope first.
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@torch.no_grad()
def lms(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws, *, order: int = 4
) -> Iterator[Step]:
    """Linear multistep: Adams-Bashforth for unequal steps, exact for slopes polynomial in sigma.

    Orders 1 to 4, starting with 1 and rising by one a step. Also known as iPNDM_v (whose
    weights of order 3, as published in code, equal these for even steps only).
    """
    every = levels(sigmas)
    slopes: list[Tensor] = []
    for i, (sigma, lower) in enumerate(pairwise(every)):
        denoised = denoise(x, at(sigma))
        slopes = [slope(x, denoised, sigma), *slopes[: order - 1]]
        # In units of this step: 0 here, 1 at its end, earlier levels below 0.
        nodes = [(every[i - j] - sigma) / (lower - sigma) for j in range(len(slopes))]
        moments = [1 / (k + 1) for k in range(len(slopes))]
        x = toward(denoised, x, lower / sigma)
        x = x + (lower - sigma) * _bend(matching_weights(nodes, moments), slopes)
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def plms(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws) -> Iterator[Step]:
    """PLMS, the pseudo linear multistep method: equal-step weights on whatever steps there are.

    Liu et al. 2022 (PNDM, arXiv:2202.09778), with the two-call first step of CompVis'
    PLMS and of Diffusers' PNDM with `skip_prk_steps` (unless it starts from pure noise), so N
    steps make N + 1 calls. Second order.
    """
    slopes: list[Tensor] = []
    for i, (sigma, lower) in enumerate(steps(sigmas)):
        denoised = denoise(x, at(sigma))
        slopes = [slope(x, denoised, sigma), *slopes[:3]]
        x = toward(denoised, x, lower / sigma)
        if i == 0 and len(sigmas) > 2 and not one_slope(sigma, lower):
            ahead = slope(x, denoise(x, at(lower)), lower)
            x = x + (lower - sigma) * _bend((1 / 2, 1 / 2), (slopes[0], ahead))
        else:
            x = x + (lower - sigma) * _bend(ADAMS_BASHFORTH[len(slopes) - 1], slopes)
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def ipndm(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws, *, order: int = 4
) -> Iterator[Step]:
    """iPNDM: PLMS that starts with plain lower orders and ends with the last estimate.

    Zhang and Chen 2023 (arXiv:2204.13902). Orders 1 to 4 of weights; second order.
    """
    slopes: list[Tensor] = []
    for sigma, lower in steps(sigmas):
        denoised = denoise(x, at(sigma))
        slopes = [slope(x, denoised, sigma), *slopes[: order - 1]]
        x = toward(denoised, x, lower / sigma)
        if lower > 0:
            x = x + (lower - sigma) * _bend(ADAMS_BASHFORTH[len(slopes) - 1], slopes)
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def deis(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws, *, order: int = 3
) -> Iterator[Step]:
    """DEIS (log-rho AB): slopes extrapolated by a polynomial in log sigma, integrated exactly.

    Zhang and Chen 2023 (arXiv:2204.13902). Orders 1 to 3. The step to 0 is Euler's,
    because log sigma has no end there; with fewer than 15 steps the last two are of orders 2 and
    1, since few and long steps extrapolate badly (Lu et al. 2022, arXiv:2211.01095).
    """
    every = levels(sigmas)
    count = len(every) - 1
    slopes: list[Tensor] = []
    for i, (sigma, lower) in enumerate(pairwise(every)):
        denoised = denoise(x, at(sigma))
        slopes = [slope(x, denoised, sigma), *slopes[: order - 1]]
        if lower == 0:
            yield Step(denoised, denoised, at(lower))
            return
        used = min(len(slopes), count - i) if count < 15 else len(slopes)
        h = math.log(sigma / lower)
        nodes = [math.log(sigma / every[i - j]) / h for j in range(used)]
        weights = matching_weights(nodes, _exponential_moments(h, used))
        # dx = slope dsigma, and sigma(u) = sigma exp(-h u) for u from 0 to 1; the weights sum to
        # what makes Euler's step of the newest slope.
        x = toward(denoised, x, lower / sigma) - sigma * h * _bend(weights, slopes[:used])
        yield Step(x, denoised, at(lower))


def matching_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights w with sum_j w_j nodes_j^k = moments_k for every k below len(nodes).

    They make a quadrature exact for polynomials of that degree: the weights of Lagrange
    interpolation, integrated.
    """
    points = torch.tensor(nodes, dtype=torch.float64)
    powers = torch.stack([points**k for k in range(len(nodes))])
    wanted = torch.tensor(moments, dtype=torch.float64)
    solution: list[float] = torch.linalg.solve(powers, wanted).tolist()
    return solution


def _exponential_moments(h: float, count: int) -> list[float]:
    """The integrals of u^k exp(-h u) over u from 0 to 1, for k below count."""
    moments = [-math.expm1(-h) / h]
    for k in range(1, count):
        moments.append((k * moments[-1] - math.exp(-h)) / h)
    return moments


def _bend(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor | float:
    """What the earlier slopes add to the newest, which Euler's step has already used.

    Kept apart from that step, because float32 loses x + (lower - sigma) * slope at large sigma.
    """
    return sum(
        weight * (earlier - slopes[0])
        for weight, earlier in zip(weights[1:], slopes[1:], strict=True)
    )
