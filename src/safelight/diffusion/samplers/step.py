"""What all samplers share: the result of a step, the noise they may draw, and three small rules.

Every sampler is a generator `(denoise, x, sigmas, noise, **options) -> Iterator[Step]` in the one
coordinate x = latents + sigma * noise. x is (B, C, h, w), B pictures of C latent channels; it is
float32 in practice, and float64 stays float64. sigmas is (N + 1,), descending; its last value is
usually 0. `denoise` gets sigma as a 0-dim float64 tensor on the CPU, so no device waits for it.

In this coordinate the forward process of every family only adds noise, so the ancestral split
below holds for eps, v, x0, edm and rectified flow alike; no family needs a variance rule of its
own. (Software that runs flow models in x_t = (1 - t) latents + t noise has to rescale the signal
when it adds noise; dividing by 1 - t turns that rule into this one. ComfyUI's flow samplers choose
another level to step down to for the same eta, so their pictures differ, not their law.)
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from safelight.errors import RequestError

# From here up (flow at t = 1, zero terminal SNR) x is noise and the estimate its mean, which
# Euler's step follows exactly. Methods that mix slopes of both ends linearly in sigma would
# multiply the small change of the estimate by the huge step, so they take Euler's step there.
PURE_NOISE = 1000.0


class Step(NamedTuple):
    """The state after one step."""

    x: Tensor  # (B, C, h, w) at noise level sigma
    denoised: Tensor  # (B, C, h, w) the last estimate of the clean latents: use it for previews
    sigma: Tensor  # () float64


class Draws(Protocol):
    """Where samplers take fresh noise from; `safelight.diffusion.noise.Noise` is one.

    Both give (B, C, h, w) of unit variance. `brownian` is the increment of one Brownian path per
    picture between two noise levels, divided by the root of their distance: asked for parts of an
    interval and for the whole, it answers consistently.
    """

    def __call__(self) -> Tensor: ...

    def brownian(self, sigma: float, sigma_next: float) -> Tensor: ...


def levels(sigmas: Tensor) -> list[float]:
    """The noise levels as numbers, checked.

    Raises RequestError unless there are two or more, finite and strictly descending, all but the
    last above 0.
    """
    values: list[float] = sigmas.tolist()
    descending = len(values) > 1 and all(high > low for high, low in pairwise(values))
    if not descending or not values[-1] >= 0 or not math.isfinite(values[0]):
        raise RequestError(
            "sigmas must be two or more finite noise levels that fall at every step, of which "
            f"only the last may be 0; got {_short(values)}."
        )
    return values


def steps(sigmas: Tensor) -> Iterator[tuple[float, float]]:
    """The pairs (from, to) of neighbouring noise levels, checked as in `levels`."""
    return pairwise(levels(sigmas))


def at(sigma: float) -> Tensor:
    """A noise level as samplers pass it on: 0-dim float64 on the CPU."""
    return torch.tensor(sigma, dtype=torch.float64)


def toward(denoised: Tensor, x: Tensor, ratio: float) -> Tensor:
    """x moved straight toward denoised until its noise is `ratio` times what it was.

    With ratio = lower / sigma this is Euler's step, DDIM's, and the first order of DPM-Solver++.
    """
    return denoised + ratio * (x - denoised)


def slope(x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
    """dx/dsigma of the probability-flow ODE, which is the estimated noise.

    Karras et al. 2022 (arXiv:2206.00364), eq. 3.
    """
    return (x - denoised) / sigma


def one_slope(sigma: float, lower: float) -> bool:
    """Whether the step is Euler's in any method: to 0, where no slope is, or from pure noise."""
    return lower == 0 or sigma >= PURE_NOISE


def ancestral(sigma: float, lower: float, eta: float) -> tuple[float, float]:
    """(down, up): step down to `down`, then add `up` of fresh noise to stand at `lower`.

    down² + up² = lower². eta = 1 is the posterior variance of DDPM, 0 the deterministic step;
    the same eta as DDIM's (Song et al. 2021, arXiv:2010.02502, eq. 16, divided by alpha²).
    """
    up = min(lower, eta * lower * math.sqrt((sigma - lower) * (sigma + lower)) / sigma)
    return math.sqrt((lower - up) * (lower + up)), up


def _short(values: list[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:12])
    return f"[{shown}{', ...' if len(values) > 12 else ''}]"
