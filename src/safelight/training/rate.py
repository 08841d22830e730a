"""The learning rate of a step: a pure function of its number.

Nothing is advanced, so neither ranks nor accumulation nor a resumed run can stretch it.
"""

import math
from typing import Protocol

from safelight.training.settings import Settings


class Course(Protocol):
    """What of the settings shapes the learning rate over a run."""

    @property
    def steps(self) -> int: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def schedule(self) -> str: ...
    @property
    def decay_from(self) -> float: ...


def share(settings: Course, step: int) -> float:
    """The share of the full learning rate that step `step` (0 is the first) takes, in (0, 1].

    Warm-up is linear and reaches 1 at the step of number warmup_steps - 1. The decay would reach 0
    at the step after the last, so that the last one still teaches.
    """
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    start = settings.decay_from * settings.steps
    if settings.schedule == "constant" or step <= start:
        return warm
    done = min(1.0, (step - start) / (settings.steps - start))
    if settings.schedule == "linear":
        return warm * (1.0 - done)
    return warm * 0.5 * (1.0 + math.cos(math.pi * done))


def learning_rate(settings: Settings, player: str, step: int) -> float:
    """The learning rate of a player in a step."""
    return settings.learning_rate_of(player) * share(settings, step)
