"""The rows of a list of prompts, and the request that each of them is.

A row is one picture. A table (JSON lines, CSV, Parquet) has a column `prompt` and may have `id` and
any other setting of a request by its dotted name, such as `guidance.rescale`; an empty cell leaves
a setting open. A text has one prompt a line, or A1111's options.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safelight.errors import FileError, RequestError
from safelight.printable import shown
from safelight.tasks.prompt_lines import lines_of
from safelight.tasks.request import Request
from safelight.training.sources.tables import ENDINGS, rows

ID_LIMIT = 200
Cells = Mapping[str, object]


@dataclass(frozen=True)
class Row:
    """One picture that is asked for: its number in the list, its name, and its own settings."""

    index: int
    id: str
    cells: Cells

    def to_json(self) -> str:
        """The row on one line; `from_json` reads it."""
        return json.dumps({"index": self.index, "id": self.id, "cells": self.cells})

    @classmethod
    def from_json(cls, line: str) -> "Row":
        """The row of a line."""
        told = json.loads(line)
        return cls(told["index"], told["id"], told["cells"])


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a list of prompts, one after the other.

    Raises FileError for a file that cannot be read, has no column `prompt`, or says an id twice.
    """
    suffix = path.suffix.lower()
    seen: set[str] = set()
    for index, cells in enumerate(_cells(path, suffix)):
        given = {name: value for name, value in cells.items() if value not in (None, "")}
        if index == 0 and "prompt" not in cells:
            raise FileError(
                f"{shown(path)} has no column prompt; its columns are "
                f"{', '.join(map(shown, list(cells)[:12])) or 'none'}"
            )
        name = str(given.pop("id", "")) or f"{index:08}"
        if name in seen:
            raise FileError(f"{shown(path)}: row {index + 1} has the id {shown(name)} of another")
        if len(name) > ID_LIMIT:
            raise FileError(f"{shown(path)}: the id of row {index + 1} is over {ID_LIMIT} long")
        seen.add(name)
        yield Row(index, name, _plain(given, path, index))


def request_of(row: Row, usual: Mapping[str, object], seed: int) -> Request:
    """The request of a row over the usual settings; a row without a seed gets `seed` + its number.

    Raises RequestError for what cannot be asked for, and for a row of several pictures.
    """
    settings: dict[str, object] = {"prompt": "", "seed": seed + row.index}
    for given in (usual, row.cells):
        for name, value in given.items():
            _put(settings, name, value)
    request = Request.parse(settings)
    if request.count != 1:
        raise RequestError("a row is one picture; leave count out, and write the row again.")
    return request


def _cells(path: Path, suffix: str) -> Iterator[Cells]:
    if suffix in ENDINGS:
        return rows(path)
    if suffix != ".txt":
        known = ", ".join((*ENDINGS, ".txt"))
        raise FileError(f"{shown(path)} is no list of prompts that is read here; it may be {known}")
    lines, warnings = lines_of(path)
    if warnings:
        raise FileError(f"{warnings[0]}; leave it out, or write a table")
    return iter(lines)


def _plain(cells: Cells, path: Path, index: int) -> Cells:
    """The cells, if they are such as JSON has."""
    try:
        json.dumps(cells)
    except (TypeError, ValueError):
        bad = next(name for name, value in cells.items() if not _is_plain(value))
        raise FileError(
            f"{shown(path)}: row {index + 1} has no text, number or list in {shown(bad)}"
        ) from None
    return cells


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _put(settings: dict[str, object], name: str, value: object) -> None:
    """Lay a value at a dotted name; whole groups are laid on one another."""
    place = settings
    *groups, last = name.split(".")
    for group in groups:
        inner = place.get(group)
        place[group] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        place = inner
    place[last] = value
