"""Arrow and Parquet files as tables of which one row is read at a time."""

import threading
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from safelight.errors import FileError
from safelight.printable import shown
from safelight.training.sources.tables import open_parquet, pyarrow

KEPT_GROUPS = 4  # row groups of pictures kept in memory, some 100 pictures each
KEPT_TEXTS = 256  # row groups of everything else


class Table(Protocol):
    """Rows by number; the metadata is the schema's."""

    names: Sequence[str]
    metadata: dict[bytes, bytes]

    def __len__(self) -> int: ...

    def cell(self, row: int, name: str, *, heavy: bool = False) -> Any:
        """The value of a cell as plain Python; heavy: of a column of pictures."""
        ...


class ArrowTable:
    """An Arrow stream as `save_to_disk` writes it, mapped: only what is asked for is read."""

    def __init__(self, path: Path) -> None:
        arrow = pyarrow()
        try:
            self._table = arrow.ipc.open_stream(arrow.memory_map(str(path), "r")).read_all()
        except (arrow.ArrowException, OSError) as error:
            reason = shown(str(error), 120)
            raise FileError(f"{shown(path)} is no Arrow file: {reason}") from None
        self.names: Sequence[str] = self._table.column_names
        self.metadata: dict[bytes, bytes] = self._table.schema.metadata or {}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def cell(self, row: int, name: str, *, heavy: bool = False) -> Any:
        """The value of a cell."""
        return self._table.column(name)[row].as_py()


class ParquetTable:
    """A Parquet file, a row group in memory at a time.

    A row in any order costs the reading of its group; for training from a set larger than memory,
    `safelight data pack` it first.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_parquet(path)
        self._path = path
        schema = self._file.schema_arrow
        groups = self._file.metadata
        self.names: Sequence[str] = schema.names
        self.metadata: dict[bytes, bytes] = schema.metadata or {}
        counts = (groups.row_group(i).num_rows for i in range(groups.num_row_groups))
        self._ends = list(accumulate(counts))
        self._turn = threading.Lock()
        self._heavy = lru_cache(maxsize=KEPT_GROUPS)(self._read)
        self._light = lru_cache(maxsize=KEPT_TEXTS)(self._read)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def cell(self, row: int, name: str, *, heavy: bool = False) -> Any:
        """The value of a cell."""
        group = bisect_right(self._ends, row)
        first = self._ends[group - 1] if group else 0
        with self._turn:
            column = (self._heavy if heavy else self._light)(group, name)
        return column[row - first].as_py()

    def _read(self, group: int, name: str) -> Any:
        arrow = pyarrow()
        try:
            return self._file.read_row_group(group, columns=[name]).column(name)
        except (arrow.ArrowException, OSError) as error:
            reason = shown(str(error), 120)
            raise FileError(f"{shown(self._path)} is damaged: {reason}") from None
