"""At which noise levels a network is trained: laws of sigma, as functions of uniform numbers.

A law takes B numbers in [0, 1), float64, and gives B levels, so whoever draws decides how the
numbers lie: `stratified` spreads them evenly over a whole batch, which cuts the variance of the
loss more cheaply than a larger batch does. Levels are float64 on the CPU, within the process's own
table. With log-SNR = -2 ln sigma, several laws of the field are one normal law in other units:

    logit-normal in flow time (0, 1)     log-SNR ~ N(0, 2)
    EDM (-1.2, 1.2), data std 0.5        log-SNR of unit-variance data ~ N(1.0, 2.4)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from safelight.diffusion.named import named
from safelight.diffusion.process import Process
from safelight.errors import RequestError


class SigmaDraw(Protocol):
    """A law of noise levels: uniform numbers (B,) float64 -> sigma (B,) float64, on the CPU."""

    def __call__(self, process: Process, uniforms: Tensor) -> Tensor: ...


def stratified(uniforms: Tensor, places: Tensor, total: int) -> Tensor:
    """One number from each of `total` equal parts of [0, 1): (place + uniform) / total, float64.

    places (B,) says which part each row takes; all of 0 .. total - 1 over the rows of a step.
    """
    return (places.double() + uniforms.double()) / total


@dataclass(frozen=True)
class UniformDraw:
    """Every level of the process's table alike: DDPM's and Stable Diffusion's training."""

    def __call__(self, process: Process, uniforms: Tensor) -> Tensor:
        count = len(process.sigmas)
        return process.sigmas[(uniforms * count).long().clamp(0, count - 1)]


@dataclass(frozen=True)
class LogitNormalDraw:
    """Flow time t = sigmoid(N(mean, std²)), then shifted: SD3's law.

    The shift s takes t to s t / (1 + (s - 1) t), which multiplies sigma = t / (1 - t) by s.
    t is 1 at pure noise. Esser et al. 2024 (arXiv:2403.03206), eq. 19 and 23.
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        _positive("std", self.std)
        _positive("shift", self.shift)

    def __call__(self, process: Process, uniforms: Tensor) -> Tensor:
        return _within(process, self.shift * (self.mean + self.std * _normal(uniforms)).exp())


@dataclass(frozen=True)
class LogNormalDraw:
    """ln sigma ~ N(mean, std²): Karras et al. 2022 (arXiv:2206.00364), table 1."""

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        _positive("std", self.std)

    def __call__(self, process: Process, uniforms: Tensor) -> Tensor:
        return _within(process, (self.mean + self.std * _normal(uniforms)).exp())


@dataclass(frozen=True)
class ModeDraw:
    """Flow time with heavy tails: uniform at scale 0, more of the middle (or ends) beyond.

    Esser et al. 2024, eq. 20; scale from -1 to 2 / (pi - 2), where the law stays a bijection.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        most = 2 / (math.pi - 2)
        if not -1 <= self.scale <= most:
            raise RequestError(f"scale of a mode draw must be -1 to {most:.4f}; got {self.scale}.")

    def __call__(self, process: Process, uniforms: Tensor) -> Tensor:
        quarter = (uniforms * (math.pi / 2)).cos() ** 2
        t = 1 - uniforms - self.scale * (quarter - 1 + uniforms)
        return _within(process, t / (1 - t).clamp(min=0))


@dataclass(frozen=True)
class CosineDraw:
    """sigma = tan(pi u / 2): the cosine schedule's levels alike; SD3's CosMap.

    Nichol and Dhariwal 2021 (arXiv:2102.09672); Esser et al. 2024, eq. 21.
    """

    def __call__(self, process: Process, uniforms: Tensor) -> Tensor:
        return _within(process, (uniforms * (math.pi / 2)).tan())


@dataclass(frozen=True)
class MixedDraw:
    """Mostly log-SNR ~ N(mean, std²), and some of the noisiest levels, where layout is decided.

    `tail` of the draws are uniform in log-SNR over [low, high], and `last` are the process's last
    level exactly, from which sampling starts. Popular normal laws hardly visit either, and plain
    backgrounds come out grey.
    """

    mean: float = 0.3
    std: float = 2.0
    tail: float = 0.15
    low: float = -12.0
    high: float = -3.0
    last: float = 0.05

    def __post_init__(self) -> None:
        _positive("std", self.std)
        if not (self.tail >= 0 and self.last >= 0 and self.tail + self.last < 1):
            raise RequestError(
                "tail and last of a mixed draw are shares that leave something for the normal law; "
                f"got {self.tail} and {self.last}."
            )
        if not self.low < self.high:
            raise RequestError(
                f"a mixed draw needs low < high, both in log-SNR; got {self.low} and {self.high}."
            )

    def __call__(self, process: Process, uniforms: Tensor) -> Tensor:
        ends = self.last + self.tail
        # Within each part the number is spread over [0, 1) anew, so strata stay strata.
        normal = self.mean + self.std * _normal((uniforms - ends) / (1 - ends))
        share = (uniforms - self.last) / max(self.tail, 1e-300)
        log_snr = torch.where(uniforms < ends, self.low + (self.high - self.low) * share, normal)
        sigma = _within(process, (-log_snr / 2).exp())
        return torch.where(uniforms < self.last, process.sigmas[-1], sigma)


DRAWS: Mapping[str, Callable[..., SigmaDraw]] = MappingProxyType(
    {
        "uniform": UniformDraw,
        "logit_normal": LogitNormalDraw,
        "log_normal": LogNormalDraw,
        "mode": ModeDraw,
        "cosine": CosineDraw,
        "mixed": MixedDraw,
    }
)


def resolve_draw(name: str, **options: float) -> SigmaDraw:
    """The law of that name with its numbers. Raises RequestError that lists what there is."""
    return named("draw", DRAWS, name, options)


def _normal(uniforms: Tensor) -> Tensor:
    """The standard normal numbers of which these are the shares below; float64."""
    quantiles: Tensor = torch.special.ndtri(uniforms.double().clamp(0, 1))
    return quantiles


def _within(process: Process, sigma: Tensor) -> Tensor:
    return sigma.clamp(process.sigma_min, process.sigma_max)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise RequestError(f"{name} of a noise level draw must be greater than 0; got {value}.")
