"""Warnings, and the console that they go to."""

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console

from safelight.printable import shown

err = Console(stderr=True, highlight=False)
PIPE_WIDTH = 400  # a pipe has no width of its own; cut lines would break what reads them
LINE_LIMIT = 2000  # characters of one warning


class Drawn(Protocol):
    """A picture, or the line of a manifest that tells of one."""

    @property
    def warnings(self) -> tuple[str, ...]: ...

    @property
    def facts(self) -> tuple[str, ...]: ...


class Told:
    """Says each warning once: ten pictures of one prompt have the same ten times."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def tell(self, warnings: Sequence[str]) -> None:
        """Those warnings on stderr that were not said before, a line each."""
        fresh = [warning for warning in dict.fromkeys(warnings) if warning not in self._said]
        self._said.update(fresh)
        tell(fresh)

    def of(self, drawn: Drawn) -> None:
        """What there is to say of a picture: facts, then warnings."""
        for fact in drawn.facts:
            self.note(fact)
        self.tell(drawn.warnings)

    def note(self, line: str) -> None:
        """A line on stderr that warns of nothing, once."""
        if line not in self._said:
            self._said.add(line)
            say(line)


def tell(warnings: Sequence[str]) -> None:
    """Warnings on stderr, a line each; control characters are escaped."""
    for warning in warnings:
        line = f"warning: {shown(warning, LINE_LIMIT)}"
        err.print(line, style="yellow", markup=False, soft_wrap=True)


def say(line: str) -> None:
    """A line on stderr that warns of nothing."""
    err.print(shown(line, LINE_LIMIT), markup=False, soft_wrap=True)


def console() -> Console:
    """A console on stdout, wide where it is no terminal."""
    made = Console(highlight=False, soft_wrap=True)
    made.width = made.width if made.is_terminal else PIPE_WIDTH
    return made
