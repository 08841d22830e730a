"""What a terminal shows while pictures are drawn: the step, its time, and what is left."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from safelight.cli.telling import err
from safelight.tasks.large import second_pixels
from safelight.tasks.painting import Progress as Drawn
from safelight.tasks.recipe import bare_name
from safelight.tasks.request import UNKNOWN_SIDE, Request


@dataclass
class Pace:
    """How long a step takes and how long the rest will, from the steps so far."""

    total: float  # work of the whole command line, in any unit
    done: float = 0.0
    spent: float = 0.0  # seconds
    step: float = 0.0  # seconds of the last step

    def took(self, seconds: float, work: float, *, first: bool) -> None:
        """A step is done. The first of a picture also holds what came before it: not shown."""
        self.done += work
        self.spent += seconds
        if not first or not self.step:
            self.step = seconds

    @property
    def left(self) -> float:
        """Seconds until all is done, if it goes on as so far."""
        return self.spent / self.done * max(0.0, self.total - self.done) if self.done else 0.0


class Display:
    """A progress bar on stderr while it is a terminal; nothing at all otherwise.

    One for all requests of a command line: they are counted through, and the estimate is for all.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self._pictures = sum(request.count for request in requests)
        self._pace = Pace(sum(all_work_of(r) for r in requests))
        self._area = 1  # of the first pass, in latents
        self._before = 0  # pictures of the requests before this one
        self._request: Request | None = None
        self._began = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=err,
            transient=True,
            disable=not sys.stderr.isatty() or err.is_dumb_terminal,
            # stdout is for results: they must not be drawn into with the bar, or end on stderr
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=None, pace="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def reading(self, request: Request) -> None:
        """The model of this request is read next."""
        name = bare_name(request.model or "the model")
        self._bar.reset(self._task, description=f"reading {name}", pace="")

    def drawing(self, request: Request) -> None:
        """The pictures of this request are drawn next."""
        if self._request is not None:
            self._before += self._request.count
        self._request = request
        self._began = time.perf_counter()

    def watch(self, drawn: Drawn) -> None:
        """A step is done."""
        assert self._request is not None
        now = time.perf_counter()
        area = drawn.denoised.shape[-2] * drawn.denoised.shape[-1]
        if drawn.step == 1:
            self._area = area
        work = work_of(self._request) * drawn.pictures * area / self._area
        self._pace.took(now - self._began, work, first=drawn.step == 1)
        self._began = now
        first = self._before + drawn.first + 1
        last = first + drawn.pictures - 1
        numbers = f"{first}" if first == last else f"{first} to {last}"
        decoding = drawn.step >= drawn.steps
        self._bar.update(
            self._task,
            completed=drawn.step,
            total=drawn.steps,
            description=f"{'decoding ' * decoding}picture {numbers} of {self._pictures}",
            pace=f"{duration(self._pace.step)} a step, {clock(self._pace.left)} left",
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away while something is printed."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


def work_of(request: Request) -> float:
    """What a step of one picture costs, beside that of other requests: its pixels."""
    return float((request.width or UNKNOWN_SIDE) * (request.height or UNKNOWN_SIDE))


def all_work_of(request: Request) -> float:
    """What all steps of all pictures of a request cost, in the same unit."""
    work = work_of(request) * request.steps
    if request.hires is not None:
        width, height = request.width or UNKNOWN_SIDE, request.height or UNKNOWN_SIDE
        steps = request.hires.steps or request.steps
        work += second_pixels(request.hires, width, height) * steps
    return work * request.count


def duration(seconds: float) -> str:
    """A short time: 83 ms, 1.25 s, 12 s."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def clock(seconds: float) -> str:
    """A time to wait: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
