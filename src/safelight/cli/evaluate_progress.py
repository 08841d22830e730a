"""What is said on stderr while a model is evaluated: a bar on a terminal, a line now and then."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from safelight.cli.display import clock, duration
from safelight.cli.telling import err

EVERY = 30.0  # seconds between two lines where there is no terminal


class Progressing:
    """Counts through stages; of each it says how long one piece takes and how long is left."""

    def __init__(self) -> None:
        self._drawn = sys.stderr.isatty() and not err.is_dumb_terminal
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=err,
            transient=True,
            disable=not self._drawn,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=None, pace="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """A stage begins that is not counted through."""
        self._bar.reset(self._task, description=text, total=None, pace="")
        self._line(text)

    def stage(self, text: str, total: int) -> Callable[[int], None]:
        """A stage of so many pieces begins; call what is returned with the pieces just done."""
        self._bar.reset(self._task, description=text, total=total, pace="")
        self._line(f"{text}: {total}")
        began = told = time.perf_counter()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, told
            done += count
            now = time.perf_counter()
            each = (now - began) / done
            pace = f"{duration(each)} each, {clock(each * max(0, total - done))} left"
            self._bar.update(self._task, completed=done, pace=pace)
            if now - told >= EVERY:
                told = now
                self._line(f"{text}: {done} of {total}, {pace}")

        return advance

    def _line(self, text: str) -> None:
        if not self._drawn:
            err.print(text, markup=False, soft_wrap=True)
