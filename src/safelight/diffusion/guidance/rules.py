"""Rules of guidance: how the conditional and the unconditional estimate become one.

Each takes estimates of the clean latents (B, C, h, w), the scale, and x and sigma of that moment.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.diffusion.prediction import Prediction

_PICTURE = (1, 2, 3)  # the axes of one picture


class Rule(Protocol):
    """Conditional and unconditional estimate -> guided estimate, all (B, C, h, w)."""

    def __call__(
        self, positive: Tensor, negative: Tensor, scale: float, x: Tensor, sigma: Tensor
    ) -> Tensor: ...


def linear(positive: Tensor, negative: Tensor, scale: float, x: Tensor, sigma: Tensor) -> Tensor:
    """Classifier-free guidance: negative + scale (positive - negative).

    Ho and Salimans 2022 (arXiv:2207.12598), with scale = 1 for no guidance.
    """
    return negative + scale * (positive - negative)


@dataclass(frozen=True)
class Rescaled:
    """Guidance whose network output is brought back to the spread of the conditional one.

    Per picture, mixed phi : 1 - phi with the output as it was. Lin et al. 2023
    (arXiv:2305.08891), section 3.4, and Diffusers' `guidance_rescale`.
    """

    prediction: Prediction
    phi: float = 0.7
    rule: Rule = linear

    def __call__(
        self, positive: Tensor, negative: Tensor, scale: float, x: Tensor, sigma: Tensor
    ) -> Tensor:
        guided = self.rule(positive, negative, scale, x, sigma)
        c_skip = self.prediction.scalings(sigma.expand(x.shape[0])).c_skip.to(x.dtype)
        skipped = c_skip.to(x.device)[:, None, None, None] * x
        # output = (denoised - c_skip x) / c_out, and c_out cancels in the ratio of the spreads.
        moved = guided - skipped
        spread = moved.std(_PICTURE, keepdim=True)
        ratio = (positive - skipped).std(_PICTURE, keepdim=True) / spread
        # nothing to rescale where the output does not vary
        ratio = torch.where(spread > 0, ratio, 1)
        return guided + self.phi * (ratio - 1) * moved


@dataclass(frozen=True)
class DynamicThresholding:
    """Guidance at a high scale with the range of values of a lower one, the mimic scale.

    Per channel, values are taken from their mean, clamped at their `percentile` (0 to 1) of
    magnitude if that exceeds the mimic's largest, and shrunk to the mimic's range; mixed
    phi : 1 - phi with plain guidance. After Saharia et al. 2022 (arXiv:2205.11487), in the form
    of sd-dynamic-thresholding with its default settings.
    """

    mimic_scale: float = 7.0
    percentile: float = 1.0
    phi: float = 1.0

    def __call__(
        self, positive: Tensor, negative: Tensor, scale: float, x: Tensor, sigma: Tensor
    ) -> Tensor:
        guided = linear(positive, negative, scale, x, sigma)
        mimic = linear(positive, negative, self.mimic_scale, x, sigma)
        mean = guided.mean((2, 3), keepdim=True)
        values = guided - mean
        mimic_range = (mimic - mimic.mean((2, 3), keepdim=True)).abs().amax((2, 3), keepdim=True)
        own_range = values.abs().flatten(2).quantile(self.percentile, dim=2)[..., None, None]
        limit = torch.maximum(mimic_range, own_range)
        # a channel without any spread stays as it is
        shrink = torch.where(limit > 0, mimic_range / limit, 1)
        thresholded = mean + values.clamp(-limit, limit) * shrink
        return torch.lerp(guided, thresholded, self.phi)


class AdaptiveProjection:
    """Adaptive projected guidance: the part of the change along the estimate is held back.

    `eta` is the share kept of that part (1 is plain guidance), `norm_threshold` the largest norm
    of the change per picture (0 is no limit), `momentum` the share of the past changes that is
    added, usually negative. Sadat et al. 2024 (arXiv:2410.02416), algorithm 1. With momentum this
    remembers the past: make one for every run.
    """

    def __init__(
        self, eta: float = 0.0, norm_threshold: float = 0.0, momentum: float = 0.0
    ) -> None:
        self.eta = eta
        self.norm_threshold = norm_threshold
        self.momentum = momentum
        self._average: Tensor | None = None

    def __call__(
        self, positive: Tensor, negative: Tensor, scale: float, x: Tensor, sigma: Tensor
    ) -> Tensor:
        change = self._averaged(positive - negative)
        if self.norm_threshold > 0:
            norm = torch.linalg.vector_norm(change, dim=_PICTURE, keepdim=True)
            change = change * (self.norm_threshold / norm).clamp(max=1)
        direction = F.normalize(positive.flatten(1)).view_as(positive)
        parallel = (change * direction).sum(_PICTURE, keepdim=True) * direction
        update = change + (self.eta - 1) * parallel
        return positive + (scale - 1) * update

    def _averaged(self, change: Tensor) -> Tensor:
        if self.momentum:
            if self._average is not None:
                change = change + self.momentum * self._average
            self._average = change.detach()  # else every step would keep the graph of those before
        return change
