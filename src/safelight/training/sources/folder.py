"""A folder of pictures, each with a text file of its name, or with one table for all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from safelight.errors import FileError
from safelight.printable import shown
from safelight.training.pictures import SUFFIXES
from safelight.training.sources.example import (
    Example,
    Problem,
    captions_of,
    checked_index,
    unreadable,
    weight_of,
    without_duplicates,
)
from safelight.training.sources.tables import FILE_NAMES, find_table, rows

BYTES_LIMIT = 512 * 2**20  # of one picture's file
TEXT_LIMIT = 1_000_000  # bytes of one caption file
# Texts that lie beside pictures and describe the whole set.
NO_CAPTIONS = frozenset({"readme", "license", "licence", "notice", "credits", "classes"})


@dataclass(frozen=True)
class Folder:
    """The pictures below a folder, in the order of their paths; see `open_folder`."""

    path: Path
    examples: tuple[Example, ...]
    problems: tuple[Problem, ...] = field(default=())

    @property
    def name(self) -> str:
        return str(self.path)

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int) -> Example:
        found = self.examples[checked_index(index, len(self))]
        return replace(found, stamp=_stamp(Path(found.stamp)))


def open_folder(
    path: Path, *, table: Path | None = None, file: str | None = None, caption: str | None = None
) -> Folder:
    """The pictures below a folder and what is said of them.

    A picture's captions are the lines of the text file beside it that has its name (cat.png,
    cat.txt). A table in the folder (captions or metadata, .jsonl, .csv or .parquet; or the one
    given) comes first where it names the picture; `file` and `caption` name its columns, and rows
    of one picture are gathered. The id is the path below the folder without its suffix. Hidden
    files are left out. Raises FileError if there is no such folder or its table is no table.
    """
    if not path.is_dir():
        raise FileError(f"{shown(path)} is not a folder of pictures")
    pictures, texts = _listed(path)
    said, problems = _said_by_table(path, table, file, caption)
    examples = []
    for picture in pictures:
        place = picture.relative_to(path)
        text = texts.pop(place.with_suffix(""), None)
        row = said.get(place)
        captions, fields = row if row is not None else ((), {})
        if not captions and text is not None:
            captions, fault = _lines(text)
            problems += fault
        name = place.with_suffix("").as_posix()
        read = partial(read_file, picture)
        found = Example(name, read, captions, weight_of(fields), fields, str(picture))
        examples.append(found)
    orphans = [t for t in texts.values() if t.stem.lower() not in NO_CAPTIONS]
    problems += [
        Problem("missing picture", str(text), "a caption without a picture of its name")
        for text in sorted(orphans)
    ]
    kept, twice = without_duplicates(examples)
    return Folder(path, tuple(kept), (*problems, *twice))


def read_file(path: Path) -> bytes:
    """The bytes of a picture's file. Raises FileError if it is gone, no file, or too large."""
    try:
        if not path.is_file():
            raise FileError(f"{shown(path)} does not exist or is no file")
        if path.stat().st_size > BYTES_LIMIT:
            raise FileError(f"{shown(path)} is larger than {BYTES_LIMIT} bytes")
        return path.read_bytes()
    except OSError as error:
        raise unreadable(str(path), error) from None


def _stamp(picture: Path) -> str:
    """What changes when the file does; empty if it is gone."""
    try:
        found = picture.stat()
    except OSError:
        return ""
    return f"{picture.absolute()} {found.st_size} {found.st_mtime_ns} {found.st_ino}"


def _listed(path: Path) -> tuple[list[Path], dict[Path, Path]]:
    """Pictures in order, and text files by their path below the folder without suffix."""
    pictures: list[Path] = []
    texts: dict[Path, Path] = {}
    for found in _walked(path):
        if found.suffix.lower() in SUFFIXES:
            pictures.append(found)
        elif found.suffix.lower() == ".txt":
            texts[found.relative_to(path).with_suffix("")] = found
    return pictures, texts


def _walked(path: Path) -> Iterator[Path]:
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise unreadable(str(path), error) from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():  # a link could lead round in a circle
            yield from _walked(entry)
        elif entry.is_file():
            yield entry


Said = dict[Path, tuple[tuple[str, ...], Mapping[str, object]]]


def _said_by_table(
    path: Path, table: Path | None, file: str | None, caption: str | None
) -> tuple[Said, list[Problem]]:
    """Captions and fields by the picture's path below the folder."""
    source = table if table is not None else find_table(path)
    if source is None:
        return {}, []
    said: Said = {}
    problems = []
    columns = FILE_NAMES if file is None else (file,)
    for number, row in enumerate(rows(source), start=1):
        where = f"{source}, row {number}"
        value = next((row[c] for c in columns if isinstance(row.get(c), str)), None)
        if not isinstance(value, str) or not value.strip():
            why = f"no column {' or '.join(columns)} names its picture"
            problems.append(Problem("missing picture", where, why))
            continue
        place = _below(path, value.strip())
        if place is None:
            problems.append(Problem("outside the folder", where, value))
        elif not (path / place).is_file():
            problems.append(Problem("missing picture", where, f"there is no {value}"))
        else:
            before, fields = said.get(place, ((), row))
            said[place] = ((*before, *captions_of(row, caption)), fields)
    return said, problems


def _below(path: Path, name: str) -> Path | None:
    """The named path below the folder; None if it leads out of it, by dots or by a link."""
    try:
        found = Path(name) if Path(name).is_absolute() else path / name
        inside = found.resolve().is_relative_to(path.resolve())
        return _normal(found.absolute().relative_to(path.absolute())) if inside else None
    except (OSError, ValueError):  # ValueError: a NUL, or not below
        return None


def _normal(place: Path) -> Path:
    """The path without "a/.." in it."""
    parts: list[str] = []
    for part in place.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return Path(*parts)


def _lines(text: Path) -> tuple[tuple[str, ...], list[Problem]]:
    """The captions of a text file, one a line."""
    try:
        if text.stat().st_size > TEXT_LIMIT:
            why = f"more than {TEXT_LIMIT} bytes"
            return (), [Problem("unreadable caption", str(text), why)]
        lines = text.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error.strerror)
        return (), [Problem("unreadable caption", str(text), why)]
    return tuple(line.strip() for line in lines if line.strip()), []
