"""Self-attention guidance: away from what the network makes of blurred salient places.

Hong et al. 2023 (arXiv:2210.00939). Shapes: B pictures, C latent channels, h w latent height and
width, N attention tokens of the network's middle.
"""

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoise, Denoiser
from safelight.diffusion.guidance.rules import Rule, linear
from safelight.errors import RequestError

_RADIUS = 4  # of the blur, whose deviation is 1: as in the authors' Stable Diffusion code


@runtime_checkable
class AttentionNetwork(Protocol):
    """A network that can also show where its middle looked."""

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor: ...

    def with_attention(
        self, x: Tensor, time: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """The output, and the middle's self-attention (B, heads, N queries, N keys)."""
        ...


def self_attention_guided(
    denoiser: Denoiser,
    positive: Condition,
    negative: Condition | None,
    scale: float,
    *,
    sag_scale: float = 0.75,
    rule: Rule = linear,
) -> Denoise:
    """Guidance by `rule`, plus `sag_scale` times the way back from a blurred picture.

    The unconditional estimate is blurred where the attention of the same call gathers, noised as
    x is, and denoised again: three network calls a step. At scale 1 the conditional estimate
    takes its place, and the negative is never evaluated: two calls.
    Raises RequestError if the network cannot show its attention, or a negative is missing.
    """
    network = denoiser.network
    if not isinstance(network, AttentionNetwork):
        raise RequestError(
            "self-attention guidance needs a network that shows its attention, which this engine "
            "does not; use the plain (eager) engine or perturbed-attention guidance."
        )
    if scale != 1 and negative is None:
        raise RequestError(f"guidance at scale {scale} needs a negative condition; give one.")
    alone = negative is None or scale == 1
    seen = positive if negative is None or scale == 1 else negative

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        estimate, attention = _with_attention(denoiser, network, x, sigma, seen)
        mask = salient(attention, (x.shape[2], x.shape[3])).to(x)
        blurred = torch.lerp(estimate, blur(estimate), mask)
        # the same noise on the blurred picture: x = estimate + sigma * noise
        again = denoiser(x + (blurred - estimate), sigma, seen)
        if alone:
            result = estimate
        else:
            result = rule(denoiser(x, sigma, positive), estimate, scale, x, sigma)
        return result + sag_scale * (blurred - again)

    return denoise


def salient(attention: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, h, w) of 0 and 1: the places that receive more than an even share of attention.

    `attention` is (B, heads, N, N); N must be h w with both halved (rounding up) equally often.
    """
    height, width = size
    tokens = attention.shape[-1]
    while height * width > tokens:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != tokens:
        raise RequestError(
            f"an attention map of {tokens} tokens does not fit latents of {size[0]} x {size[1]}."
        )
    received = attention.mean(1).sum(1)  # (B, N): over heads, then queries
    mask = (received > 1).float().reshape(-1, 1, height, width)
    return F.interpolate(mask, size)


def blur(x: Tensor) -> Tensor:
    """A Gaussian blur of deviation 1 over 9 x 9, mirrored at the borders; (B, C, h, w)."""
    if min(x.shape[-2:]) <= _RADIUS:
        raise RequestError(
            f"self-attention guidance needs latents of {_RADIUS + 1} x {_RADIUS + 1} or more; "
            f"got {x.shape[-2]} x {x.shape[-1]}."
        )
    places = torch.arange(-_RADIUS, _RADIUS + 1, device=x.device, dtype=x.dtype)
    kernel = (-places.square() / 2).exp()
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)  # (C, 1, 9)
    channels = x.shape[1]
    padded = F.pad(x, (_RADIUS,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, :, :, None], groups=channels)
    return F.conv2d(rows, kernel[:, :, None, :], groups=channels)


def _with_attention(
    denoiser: Denoiser, network: AttentionNetwork, x: Tensor, sigma: Tensor, condition: Condition
) -> tuple[Tensor, Tensor]:
    maps: list[Tensor] = []

    def watched(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        output, attention = network.with_attention(x, time, condition)
        maps.append(attention)
        return output

    return replace(denoiser, network=watched)(x, sigma, condition), maps[0]
