"""Tables of captions: JSON lines, CSV and Parquet, a mapping a row."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safelight.errors import FileError
from safelight.printable import shown
from safelight.training.sources.example import unreadable

FILE_NAMES = ("file_name", "file", "filename", "image", "path", "picture")  # columns, best first
STEMS = ("captions", "metadata")
ENDINGS = (".jsonl", ".csv", ".parquet")
FIELD_LIMIT = 1_000_000  # characters of one CSV field

Row = Mapping[str, object]


def find_table(folder: Path) -> Path | None:
    """The table of captions in a folder, if there is one. Raises FileError if there are several."""
    found = [folder / (stem + ending) for stem in STEMS for ending in ENDINGS]
    found = [path for path in found if path.is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise FileError(f"{shown(folder)} has {names}; name the one to be used, or keep only that")
    return found[0] if found else None


def rows(path: Path) -> Iterator[Row]:
    """The rows of a table, read one after the other.

    Raises FileError that names the line if it is not UTF-8, not JSON, or has no header.
    """
    readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise FileError(f"{shown(path)} is no table; expected {', '.join(readers)}")
    try:
        yield from reader(path)
    except UnicodeDecodeError:
        raise FileError(f"{shown(path)} is not UTF-8 text") from None
    except OSError as error:
        raise unreadable(str(path), error) from None


def pyarrow() -> Any:
    """The package that reads Arrow and Parquet. Raises FileError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise FileError(
            "Parquet and Arrow files need pyarrow: pip install 'safelight[data]'"
        ) from None
    return pyarrow


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise FileError(f"{shown(path)}, line {number} is not JSON") from None
            if not isinstance(row, dict):
                raise FileError(f"{shown(path)}, line {number} is not a JSON object")
            yield row


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(_bounded(file, path), restkey="", restval=None, strict=True)
        try:
            if not reader.fieldnames:
                raise FileError(f"{shown(path)} is empty; its first line must name the columns")
            for row in reader:
                if "" in row:
                    raise FileError(
                        f"{shown(path)}, line {reader.line_num} has more fields than the "
                        f"{len(reader.fieldnames)} of the header; quote texts that hold commas"
                    )
                yield dict(row)
        except csv.Error as error:
            raise FileError(f"{shown(path)}, line {reader.reader.line_num}: {error}") from None


def _bounded(lines: Iterator[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if len(line) > FIELD_LIMIT:
            raise FileError(f"{shown(path)}, line {number} has more than {FIELD_LIMIT} characters")
        yield line


def _parquet(path: Path) -> Iterator[Row]:
    file = open_parquet(path)
    for batch in file.iter_batches(batch_size=1024):
        yield from batch.to_pylist()


def open_parquet(path: Path) -> Any:
    """An opened Parquet file. Raises FileError if it is none."""
    arrow = pyarrow()
    try:
        return arrow.parquet.ParquetFile(path, memory_map=True)
    except (arrow.ArrowException, OSError) as error:
        raise FileError(f"{shown(path)} is no Parquet file: {shown(str(error), 120)}") from None
