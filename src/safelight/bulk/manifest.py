"""What became of each row: one line of JSON a row, and the file that tells what the run is."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from safelight.errors import FileError, RequestError
from safelight.printable import shown
from safelight.writing import write_text

RUN = "run.json"
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Line:
    """One row's end: a picture, or why there is none.

    file: below the folder of the run; for an archive or a table, that file. facts: what warns of
    nothing, as that all of a LoRA had its place.
    """

    index: int
    id: str
    prompt: str
    seed: int | None
    file: str | None = None
    pixels_sha256: str | None = None
    seconds: float | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None
    facts: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        told = json.loads(text)
        several = {name: tuple(told.get(name, ())) for name in ("warnings", "facts")}
        return cls(**{**told, **several})


@dataclass(frozen=True)
class Run:
    """What a folder of pictures was asked for; a run goes on only where all of it is the same.

    source: the list's name and SHA-256. settings: those that every row has unless it says
    otherwise. threads: of one drawing, for the last bits of a picture hang on it.
    """

    source: str
    sha256: str
    settings: Mapping[str, object]
    seed: int
    form: str
    shard_size: int
    metadata: bool
    threads: int
    software: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The run that a folder holds; None if it holds none. Raises FileError for a broken one."""
        path = folder / RUN
        if not path.exists():
            return None
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{field.name: told[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(f"{shown(path)} tells of no run ({type(error).__name__})") from None

    def check_same(self, other: "Run", folder: Path) -> None:
        """Raise RequestError naming the first thing in which a run differs from the one asked."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name != "software" and mine != theirs:
                raise RequestError(
                    f"{shown(folder)} holds a run with {field.name} {shown(str(mine), 80)}, and "
                    f"{shown(str(theirs), 80)} is asked for; ask for the same, or name another "
                    "folder with --out."
                )


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a manifest, in the order they stand there. Raises FileError."""
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            yield Line.from_json(text)
    except (OSError, ValueError, KeyError, TypeError):
        raise FileError(f"{shown(path)} is no manifest; delete it to have its rows drawn") from None


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write a manifest, whole or not at all."""
    write_text(path, "".join(f"{line.to_json()}\n" for line in lines))
