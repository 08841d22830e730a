"""Warnings, and the console that they go to."""

from collections.abc import Sequence

from rich.console import Console

from safelight.printable import shown

err = Console(stderr=True, highlight=False)
PIPE_WIDTH = 400  # a pipe has no width of its own; cut lines would break what reads them
LINE_LIMIT = 2000  # characters of one warning


class Told:
    """Says each warning once: ten pictures of one prompt have the same ten times."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def tell(self, warnings: Sequence[str]) -> None:
        """Those warnings on stderr that were not said before, a line each."""
        fresh = [warning for warning in dict.fromkeys(warnings) if warning not in self._said]
        self._said.update(fresh)
        tell(fresh)

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
