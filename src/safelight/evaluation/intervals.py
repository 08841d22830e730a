"""How sure a share or a mean is: Wilson's interval, and the bootstrap."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Z95 = 1.959963984540054  # the normal distribution leaves 2.5 % beyond it
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, with the interval that holds the true share 95 times of 100."""

    right: int
    of: int

    @property
    def value(self) -> float:
        """The share itself; NaN of none."""
        return self.right / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval, which never leaves [0, 1]."""
        return wilson(self.right, self.of)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {self.of}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and an interval around it, with what it was computed from."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (N={self.count})"


def wilson(right: int, of: int, *, z: float = Z95) -> tuple[float, float]:
    """The score interval of a share; (0, 1) if nothing was counted.

    Wilson 1927 (doi:10.1080/01621459.1927.10502953).
    """
    if of == 0:
        return 0.0, 1.0
    share, spread = right / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    # Rounding must not push the ends past 0 and 1, where they lie for none and for all.
    low = 0.0 if right == 0 else middle - half
    return low, 1.0 if right == of else middle + half


def bootstrap(
    values: Tensor,
    *,
    seed: int,
    statistic: Callable[[Tensor], Tensor] | None = None,
    draws: int = 1000,
) -> Estimate:
    """A statistic of values (N,) with its percentile bootstrap interval of 95 %.

    statistic maps (draws, N) to (draws,); None is the mean. Efron 1979
    (doi:10.1214/aos/1176344552). The draws depend on the seed alone.
    """
    values = values.detach().double().cpu()
    statistic = statistic or (lambda sample: sample.mean(dim=1))
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(values), (draws, len(values)), generator=generator)
    low, high = percentiles(statistic(values[picks]))
    return Estimate(float(statistic(values[None])[0]), low, high, len(values))


def percentiles(drawn: Tensor) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile of drawn statistics (draws,)."""
    low, high = torch.quantile(drawn.double(), torch.tensor([0.025, 0.975]).double()).tolist()
    return float(low), float(high)
