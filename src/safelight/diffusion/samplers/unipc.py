"""UniPC: a multistep predictor, corrected by the call that the next step makes anyway.

Zhao et al. 2023 (arXiv:2302.04867), the data-prediction form with B(h) = h ("bh1") or
B(h) = exp(h) - 1 ("bh2"). λ = -log sigma, h a step in it. One call a step.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.samplers.multistep import matching_weights
from safelight.diffusion.samplers.step import Draws, Step, at, steps, toward

SolverType = Literal["bh1", "bh2"]


class _Known(NamedTuple):
    sigma: float
    denoised: Tensor


class _Move(NamedTuple):
    """A step already taken, kept for its correction."""

    x: Tensor  # where it started
    lower: float
    order: int
    known: tuple[_Known, ...]  # newest first; the start of the step leads


@torch.no_grad()
def uni_pc(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    order: int = 3,
    solver_type: SolverType = "bh1",
) -> Iterator[Step]:
    """UniPC of orders 1 to 3 (the corrector's is one higher), deterministic.

    The order rises by one a step from 1 and falls to 1 at the end, where the last guess stays
    uncorrected. The step to 0 gives the last estimate.
    """
    count = len(sigmas) - 1
    known: tuple[_Known, ...] = ()
    move: _Move | None = None
    for i, (sigma, lower) in enumerate(steps(sigmas)):
        denoised = denoise(x, at(sigma))
        if move is not None:
            x = _corrected(move, denoised, solver_type)
        known = (_Known(sigma, denoised), *known[: order - 1])
        used = min(len(known), count - i)
        move = _Move(x, lower, used, known)
        x = _predicted(move, solver_type) if lower > 0 else denoised
        yield Step(x, denoised, at(lower))


def uni_pc_bh2(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws, *, order: int = 3
) -> Iterator[Step]:
    """UniPC with B(h) = exp(h) - 1: Diffusers' default, and ComfyUI's `uni_pc_bh2`."""
    return uni_pc(denoise, x, sigmas, noise, order=order, solver_type="bh2")


def _predicted(move: _Move, solver_type: SolverType) -> Tensor:
    start = move.known[0]
    base = toward(start.denoised, move.x, move.lower / start.sigma)
    nodes, differences = _differences(move)
    if not nodes:
        return base
    scale, moments = _moments(move, solver_type)
    # Both weights of order 2 would be right; the paper fixes the simpler one.
    weights = [0.5] if move.order == 2 else matching_weights(nodes, moments[:-1])
    return base + scale * _sum(weights, differences)


def _corrected(move: _Move, denoised: Tensor, solver_type: SolverType) -> Tensor:
    start = move.known[0]
    base = toward(start.denoised, move.x, move.lower / start.sigma)
    nodes, differences = _differences(move)
    scale, moments = _moments(move, solver_type)
    weights = [0.5] if move.order == 1 else matching_weights([*nodes, 1.0], moments)
    return base + scale * _sum(weights, [*differences, denoised - start.denoised])


def _differences(move: _Move) -> tuple[list[float], list[Tensor]]:
    """Where the earlier estimates lie, in units of this step, and their slopes from its start."""
    start = move.known[0]
    h = math.log(start.sigma / move.lower)
    earlier = move.known[1 : move.order]
    nodes = [math.log(start.sigma / point.sigma) / h for point in earlier]
    slopes = [
        (point.denoised - start.denoised) / node for point, node in zip(earlier, nodes, strict=True)
    ]
    return nodes, slopes


def _moments(move: _Move, solver_type: SolverType) -> tuple[float, list[float]]:
    """(-B, b): what the weighted powers of the nodes must sum to, order conditions 1 to p."""
    z = -math.log(move.known[0].sigma / move.lower)
    scale = z if solver_type == "bh1" else math.expm1(z)
    phi = math.expm1(z) / z - 1
    moments = []
    for k in range(1, move.order + 1):
        moments.append(math.factorial(k) * phi / scale)
        phi = phi / z - 1 / math.factorial(k + 1)
    return -scale, moments


def _sum(weights: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    total = weights[0] * terms[0]
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total = total + weight * term
    return total
