"""Samplers for distilled networks, which leap to the clean latents and fall back to a lower level.

Shapes and coordinate: see `step`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.prediction import EPS
from safelight.diffusion.process import Process
from safelight.diffusion.process import ddpm as ddpm_process
from safelight.diffusion.samplers.step import Draws, Step, at, steps, toward


@torch.no_grad()
def lcm(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws, *, s_noise: float = 1.0
) -> Iterator[Step]:
    """Multistep consistency sampling: all noise off, fresh noise of the next level on.

    Luo et al. 2023 (arXiv:2310.04378). The boundary scalings that LCMs were trained
    with (c_skip = 0.25 / ((10 t)² + 0.25)) are left out: they change the estimate by less than
    1e-5 of x at t = 19, the lowest timestep in use.
    """
    for sigma, lower in steps(sigmas):
        denoised = denoise(x, at(sigma))
        x = denoised + lower * s_noise * noise().to(x) if lower > 0 else denoised
        yield Step(x, denoised, at(lower))


@torch.no_grad()
def tcd(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Draws,
    *,
    eta: float = 0.3,
    s_noise: float = 1.0,
    process: Process | None = None,
) -> Iterator[Step]:
    """Strategic stochastic sampling of trajectory consistency distillation.

    Zheng et al. 2024 (arXiv:2402.19159); eta is its γ in [0, 1]: 0 is deterministic,
    1 steps to the end of training's clock before it adds noise. The network leaps to the level
    whose training time is (1 - eta) times that of the next level; so the sampler must know the
    clock, and `process` is Stable Diffusion's if left out. Diffusers rounds that time down to a
    whole timestep.
    """
    clock = process if process is not None else ddpm_process(EPS)
    for sigma, lower in steps(sigmas):
        denoised = denoise(x, at(sigma))
        down = _leap(clock, lower, eta)
        x = toward(denoised, x, down / sigma)
        up = max(lower**2 - down**2, 0.0) ** 0.5
        if up > 0:
            x = x + up * s_noise * noise().to(x)
        yield Step(x, denoised, at(lower))


def _leap(clock: Process, lower: float, eta: float) -> float:
    if lower == 0 or eta == 0:
        return lower
    down = float(clock.sigma_of((1 - eta) * clock.time(at(lower))))
    return min(down, lower)
