"""Guidance by the gradient of a score of the picture as it is foreseen, such as CLIP's similarity.

A score weighs pictures: with scale w the sampler draws from p(x0) exp(w score(x0)) instead of
p(x0), as far as the score of the foreseen picture stands for that of the pictures it may become.
Dhariwal and Nichol 2021 (arXiv:2105.05233); with the foreseen picture as in Crowson's CLIP-guided
diffusion of 2021 and Chung et al. 2022 (arXiv:2209.14687), eq. 16.

Shapes: B pictures, C latent channels, h w latent height and width.
"""

import math
import time
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from safelight.diffusion.denoiser import Denoise
from safelight.errors import NonFiniteError, RequestError

Gradient = Literal["through", "estimate"]
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)

REACH = 4.0  # how much farther than data of unit size allows a change may go
_LOUD = 2.0**12  # keeps gradients of 16-bit parts above what they can hold
_PICTURE = (1, 2, 3)  # the axes of one picture


class Score(Protocol):
    """How well foreseen clean latents (B, C, h, w) fit, at the noise level of that moment: (B,).

    Differentiable in the latents. One picture's score must not depend on the others.
    """

    def __call__(self, denoised: Tensor, sigma: Tensor) -> Tensor: ...


@dataclass
class GuidanceCost:
    """What a score's guidance took in a run, besides asking the network; it is added up here."""

    calls: int = 0
    seconds: float = 0.0


def clip_guided(
    denoise: Denoise,
    score: Score,
    *,
    scale: float,
    gradient: Gradient = "through",
    high: float = math.inf,
    low: float = -1.0,
    cost: GuidanceCost | None = None,
) -> Denoise:
    """The denoiser that also climbs the score, where low < sigma <= high.

    The estimate moves by scale * V * slope, where slope is the gradient of the score at the
    estimate, and V the covariance of what the noisy latents leave open. So the scale weighs the
    score the same at every noise level.

    gradient: "through" takes V slope as sigma^2 times the gradient through the denoiser
    (Tweedie's formula), which moves only what the network holds possible: it costs the network's
    backward pass, twice its forward one, and the memory of training. "estimate" takes V = sigma^2
    / (1 + sigma^2), that of independent latents of unit size, and asks the network as without
    guidance. cost: what the score and the gradients take is added there.

    At scale 0 the result is `denoise` itself. Works inside `torch.no_grad`, as samplers run, but
    not inside `torch.inference_mode`. Raises RequestError for another gradient, a scale that is
    not finite, or an empty range; NonFiniteError if the score's gradient is not finite.
    """
    if gradient not in GRADIENTS:
        raise RequestError(f"the gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}.")
    if not math.isfinite(scale):
        raise RequestError(f"the scale of CLIP guidance must be a finite number; got {scale}.")
    if not low < high:
        raise RequestError(f"CLIP guidance from sigma {high:g} down to {low:g} never acts.")
    if scale == 0:
        return denoise

    def denoise_guided(x: Tensor, sigma: Tensor) -> Tensor:
        within = (low < sigma) & (sigma <= high)
        if not within.any():
            return denoise(x, sigma)
        square = sigma.to(torch.float64).square().expand(len(x))[:, None, None, None]
        variance, spread = (v.float().to(x.device) for v in (square, square / (1 + square)))
        if gradient == "through":
            denoised, slope, pulled = _through(denoise, score, x, sigma, cost)
            change = _bounded(variance * pulled, spread * slope)
        else:
            with torch.no_grad():
                denoised = denoise(x, sigma)
            began = time.perf_counter()
            change = spread * _slope(score, denoised, sigma)
            _add(cost, began)
        moved = denoised + (scale * change).to(denoised.dtype)
        if within.all():
            return moved
        return torch.where(within.expand(len(x))[:, None, None, None].to(x.device), moved, denoised)

    return denoise_guided


def _through(
    denoise: Denoise, score: Score, x: Tensor, sigma: Tensor, cost: GuidanceCost | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The estimate, the score's slope at it, and the slope seen from x; all (B, C, h, w)."""
    with torch.enable_grad():
        inner = x.detach().requires_grad_()
        denoised = denoise(inner, sigma)
        began = time.perf_counter()
        slope = _slope(score, denoised.detach(), sigma)
        # unit slopes go back through the network: small ones would vanish in 16 bits
        size = slope.square().mean(_PICTURE, keepdim=True).sqrt().clamp(min=1e-30)
        (pulled,) = torch.autograd.grad(denoised, inner, (slope / size).to(denoised.dtype))
    _check(pulled, "the denoiser")
    _add(cost, began)
    return denoised.detach(), slope, pulled.float() * size


def _slope(score: Score, denoised: Tensor, sigma: Tensor) -> Tensor:
    """The gradient of each picture's score, float32."""
    with torch.enable_grad():
        inner = denoised.detach().float().requires_grad_()
        scores = score(inner, sigma)
        assert scores.shape == (len(denoised),), scores.shape
        (slope,) = torch.autograd.grad(scores.float().sum() * _LOUD, inner)
    _check(slope, "the score")
    quiet: Tensor = slope / _LOUD
    return quiet


def _bounded(change: Tensor, usual: Tensor) -> Tensor:
    """The change, no longer than REACH times the usual one of each picture.

    Where noise drowns the picture, sigma^2 makes small errors of the network's slope large.
    """
    lengths = torch.linalg.vector_norm(change, dim=_PICTURE, keepdim=True)
    most = REACH * torch.linalg.vector_norm(usual, dim=_PICTURE, keepdim=True)
    bounded: Tensor = change * (most / lengths.clamp(min=1e-30)).clamp(max=1)
    return bounded.float()


def _check(slope: Tensor, what: str) -> None:
    if not bool(torch.isfinite(slope).all()):
        raise NonFiniteError(
            f"the gradient of CLIP guidance through {what} is NaN or infinite; use float32, a "
            "smaller scale, or the gradient at the estimate"
        )


def _add(cost: GuidanceCost | None, began: float) -> None:
    """Note a call that began at that time; the checks before have waited for the device."""
    if cost is not None:
        cost.calls += 1
        cost.seconds += time.perf_counter() - began
