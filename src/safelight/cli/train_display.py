"""What a terminal shows of a run: what was found, how it goes, and what was written."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress

from safelight.cli.telling import Told, err
from safelight.printable import shown
from safelight.training.journal import Record
from safelight.training.recipes.job import Count, Job
from safelight.training.watch import Moment, Watch

FIRST_LINE, EVERY = 10.0, 30.0  # seconds between lines on what is counted, without a terminal
_KNOWN = ("step", "epoch", "seconds", "samples_per_second", "flop_per_second", "skipped")


class Speaker:
    """Says things on stdout, and warnings on stderr; nothing at all if it is not to speak."""

    def __init__(self, *, aloud: bool) -> None:
        self.aloud = aloud
        self._told = Told()

    def say(self, text: str) -> None:
        """A line on stdout, at once even into a pipe."""
        if self.aloud:
            print(shown(text, 2000), flush=True)

    def warn(self, text: str) -> None:
        """A warning on stderr, once."""
        if self.aloud:
            self._told.tell([text])

    @contextmanager
    def counted(self, text: str, total: int) -> Iterator[Count]:
        """A bar on a terminal while something is counted; elsewhere a line now and then.

        Work of a few seconds is not spoken of there.
        """
        hidden = not self.aloud or not sys.stderr.isatty() or err.is_dumb_terminal
        lines = Counting(text, total, self.say) if self.aloud and hidden else None
        with Progress(
            console=err, transient=True, disable=hidden, redirect_stdout=False,
            redirect_stderr=False,
        ) as bar:  # fmt: skip
            task = bar.add_task(text, total=total)

            def watch(done: int) -> None:
                bar.update(task, completed=done)
                if lines is not None:
                    lines.done(done)

            yield watch


class Counting:
    """Says how far a count is, how fast it goes and how long is left, where there is no bar."""

    def __init__(
        self,
        text: str,
        total: int,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._text, self._total, self._say, self._clock = text, total, say, clock
        self._began = clock()
        self._next = self._began + FIRST_LINE
        self._spoken = False

    def done(self, count: int) -> None:
        """So many are done; a line if it is time for one, or at the end if there was one."""
        now = self._clock()
        if now < self._next and not (self._spoken and count >= self._total):
            return
        self._next, self._spoken = now + EVERY, count < self._total
        rate = count / max(now - self._began, 1e-9)
        left = duration((self._total - count) / rate) if rate else "unknown"
        self._say(f"{self._text}: {count} of {self._total}, {rate:.3g} a second, {left} left")


class Lines(Watch):
    """A line for each record of the log."""

    def __init__(self, job: Job, speaker: Speaker) -> None:
        self._job, self._speaker = job, speaker
        self._began: tuple[float, int] | None = None

    def logged(self, record: Record) -> None:
        self._speaker.say(self.line(record, time.monotonic()))

    def warned(self, text: str) -> None:
        self._speaker.warn(text)

    def saved(self, checkpoint: Path) -> None:
        self._speaker.say(f"saved {checkpoint}")

    def validate(self, moment: Moment) -> Mapping[str, float]:
        return self._job.look(moment)

    def line(self, record: Record, now: float) -> str:
        """A record in words: the step, its figures, the speed and what is left."""
        step, steps = int(str(record["step"])), self._job.settings.steps
        parts = [f"step {step}/{steps}"]
        if record.get("event") == "skipped":
            return f"{parts[0]}  left out: loss {_number(record.get('loss'))} is not finite"
        parts += [f"{self._name(n)} {_number(v)}" for n, v in record.items() if n not in _KNOWN]
        speed = record.get("samples_per_second")
        if isinstance(speed, float):
            parts.append(f"{speed:.3g} samples/s")
            if isinstance(flop := record.get("flop_per_second"), float):
                parts.append(f"{flop / 1e9:.3g} GFLOP/s")
            parts.append(self._left(step, now))
        return "  ".join(part for part in parts if part)

    def _name(self, figure: str) -> str:
        """A figure's name, without that of the player if there is only one."""
        players = list(self._job.task.players)
        return figure.removeprefix(f"{players[0]}/") if len(players) == 1 else figure

    def _left(self, step: int, now: float) -> str:
        if self._began is None:
            self._began = now, step
            return ""
        since, first = self._began
        if step <= first:
            return ""
        return (
            f"{duration((now - since) / (step - first) * (self._job.settings.steps - step))} left"
        )


def duration(seconds: float) -> str:
    """A time in two units at most: 42 s, 8 min, 2 h 5 min."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
