"""Data whose perfect denoiser and probability flow are known, and noise under the test's control.

Shapes: B pictures, C channels, h w height and width.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from safelight.diffusion.samplers import SAMPLERS, Step

Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Mixture:
    """Pixels drawn independently from equally likely normal laws N(mean, deviation²).

    With one mean the flow is linear in x. With more it is not, so it also tests the terms of a
    method that a linear problem never sees.
    """

    means: tuple[float, ...]
    deviation: float

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[latents | x], the perfect denoiser."""
        s2, d2 = float(sigma) ** 2, self.deviation**2
        means = torch.tensor(self.means, dtype=x.dtype).reshape(-1, *[1] * x.ndim)
        likelihood = torch.softmax(-((x - means) ** 2) / (2 * (d2 + s2)), 0)
        return (likelihood * (d2 * x + s2 * means) / (d2 + s2)).sum(0)

    def quantile_of(self, x: Tensor, sigma: float) -> Tensor:
        spread = math.hypot(self.deviation, sigma)
        parts = [torch.special.ndtr((x - mean) / spread) for mean in self.means]
        return torch.stack(parts).mean(0)

    def flow(self, x: Tensor, sigma: float, lower: float) -> Tensor:
        """Where the probability-flow ODE takes x: to the same quantile of the lower level's law."""
        if len(self.means) == 1:
            (mean,) = self.means
            ratio = math.hypot(self.deviation, lower) / math.hypot(self.deviation, sigma)
            return mean + ratio * (x - mean)
        wanted = self.quantile_of(x, sigma)
        low, high = torch.full_like(x, -1e3), torch.full_like(x, 1e3)
        for _ in range(100):
            middle = (low + high) / 2
            below = self.quantile_of(middle, lower) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def noisy_moments(self, sigma: float) -> tuple[float, float]:
        """Mean and deviation of x at noise level sigma."""
        mean = sum(self.means) / len(self.means)
        spread = sum((m - mean) ** 2 for m in self.means) / len(self.means)
        return mean, math.sqrt(spread + self.deviation**2 + sigma**2)


@dataclass
class NoNoise:
    """For samplers that must draw nothing."""

    def __call__(self) -> Tensor:
        raise AssertionError("a deterministic run drew noise")

    def brownian(self, sigma: float, sigma_next: float) -> Tensor:
        raise AssertionError("a deterministic run drew Brownian noise")


@dataclass
class Replay:
    """The given draws in order, for calls and for Brownian increments alike; counts them."""

    draws: Sequence[Tensor]
    used: int = 0

    def __call__(self) -> Tensor:
        self.used += 1
        return self.draws[self.used - 1]

    def brownian(self, sigma: float, sigma_next: float) -> Tensor:
        return self()


@dataclass
class Recorder:
    """Zero noise that notes what was asked for."""

    shape: torch.Size
    calls: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self) -> Tensor:
        self.calls += 1
        return torch.zeros(self.shape, dtype=torch.float64)

    def brownian(self, sigma: float, sigma_next: float) -> Tensor:
        self.spans.append((float(sigma), float(sigma_next)))
        return torch.zeros(self.shape, dtype=torch.float64)


class Basis:
    """Noise of which pixel k sees only the k-th independent source, at unit strength.

    A sampler on a linear problem is linear in its noise, so pixel k returns the k-th coefficient
    and the sum of squares is the exact variance of what the sampler adds: a law without luck.
    Brownian increments are built from independent pieces between all levels that are asked for.
    """

    def __init__(self, recorded: Recorder) -> None:
        points = sorted({p for span in recorded.spans for p in span}, reverse=True)
        self.pieces = list(pairwise(points))
        self.draws = recorded.calls
        self.size = self.draws + len(self.pieces)
        self._next = 0

    def __call__(self) -> Tensor:
        response = torch.zeros(1, 1, 1, self.size, dtype=torch.float64)
        response[..., self._next] = 1
        self._next += 1
        return response

    def brownian(self, sigma: float, sigma_next: float) -> Tensor:
        high, low = float(sigma), float(sigma_next)
        response = torch.zeros(1, 1, 1, self.size, dtype=torch.float64)
        for k, (top, bottom) in enumerate(self.pieces):
            if bottom >= low and top <= high:
                response[..., self.draws + k] = math.sqrt((top - bottom) / (high - low))
        return response


def finish(steps: Iterator[Step]) -> Tensor:
    """The last x of a run."""
    (last,) = deque(steps, maxlen=1)
    return last.x


def moments_of(name: str, law: Mixture, sigmas: Tensor, **options: object) -> tuple[float, float]:
    """The exact (mean, deviation) of what a sampler makes of normal data, started at its law."""
    (mean,) = law.means
    info = SAMPLERS[name]
    start = torch.full((1, 1, 1, 1), mean, dtype=torch.float64)
    recorder = Recorder(start.shape)
    middle = finish(info.run(law.denoise, start, sigmas, recorder, **options))
    _, spread = law.noisy_moments(float(sigmas[0]))
    raised = finish(info.run(law.denoise, start + spread, sigmas, Recorder(start.shape), **options))
    basis = Basis(recorder)
    if not basis.size:
        return float(middle), float(raised - middle)
    still = torch.full((1, 1, 1, basis.size), mean, dtype=torch.float64)
    added = finish(info.run(law.denoise, still, sigmas, basis, **options)) - middle
    variance = (raised - middle).square().sum() + added.square().sum()
    return float(middle), math.sqrt(float(variance))


def spaced(high: float, low: float, count: int, *, rho: float = 7.0, end: bool = False) -> Tensor:
    """`count` + 1 levels from high to low, evenly in sigma^(1/rho); `end` appends a 0."""
    ramp = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    roots = high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))
    sigmas = roots**rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]) if end else sigmas
