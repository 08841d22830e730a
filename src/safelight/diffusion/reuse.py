"""Estimates used again in later calls, while they would hardly have changed: fewer network calls.

What is reused is the estimate of the clean latents, under each condition. It changes little from
one noise level to the next, fresh noise or not, and so a later call can do with the last one:
step caching in the manner of TeaCache (Liu et al. 2024, arXiv:2411.19108) and EasyCache (Zhou et
al. 2025, arXiv:2507.02860), whose indicator needs no part of the network: how fast the estimate
changed between the last two calls that were made tells how far it has gone since. The difference
that guidance makes changes more slowly still and is reused for longer (FasterCache, Lv et al. 2024,
arXiv:2410.19355).

Shapes: B pictures, E conditions, C latent channels, h w latent height and width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from safelight.condition import Condition, expand, pick
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance.classifier_free import evaluated

Made = Literal["all", "positives", "none"]

_LEAST = 1e-12


@dataclass
class Savings:
    """What reuse saved, for each picture of a batch.

    asked: estimates under one condition that the sampler's calls stand for; made: those that the
        network made; shallow: those of which it made the outermost blocks alone. change: the
        largest that was measured, whenever the network was asked again, between what had been
        reused and what it then said: relative to the noisy latents, or of deep features to them.
    """

    asked: list[int] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    shallow: list[int] = field(default_factory=list)
    change: list[float] = field(default_factory=list)

    def count(self, picture: int, *, asked: int = 0, made: int = 0, shallow: int = 0) -> None:
        """Add to a picture's numbers."""
        self._grown(picture)
        self.asked[picture] += asked
        self.made[picture] += made
        self.shallow[picture] += shallow

    def measured(self, picture: int, change: float) -> None:
        """A change was measured."""
        self._grown(picture)
        self.change[picture] = max(self.change[picture], change)

    def _grown(self, picture: int) -> None:
        missing = picture + 1 - len(self.asked)
        self.asked += [0] * missing
        self.made += [0] * missing
        self.shallow += [0] * missing
        self.change += [0.0] * missing


@dataclass(frozen=True)
class Bounds:
    """How far what is reused may be from what the network would say, as far as can be foreseen.

    steps: of the guided estimate, relative to the size of the noisy latents, as the network sees
        them: at high noise little of it counts. guidance: of what a call would change in it by
        asking for the negative, too. 0 reuses nothing.
    """

    steps: float = 0.0
    guidance: float = 0.0


