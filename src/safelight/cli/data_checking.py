"""What `safelight data check` finds and prints."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from safelight.cli.telling import console, err, tell
from safelight.errors import FileError, RequestError
from safelight.printable import shown
from safelight.text.bpe import Tokenizer
from safelight.training.buckets import Rule
from safelight.training.sources.example import counted
from safelight.training.sources.opening import open_source
from safelight.training.sources.scan import OnProblem, Scan, scan
from safelight.training.sources.survey import Lengths, Survey, survey

LISTED = 100  # problems printed; --json prints all
BAR = 40  # characters


def scanned(
    path: str, columns: Mapping[str, str | None], *, captions: bool, on_problem: str
) -> Scan:
    """A set with every picture decoded, under a progress bar.

    Raises RequestError for an unknown on_problem, FileError as `scan` does.
    """
    source = open_source(path, **columns)
    known = get_args(OnProblem)
    if on_problem not in known:
        raise RequestError(f"--on-problem must be {' or '.join(known)}; got {on_problem!r}.")
    hidden = not sys.stderr.isatty() or err.is_dumb_terminal
    with Progress(
        console=err, transient=True, disable=hidden, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task("reading pictures", total=len(source))
        return scan(
            source,
            on_problem=on_problem,  # type: ignore[arg-type]
            captions=captions,
            watch=lambda count: bar.update(task, completed=count),
        )


def checked(
    path: str,
    rule: Rule,
    *,
    columns: Mapping[str, str | None],
    captions: bool,
    tokenizer: Path | None,
    on_problem: str,
    batch: int | None = None,
) -> Survey:
    """The survey of a set. Raises FileError and RequestError as `scanned` does."""
    words = _tokenizer(tokenizer)
    found = scanned(path, columns, captions=captions, on_problem=on_problem)
    return survey(found, rule, lambda text: len(words.encode(text)), batch=batch)


def show(found: Survey, *, as_json: bool) -> None:
    """Print a survey."""
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=2))
        return
    told = console()
    told.print(Text(f"{found.count} pictures in {shown(found.name)}", style="bold"))
    for kind, count in counted(found.problems).items():
        told.print(f"  {count} left out: {kind}")
    for problem in found.problems[:LISTED]:
        told.print(Text(f"    {problem}"))
    if len(found.problems) > LISTED:
        told.print(f"    and {len(found.problems) - LISTED} more; --json lists all")
    if found.several:
        told.print(f"  {found.several} with several captions")
    _bars("shorter side", list(found.sizes))
    _bars("bucket", [(f"{w} x {h}", count) for (w, h), count in found.buckets])
    if found.lengths is not None:
        told.print(Text(_lengths(found.lengths)))
    tell(found.warnings)


def _lengths(lengths: Lengths) -> str:
    said = (
        f"{lengths.count} captions of {lengths.least} to {lengths.most} tokens, "
        f"median {lengths.median}"
    )
    if not lengths.cut:
        return f"{said}; none is longer than {lengths.limit}"
    first = ", ".join(shown(name, 80) for name in lengths.cut[:5])
    more = ", ..." if len(lengths.cut) > 5 else ""
    return f"{said}; longer than {lengths.limit}, so cut: {len(lengths.cut)} ({first}{more})"


def _bars(head: str, rows: list[tuple[str, int]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(head, justify="right", no_wrap=True)
    table.add_column("pictures", justify="right")
    table.add_column("")
    most = max(count for _, count in rows)
    for name, count in rows:
        table.add_row(name, str(count), "█" * max(1, round(BAR * count / most)))
    console().print(table)


def _tokenizer(folder: Path | None) -> Tokenizer:
    """The tokenizer in a folder or in its folder `tokenizer`; CLIP's if none is given."""
    from safelight.checkpoints.tokenizer_files import read_vocabulary

    if folder is None:
        return Tokenizer()
    inner = folder / "tokenizer"
    vocabulary = read_vocabulary(inner if inner.is_dir() else folder)
    if vocabulary is None:
        raise FileError(f"{shown(folder)} holds no tokenizer: no vocab.json or tokenizer.json")
    return Tokenizer(vocabulary=vocabulary)
