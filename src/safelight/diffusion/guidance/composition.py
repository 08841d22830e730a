"""Denoisers made of denoisers: by noise level, by place, around a known picture; and FreeU.

Shapes: B pictures, C latent channels, h w latent height and width.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoise
from safelight.errors import RequestError


def between(inside: Denoise, outside: Denoise, high: float, low: float) -> Denoise:
    """`inside` where low < sigma <= high, `outside` elsewhere.

    Guidance in an interval (Kynkäänniemi et al. 2024, arXiv:2404.07724), prompts that change on
    the way, a refiner. One of the two is evaluated, unless the pictures' sigmas disagree.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        within = (low < sigma) & (sigma <= high)
        if within.all():
            return inside(x, sigma)
        if not within.any():
            return outside(x, sigma)
        chosen = within.expand(x.shape[0])[:, None, None, None].to(x.device)
        return torch.where(chosen, inside(x, sigma), outside(x, sigma))

    return denoise


def keep(denoise: Denoise, known: Tensor, mask: Tensor, noise: Tensor | None = None) -> Denoise:
    """A denoiser that paints where the mask is 1 and holds to `known` where it is 0.

    known (B, C, h, w) latents; mask broadcasts to them, softness allowed. With `noise`, the kept
    part of x is first replaced by known + sigma * noise (RePaint's idea, ComfyUI's way), so the
    painted part sees it at the right level whatever the sampler did; without, only the estimate
    is replaced (A1111's way), which is the same for samplers that add no noise of their own and
    start from known + sigmas[0] * noise. Samplers that end on the estimate return `known` exactly.
    """

    def denoise_masked(x: Tensor, sigma: Tensor) -> Tensor:
        place, held = mask.to(x), known.to(x)
        if noise is not None:
            level = sigma.to(x.dtype).to(x.device).expand(x.shape[0])[:, None, None, None]
            x = torch.lerp(held + level * noise.to(x), x, place)
        return torch.lerp(held, denoise(x, sigma), place)

    return denoise_masked


def regions(parts: Sequence[tuple[Denoise, Tensor]]) -> Denoise:
    """Denoisers side by side: at each place their mean, weighted by their masks.

    Masks broadcast to (B, C, h, w), are 0 or more, and may overlap (Bar-Tal et al. 2023,
    arXiv:2302.08113). Raises RequestError without parts, or if a place has no weight.
    """
    if not parts:
        raise RequestError("regions need at least one part; got none.")
    total = torch.stack(torch.broadcast_tensors(*(mask for _, mask in parts))).sum(0)
    if not (total > 0).all() or any((mask < 0).any() for _, mask in parts):
        raise RequestError(
            "the regions' masks must be 0 or more and leave no place uncovered; add a part for "
            "the whole picture."
        )

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        result = torch.zeros_like(x)
        for part, mask in parts:
            result = result + (mask / total).to(x) * part(x, sigma)
        return result

    return denoise


def with_freeu(condition: Condition, b1: float, b2: float, s1: float, s2: float) -> Condition:
    """The condition with FreeU: stronger backbone features (b), weaker skips' low waves (s).

    Published factors: SD 1.5 (1.5, 1.6, 0.9, 0.2), SD 2.1 (1.4, 1.6, 0.9, 0.2),
    SDXL (1.3, 1.4, 0.9, 0.2). Si et al. 2023 (arXiv:2309.11497).
    """
    return replace(condition, intervention=replace(condition.intervention, freeu=(b1, b2, s1, s2)))