class Reuse:
    """Evaluates conditions as `evaluated` does, and some of them by what is remembered.

    Each picture is decided for itself, so that it is the same in any batch. The first two calls
    and those at or below `last` are made, and any after the noise level rose. It remembers, so make
    one for every run and every place in which conditions are evaluated.
    pair: the numbers of the negative and the positive condition, of which `scale` makes the guided
        estimate; None where there is no negative, and then the last condition's stands for all.
    """

    def __init__(
        self,
        bounds: Bounds,
        savings: Savings,
        *,
        last: float,
        scale: float = 1.0,
        pair: tuple[int, int] | None = None,
    ) -> None:
        assert bounds.guidance == 0 or pair == (0, 1), "only a leading negative can be left out"
        self._bounds, self._savings, self._last = bounds, savings, last
        self._scale, self._pair = scale, pair
        self._memories: list[_Memory] = []

    def __call__(
        self,
        denoiser: Denoiser,
        conditions: Sequence[Condition],
        x: Tensor,
        sigma: Tensor,
        *,
        apart: bool = False,
    ) -> list[Tensor]:
        """The estimate (B, C, h, w) under each condition."""
        batch = x.shape[0]
        if len(self._memories) != batch:
            self._memories = [_Memory() for _ in range(batch)]
        levels = [float(level) for level in sigma.expand(batch)]
        asked = [self._question(k, x[k], level) for k, level in enumerate(levels)]
        said: dict[tuple[int, int], Tensor] = {}  # (condition, picture) -> (C, h, w)
        for kind, first in (("all", 0), ("positives", 1)):
            rows = [k for k in range(batch) if asked[k].kind == kind]
            if not rows:
                continue
            told, seen, at = list(conditions[first:]), x, sigma
            if len(rows) < batch:
                told = [pick(expand(condition, batch), rows) for condition in told]
                seen, at = x[rows], sigma.expand(batch)[rows]
            made = evaluated(denoiser, told, seen, at, apart=apart)
            said |= {
                (first + i, row): estimate[j]
                for i, estimate in enumerate(made)
                for j, row in enumerate(rows)
            }
        numbers = range(len(conditions))
        answers = [
            self._answer(k, asked[k], [said.get((i, k)) for i in numbers]) for k in range(batch)
        ]
        return list(torch.stack(answers, 1).unbind())

    def _question(self, picture: int, x: Tensor, level: float) -> "_Question":
        """What is asked of the network for a picture (C, h, w)."""
        memory, seen = self._memories[picture], x.detach()
        size = max(float(seen.abs().mean()), _LEAST)
        kind: Made = "all"
        gap = 0.0
        if memory.seen is not None and self._last < level <= memory.latest * (1 + 1e-6):
            gap = max(memory.gap(level), 0.0)
            # second-order samplers ask twice at a level: there the input alone has changed
            moved = _moved(seen, memory.seen) if gap == 0 else 0.0
            since = memory.since_negative + gap
            if 0 < self._bounds.steps * size >= memory.pace.reaches(gap) + moved:
                kind = "none"
            elif 0 < self._bounds.guidance * size >= memory.guidance.reaches(since) + moved:
                kind = "positives"
        memory.latest = level
        return _Question(kind, level, gap, seen, size)

    def _answer(self, picture: int, asked: "_Question", said: Sequence[Tensor | None]) -> Tensor:
        """The estimates (E, C, h, w) of a picture; the memory is brought up to date."""
        memory = self._memories[picture]
        made = [estimate for estimate in said if estimate is not None]
        self._savings.count(picture, asked=len(said), made=len(made))
        if asked.kind == "none":
            assert memory.estimates is not None
            memory.reused += 1
            return memory.estimates
        if asked.kind == "positives":
            assert memory.difference is not None
            made = [made[0] - memory.difference, *made]
        estimates = torch.stack(made)
        self._learn(picture, asked, estimates.detach())
        return estimates

    def _learn(self, picture: int, asked: "_Question", estimates: Tensor) -> None:
        memory, guided = self._memories[picture], self._guided(estimates)
        if memory.estimates is not None and memory.level >= asked.level:
            change = _moved(guided, self._guided(memory.estimates))
            slowest = memory.pace.rate if asked.kind == "positives" else 0.0
            memory.pace.learned(change, asked.gap, slowest)
            if memory.reused:
                self._savings.measured(picture, change / asked.size)
        memory.estimates, memory.level, memory.seen = estimates, asked.level, asked.seen
        memory.reused = 0
        memory.since_negative += asked.gap
        if self._pair is None or len(estimates) < 2:
            return
        if asked.kind == "positives":
            memory.negative_left_out = True
            return
        difference = estimates[self._pair[1]] - estimates[self._pair[0]]
        if memory.difference is not None:
            moved = abs(self._scale - 1) * _moved(difference, memory.difference)
            memory.guidance.learned(moved, memory.since_negative)
            if memory.negative_left_out:
                self._savings.measured(picture, moved / asked.size)
        memory.difference, memory.since_negative = difference, 0.0
        memory.negative_left_out = False

    def _guided(self, estimates: Tensor) -> Tensor:
        """(E, C, h, w) -> (C, h, w)."""
        if self._pair is None or len(estimates) < 2:
            return estimates[-1]
        negative, positive = (estimates[i] for i in self._pair)
        return torch.lerp(negative, positive, self._scale)


def clock(sigma: float) -> float:
    """The time in which estimates change evenly, as far as is known beforehand; falls with sigma.

    log(sigma) where the latents, of unit size, outweigh the noise. Above, where the network sees
    little, estimates under different conditions move apart as 1 / sigma²: measured on the embedded
    model, and so of the means of two Gaussians.
    """
    return math.log(max(sigma, _LEAST)) if sigma <= 1 else (1 - sigma**-2) / 2


@dataclass
class _Pace:
    """How fast something changed between the last two calls that were made, by the clock."""

    rate: float = math.inf

    def learned(self, change: float, gap: float, slowest: float = 0.0) -> None:
        """It changed so much over a gap; nothing is learned from calls at the same level.

        slowest: where not all of the change was seen.
        """
        if gap > 0:
            self.rate = max(change / gap, slowest)

    def reaches(self, gap: float) -> float:
        """How far it will have changed after a gap; infinity while nothing is known."""
        return self.rate * gap if math.isfinite(self.rate) else math.inf


@dataclass
class _Memory:
    """What is remembered of one picture's last call that was made.

    seen: its input, scaled. difference: of the positive and the negative estimate, as it was
    `since_negative` before that call. reused: how often its estimates served since.
    """

    level: float = 0.0
    latest: float = 0.0  # sigma of the last call, made or not
    seen: Tensor | None = None  # (C, h, w)
    estimates: Tensor | None = None  # (E, C, h, w)
    difference: Tensor | None = None  # (C, h, w)
    since_negative: float = 0.0
    pace: _Pace = field(default_factory=_Pace)
    guidance: _Pace = field(default_factory=_Pace)
    reused: int = 0
    negative_left_out: bool = False

    def gap(self, level: float) -> float:
        """How far a call at this level lies from the last one, by the clock."""
        return clock(self.level) - clock(level)


@dataclass(frozen=True)
class _Question:
    """What is asked of the network for a picture, and where that lies."""

    kind: Made
    level: float
    gap: float
    seen: Tensor  # (C, h, w)
    size: float


def _moved(now: Tensor, before: Tensor) -> float:
    return float((now - before).abs().mean())
