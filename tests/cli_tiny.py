"""The command line as a user runs it, on models a thousand times smaller."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SMALL = ("--size", "64x64", "--steps", "2", "--seed", "5")


@dataclass(frozen=True)
class Ran:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def json(self) -> list[dict[str, object]]:
        """The JSON objects that it printed, one a line."""
        return [json.loads(line) for line in self.lines]

    def error(self) -> str:
        """Its only line on stderr, which is one without a traceback; nothing was printed."""
        assert self.out == "", self.out
        assert self.err.endswith("\n") and self.err.count("\n") == 1, self.err
        assert self.err.startswith("error: ") and "Traceback" not in self.err
        assert "unexpected" not in self.err, self.err
        return self.err.removeprefix("error: ").rstrip("\n")


Cli = Callable[..., Ran]


def pixels(path: Path | str) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def files(folder: Path) -> list[str]:
    """Every file below a folder, hidden and temporary ones too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "safelight", *map(str, args)]


def process(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """A real run in a process of its own, with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(  # type: ignore[call-overload]
        command(*args), capture_output=True, text=True, timeout=120, env=environment, **options
    )
