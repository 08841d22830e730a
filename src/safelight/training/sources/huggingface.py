"""Hugging Face datasets on disk: what `save_to_disk` wrote, or Parquet files; never fetched."""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from safelight.errors import FileError
from safelight.printable import shown
from safelight.training.sources.arrow_tables import ArrowTable, ParquetTable, Table
from safelight.training.sources.example import (
    Example,
    Problem,
    captions_of,
    checked_index,
    weight_of,
)
from safelight.training.sources.folder import read_file

IMAGE_NAMES = ("image", "img", "picture", "jpg", "png", "webp", "pixel_values")


@dataclass(frozen=True)
class Rows:
    """The rows of tables, one an example; see `open_dataset`."""

    path: Path
    tables: tuple[Table, ...] = field(repr=False)
    image: str
    caption: str | None
    problems: tuple[Problem, ...] = field(default=())

    @property
    def name(self) -> str:
        return str(self.path)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(table) for table in self.tables))

    def __len__(self) -> int:
        return self._ends[-1]

    def example(self, index: int) -> Example:
        which = bisect_right(self._ends, checked_index(index, len(self)))
        table = self.tables[which]
        row = index - (self._ends[which] - len(table))
        fields = {name: table.cell(row, name) for name in table.names if name != self.image}
        return Example(
            f"{which:05}-{row:08}",
            partial(self._picture, table, row, f"row {index} of {shown(self.path)}"),
            captions_of(fields, self.caption),
            weight_of(fields),
            fields,
        )

    def _picture(self, table: Table, row: int, where: str) -> bytes:
        """The bytes of a picture, from the cell or from the file it names."""
        value = table.cell(row, self.image, heavy=True)
        if isinstance(value, Mapping):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, bytes):
            return value
        if isinstance(value, str) and value:
            return read_file(_inside(self.path, value))
        raise FileError(f"{where} holds no picture")


def open_dataset(
    path: Path, *, split: str | None = None, image: str | None = None, caption: str | None = None
) -> Rows:
    """A dataset folder written by `save_to_disk`, one of its splits, or a folder of Parquet files.

    The picture's column is the one named, the one of type Image, or the first of the usual names;
    a cell holds the file's bytes, or a path below the folder. Needs pyarrow. Raises FileError if
    the folder is no dataset, has several splits and none is named, or no column holds pictures.
    """
    folder = _split_folder(path, split)
    tables: Sequence[Table] = (
        _saved(folder) if (folder / "state.json").is_file() else _parquet(folder, split)
    )
    if not tables:
        raise FileError(f"{shown(folder)} holds no Arrow or Parquet files of a dataset")
    first = tables[0]
    for table in tables[1:]:
        if table.names != first.names:
            raise FileError(f"the files of {shown(folder)} have different columns")
    column = _image_column(first, image, folder)
    if caption is not None and caption not in first.names:
        raise FileError(
            f"{shown(folder)} has no column {shown(caption)} for captions; it has "
            f"{', '.join(map(shown, first.names))}"
        )
    return Rows(folder, tuple(tables), column, caption)


def is_dataset(path: Path) -> bool:
    """Whether a folder looks like a dataset on disk and not like a folder of pictures."""
    return (
        (path / "state.json").is_file()
        or (path / "dataset_dict.json").is_file()
        or any(path.glob("*.parquet"))
        or any(path.glob("data/*.parquet"))
    )


def _split_folder(path: Path, split: str | None) -> Path:
    marker = path / "dataset_dict.json"
    if not path.is_dir():
        raise FileError(f"{shown(path)} is not a folder of a dataset")
    if not marker.is_file():
        return path
    splits = _json(marker).get("splits")
    names = [name for name in splits if isinstance(name, str)] if isinstance(splits, list) else []
    if split is None and len(names) == 1:
        split = names[0]
    if split not in names:
        given = "none was named" if split is None else f"got {shown(split)}"
        raise FileError(f"{shown(path)} has the splits {', '.join(map(shown, names))}; {given}")
    return _inside(path, split)


def _saved(folder: Path) -> list[Table]:
    """The tables of a folder that `save_to_disk` wrote, in the order of its own list."""
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise FileError(
            f"{shown(folder)} holds a selection of rows by an older datasets library; load it and "
            "save it again with a newer one"
        )
    listed = state.get("_data_files")
    files = (
        [f.get("filename") for f in listed if isinstance(f, dict)]
        if isinstance(listed, list)
        else []
    )
    return [ArrowTable(_inside(folder, name)) for name in files if isinstance(name, str)]


def _parquet(folder: Path, split: str | None) -> list[Table]:
    files = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    splits = sorted({file.name.partition("-")[0] for file in files})
    if split is not None:
        files = [file for file in files if file.name.partition("-")[0] == split]
        if not files:
            raise FileError(f"{shown(folder)} has the splits {', '.join(map(shown, splits))}")
    elif len(splits) > 1 and all("-of-" in file.name for file in files):
        raise FileError(f"{shown(folder)} has the splits {', '.join(map(shown, splits))}; name one")
    return [ParquetTable(file) for file in files]


def _image_column(table: Table, image: str | None, folder: Path) -> str:
    names = table.names
    if image is not None:
        if image not in names:
            raise FileError(
                f"{shown(folder)} has no column {shown(image)} for pictures; it has "
                f"{', '.join(map(shown, names))}"
            )
        return image
    told = table.metadata.get(b"huggingface", b"{}")
    try:
        features = json.loads(told).get("info", {}).get("features", {})
        typed = [
            n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "Image"
        ]
    except (ValueError, AttributeError):
        typed = []
    found: list[str] = [name for name in (*typed, *IMAGE_NAMES) if name in names]
    if not found:
        usual = f"{', '.join(map(shown, names))}; name the one that holds pictures"
        raise FileError(f"{shown(folder)} has the columns {usual}")
    return found[0]


def _inside(folder: Path, name: str) -> Path:
    found = folder / name
    try:
        inside = found.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        inside = False
    if not inside:
        raise FileError(f"{shown(folder)} names {shown(name)}, which lies outside of it")
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise FileError(f"{shown(path)} is not JSON") from None
    if not isinstance(told, dict):
        raise FileError(f"{shown(path)} is not a JSON object")
    return told
