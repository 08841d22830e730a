"""A bar for work whose pieces are counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from safelight.cli.telling import err


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """What is told the count done and the whole; shown on a terminal only, and gone at the end."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
    with shown:
        task = shown.add_task(what, total=None)
        yield lambda done, whole: shown.update(task, completed=done, total=whole)
