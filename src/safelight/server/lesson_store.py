"""Lessons on the disk, one file for each picture; the ones used longest ago make room."""

import json
import os
import threading
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from safelight.server.bounded_folder import make_room
from safelight.server.lesson_frames import Lesson
from safelight.server.refusals import Unknown
from safelight.writing import make_folder, write_whole

BYTES = 512 * 1024 * 1024  # of all lessons together
TOLD = "lesson.json"


class Lessons:
    """A folder of lessons by the ids of their pictures."""

    def __init__(self, folder: Path, most: int = BYTES) -> None:
        self.folder, self.most = folder, most
        self._lock = threading.Lock()
        make_folder(folder)

    def save(self, picture: str, lesson: Lesson, *, same: bool) -> None:
        """Keep the lesson of a picture. same: whether it was drawn again with the same pixels.

        Raises OutputError.
        """
        buffer = BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            told = {"picture": picture, "same": same, **lesson.told}
            file.writestr(TOLD, json.dumps(told, allow_nan=False))
            for name, data in lesson.pictures.items():
                file.writestr(f"{name}.webp", data)
        with self._lock:
            make_room(self.folder, len(buffer.getvalue()), self.most)
            write_whole(self._path(picture), buffer.getvalue())

    def has(self, picture: str) -> bool:
        """Whether the lesson of a picture is kept."""
        return self._path(picture).is_file()

    def told(self, picture: str) -> bytes:
        """Numbers and sentences, as JSON. Raises Unknown if no lesson is kept."""
        return self._read(picture, TOLD)

    def picture(self, picture: str, step: int, panel: str) -> bytes:
        """What a panel shows at a step (from 1), a WebP. Raises Unknown."""
        return self._read(picture, f"{step}-{panel}.webp")

    def delete(self, picture: str) -> None:
        """Forget a lesson; one that is not there is no error."""
        with suppress(OSError):
            self._path(picture).unlink(missing_ok=True)

    def _path(self, picture: str) -> Path:
        return self.folder / f"{picture}.zip"

    def _read(self, picture: str, name: str) -> bytes:
        path = self._path(picture)
        try:
            with zipfile.ZipFile(path) as file:
                data = file.read(name)
            os.utime(path)  # used again: the last to be forgotten
        except KeyError:
            raise Unknown("this lesson has no such step or panel.") from None
        except (OSError, zipfile.BadZipFile):
            raise Unknown(
                "no lesson of this picture is kept; ask for one with POST /api/lessons."
            ) from None
        return data
