"""Whether turns were disturbed: by other processes, by stolen time, by the processor's pace."""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from safelight.engines.disturbance import OTHERS, STOLEN, Disturbance

DRIFT = 0.08  # by which the pace of the processor may change between rounds
UNSTEADY = 0.15  # width of the quartiles of rounds, as a share of the median

_PULSE = b"\x5a" * (1 << 20)


def pulse() -> float:
    """Seconds that a small fixed piece of work takes now: the pace of the processor.

    The shortest of five, so that being interrupted does not count.
    """
    found = []
    for _ in range(5):
        began = time.perf_counter()
        hashlib.sha256(_PULSE).digest()
        found.append(time.perf_counter() - began)
    return min(found)


def load_average() -> float | None:
    """Of the last minute; None where the system has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


@dataclass(frozen=True)
class Verdict:
    """Whether a comparison was disturbed, and by what, in words."""

    others: float | None  # cores' worth, over all turns
    stolen: float | None
    drift: float  # how much slower the slowest pulse was than the fastest
    reasons: tuple[str, ...]

    @property
    def noisy(self) -> bool:
        return bool(self.reasons)

    def words(self) -> str:
        """A sentence: what disturbed, and what to do."""
        if not self.noisy:
            known = self.others is not None
            return "quiet" if known else "whether the machine was quiet is unknown here"
        return (
            f"noisy: {'; '.join(self.reasons)}. Stop other work, or take more --rounds: ratios of "
            "the same round suffer less than times."
        )

    def line(self) -> dict[str, object]:
        return {
            "noisy": self.noisy,
            "others_cores": None if self.others is None else round(self.others, 3),
            "stolen_share": None if self.stolen is None else round(self.stolen, 4),
            "pace_drift": round(self.drift, 4),
            "reasons": list(self.reasons),
        }


def verdict(
    seen: Sequence[tuple[float, Disturbance]],
    pulses: Sequence[float],
    unsteady: Sequence[tuple[str, float]] = (),
) -> Verdict:
    """What turns of so many seconds say together.

    pulses: of `pulse`, before and after rounds. unsteady: contenders' names and the width of
    their quartiles.
    """
    others = _mean([(seconds, one.others) for seconds, one in seen])
    stolen = _mean([(seconds, one.stolen) for seconds, one in seen])
    drift = max(pulses) / min(pulses) - 1 if pulses else 0.0
    reasons = []
    if others is not None and others >= OTHERS:
        reasons.append(f"other processes used {others:.0%} of a core")
    if stolen is not None and stolen >= STOLEN:
        reasons.append(f"{stolen:.0%} of the processors' time was stolen by the machine's host")
    if drift >= DRIFT:
        reasons.append(f"the processor's pace changed by {drift:.0%}")
    reasons += [
        f"half of {name}'s rounds lie {width:.0%} of their median apart"
        for name, width in unsteady
        if width >= UNSTEADY
    ]
    return Verdict(others, stolen, drift, tuple(reasons))


def _mean(seen: Sequence[tuple[float, float | None]]) -> float | None:
    """Weighted by the seconds of turns, of those that are known."""
    known = [(seconds, value) for seconds, value in seen if value is not None]
    total = sum(seconds for seconds, _ in known)
    return sum(s * v for s, v in known) / total if total else None
