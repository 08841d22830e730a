"""Weights that a verb writes: in which type, to a name that is free, and what is said of them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.filesize import decimal

from safelight.cli.destination import taken
from safelight.cli.telling import LINE_LIMIT, err
from safelight.engines.placement import DTYPES
from safelight.errors import RequestError
from safelight.printable import shown


def chosen_dtype(name: str | None) -> torch.dtype | None:
    """The type of `--dtype`; None if it was not given. Raises RequestError for another name."""
    if name is not None and name not in DTYPES:
        raise RequestError(f"--dtype must be {', '.join(DTYPES)}; got {name!r}.")
    return None if name is None else DTYPES[name]


def must_be_new(target: Path) -> None:
    """Raise RequestError if there is a file of that name, or a folder that holds something."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise RequestError(f"{taken(target)}.")


def tell_written(target: Path, notes: Sequence[str] = ()) -> None:
    """Name and size of what was written on stdout; what is to be said of it on stderr."""
    print(f"{shown(target)}  {decimal(size_of(target))}")
    for note in notes:
        err.print(f"note: {shown(note, LINE_LIMIT)}", markup=False, soft_wrap=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
