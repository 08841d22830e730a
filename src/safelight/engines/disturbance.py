"""What else the machine did while something was timed: other processes, and stolen time."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

OTHERS = 0.10  # cores' worth of other work from which a measurement is noisy
STOLEN = 0.02  # of the time of all cores

_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass(frozen=True)
class Moment:
    """Clocks at one moment, in seconds since the machine began: of the wall and of all cores."""

    wall: float
    busy: float | None  # None where the system does not tell
    stolen: float | None


@dataclass(frozen=True)
class Disturbance:
    """What disturbed a stretch of time; None is unknown.

    others: cores' worth of work of processes that were not measured. stolen: the share of all
    cores' time that a hypervisor gave to other machines.
    """

    others: float | None
    stolen: float | None


def moment(stat: str | None = None) -> Moment:
    """Now, by /proc/stat or a text like it."""
    wall = time.perf_counter()
    text = _read("/proc/stat") if stat is None else stat
    words = next((line.split()[1:] for line in text.splitlines() if line.startswith("cpu ")), [])
    if len(words) < len(_FIELDS):
        return Moment(wall, None, None)
    ticks = dict(zip(_FIELDS, map(int, words[: len(_FIELDS)]), strict=True))
    rate = os.sysconf("SC_CLK_TCK")
    busy = sum(ticks[name] for name in ("user", "nice", "system", "irq", "softirq"))
    return Moment(wall, busy / rate, ticks["steal"] / rate)


def between(before: Moment, after: Moment, own: float) -> Disturbance:
    """What happened besides what was measured, which took `own` seconds of processors."""
    wall = after.wall - before.wall
    if before.busy is None or after.busy is None or wall <= 0:
        return Disturbance(None, None)
    assert before.stolen is not None and after.stolen is not None
    others = (after.busy - before.busy - own) / wall
    stolen = (after.stolen - before.stolen) / (wall * (os.cpu_count() or 1))
    return Disturbance(max(0.0, others), max(0.0, stolen))


class Watch:
    """Looks at the machine from when it is made: whether this process had it to itself."""

    def __init__(self) -> None:
        self._began, self._own = moment(), time.process_time()

    def disturbed(self) -> bool:
        """Whether others disturbed what was timed since; False where that is unknown."""
        seen = between(self._began, moment(), time.process_time() - self._own)
        return (seen.others or 0.0) >= OTHERS or (seen.stolen or 0.0) >= STOLEN


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""
