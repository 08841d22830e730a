"""Medians and quartiles of rounds, and of the ratios of two contenders within each round."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Spread:
    """The middle of several numbers, the quartiles around it, and the extremes."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    least: float
    most: float
    count: int

    @property
    def width(self) -> float:
        """The distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / abs(self.median) if self.median else 0.0

    def line(self) -> dict[str, float]:
        """The same for JSON, to six digits."""
        shortened = {name: float(f"{value:.6g}") for name, value in asdict(self).items()}
        return {**shortened, "count": self.count}


def spread(values: Sequence[float]) -> Spread:
    """What several measurements have in common. Raises ValueError for none.

    Quartiles lie between the measurements (the "inclusive" method): those of one are itself.
    """
    if not values:
        raise ValueError("nothing was measured")
    if len(values) == 1:
        (only,) = values
        return Spread(only, only, only, only, only, 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, min(values), max(values), len(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """What ours took over what theirs took, round by round; below 1, ours is faster.

    Only turns of the same round are compared, which saw the same machine.
    Raises ValueError if the rounds of the two are not the same.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} rounds cannot be compared")
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])
