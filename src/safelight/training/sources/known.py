"""The sizes of pictures found sound before, so that a second look reads only what has changed."""

import json
import logging
from pathlib import Path
from typing import Literal

from safelight.errors import OutputError
from safelight.training.sources.example import Example
from safelight.writing import make_folder, write_text

log = logging.getLogger(__name__)

FORMAT = 1
Depth = Literal["decode", "header"]
Size = tuple[int, int]


class Known:
    """Sizes by the stamp of the picture's file and by how closely it was looked at.

    Kept in a file, or nowhere if that is None. A file that is spoilt counts as empty.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._before = _read(path) if path is not None else {}
        self._now: dict[str, Size] = {}

    def size(self, example: Example, depth: Depth) -> Size | None:
        """The (width, height) of a picture that was found sound at this depth or more closely."""
        found = self._before.get(f"decode {example.stamp}")
        if found is None and depth == "header":
            found = self._before.get(f"header {example.stamp}")
        return found if example.stamp else None

    def keep(self, example: Example, depth: Depth, size: Size) -> None:
        """Remember a sound picture."""
        if example.stamp:
            closely = depth == "decode" or f"decode {example.stamp}" in self._before
            self._now[f"{'decode' if closely else 'header'} {example.stamp}"] = size

    def save(self) -> None:
        """Write what this look found; pictures that are gone are forgotten."""
        if self._path is None or self._now == self._before:
            return
        try:
            make_folder(self._path.parent)
            write_text(self._path, json.dumps({"format": FORMAT, "sizes": self._now}))
        except OutputError as error:
            log.warning("the next scan starts anew: %s", error)


def _read(path: Path) -> dict[str, Size]:
    try:
        told = json.loads(path.read_bytes())
        if told["format"] != FORMAT:
            return {}
        return {str(stamp): (int(w), int(h)) for stamp, (w, h) in told["sizes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or not ours
        return {}
