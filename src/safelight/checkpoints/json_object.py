"""A JSON file of settings, read with types: what is missing or of another type is an error.

Numbers have bounds, for whoever made the file may want them to be memory or time.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeGuard

from safelight.checkpoints.folders import read_json
from safelight.errors import CheckpointError
from safelight.printable import shown

Json = Mapping[str, object]
MOST = 2**24  # of a whole number: sizes multiply
LEVELS = 16  # of a network's widths
LAYERS = 128  # of a kind in one place of a network


@dataclass(frozen=True, slots=True)
class JsonObject:
    """The settings of one file; `source` names it in messages."""

    values: Json
    source: str

    def has(self, name: str) -> bool:
        """Whether the setting is there and not null."""
        return self.values.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        return value if isinstance(value, str) else self._refuse(name, "a text")

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self._get(name, default)
        return value if isinstance(value, bool) else self._refuse(name, "true or false")

    def whole(self, name: str, default: int | None = None, *, most: int = MOST) -> int:
        value = self._get(name, default)
        if not _is_whole(value):
            self._refuse(name, "a whole number, 0 or more")
        return value if value <= most else self._refuse(name, f"at most {most}")

    def number(self, name: str, default: float | None = None) -> float:
        value = self._get(name, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._finite(name, value)
        return self._refuse(name, "a number")

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._get(name, None)
        if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(value)
        return self._refuse(name, "a list of texts")

    def numbers(self, name: str) -> tuple[float, ...]:
        value = self._get(name, None)
        if isinstance(value, (list, tuple)) and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in value
        ):
            return tuple(self._finite(name, v) for v in value)
        return self._refuse(name, "a list of numbers")

    def wholes(self, name: str, count: int | None = None, *, most: int = MOST) -> tuple[int, ...]:
        """Whole numbers; with `count`, a single one stands for so many. Without, they are what a
        network has at each of its levels, of which there are at most `LEVELS`."""
        value = self._get(name, None)
        if count is not None and _is_whole(value):
            value = (value,) * count
        if not isinstance(value, (list, tuple)) or not all(_is_whole(v) for v in value):
            self._refuse(name, "a list of whole numbers")
        if count is not None and len(value) != count:
            self._refuse(name, f"{count} whole numbers")
        if len(value) > LEVELS:
            self._refuse(name, f"at most {LEVELS} numbers")
        return (
            tuple(value) if max(value, default=0) <= most else self._refuse(name, f"at most {most}")
        )

    def require(self, expected: Json, what: str) -> None:
        """Raise CheckpointError unless these settings, where given, have these values."""
        for name, value in expected.items():
            found = self.values.get(name, value)
            if found is not None and found != value:
                raise CheckpointError(
                    f"{self.source}: {name} is {shown(found)}; {what} is built with "
                    f"{shown(value)} only, so this model cannot be loaded"
                )

    def _finite(self, name: str, value: float) -> float:
        try:
            number = float(value)
        except OverflowError:  # JSON's whole numbers have any length
            number = math.inf
        return number if math.isfinite(number) else self._refuse(name, "a finite number")

    def _get(self, name: str, default: object) -> object:
        value = self.values.get(name)
        return default if value is None else value

    def _refuse(self, name: str, expected: str) -> NoReturn:
        found = self.values.get(name)
        got = "is missing" if found is None else f"is {shown(found)}"
        raise CheckpointError(f"{self.source}: {name} {got}; expected {expected}")


@contextmanager
def naming(json: JsonObject) -> Iterator[None]:
    """Put the name of the file before a CheckpointError that does not have it."""
    try:
        yield
    except CheckpointError as error:
        if json.source in str(error):
            raise
        raise CheckpointError(f"{json.source}: {error}") from None


def read_object(path: Path) -> JsonObject:
    """The settings in a JSON file. Raises FileError if it holds no object."""
    return JsonObject(read_json(path), shown(path))


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
