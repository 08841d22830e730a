"""Pictures that clients give: checked, and kept under the hash of their bytes.

Requests name them by that hash, never by a path. PNG, JPEG and WebP alone are decoded, after their
size was read from the header; the file that is kept is the client's, byte for byte.
"""

import base64
import binascii
import hashlib
import os
import threading
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

from safelight.errors import FileError, SafelightError
from safelight.server.bounded_folder import make_room
from safelight.server.kept import Upload
from safelight.server.limits import Limits
from safelight.server.refusals import NotAllowed, TooLarge, Unknown
from safelight.tasks.picture_file import open_input
from safelight.writing import make_folder, write_whole

HEX = frozenset("0123456789abcdef")
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
MARKS = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "WEBP": b"RIFF"}


class Uploads:
    """A folder of pictures by their hashes."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self._lock = threading.Lock()
        make_folder(folder)

    def add(self, data: bytes) -> Upload:
        """Keep a picture. Raises TooLarge for too many bytes or pixels, FileError for what is no
        sound PNG, JPEG or WebP."""
        limits = self.limits
        if len(data) > limits.picture_bytes:
            raise TooLarge(
                f"the picture has {len(data)} bytes; up to {limits.picture_bytes} are taken."
            )
        kind = next((k for k, mark in MARKS.items() if data.startswith(mark)), None)
        if kind is None or (kind == "WEBP" and data[8:12] != b"WEBP"):
            raise FileError("the picture is not a PNG, JPEG or WebP.")
        id = hashlib.sha256(data).hexdigest()
        path = self.folder / f"{id}{SUFFIXES[kind]}"
        if kind != "WEBP":  # whose decoder takes its memory on opening; `open_input` looks first
            self._check_size(*_announced(data, limits.picture_pixels))
        with self._lock:
            if not path.exists():
                make_room(self.folder, len(data), self.limits.uploads_bytes)
                write_whole(path, data)
            else:
                with suppress(OSError):
                    os.utime(path)  # used again: the last to be forgotten
        try:
            size = open_input(path).size
            self._check_size(*size)
        except SafelightError:
            path.unlink(missing_ok=True)
            raise
        return Upload(id, *size, kind, len(data))

    def path(self, id: str) -> Path:
        """The file of an upload. Raises Unknown."""
        if len(id) == 64 and set(id) <= HEX:
            for suffix in SUFFIXES.values():
                if (path := self.folder / f"{id}{suffix}").is_file():
                    return path
        raise Unknown("there is no uploaded picture of that id; upload it with POST /api/pictures.")

    def _check_size(self, width: int, height: int) -> None:
        if width * height > (most := self.limits.picture_pixels):
            raise TooLarge(f"the picture has {width} x {height} pixels; up to {most} are taken.")


def decoded(text: str, limits: Limits) -> bytes:
    """The bytes of a picture in base64, with or without `data:image/png;base64,` before it.

    Raises NotAllowed if it is anything else, TooLarge if it is too long.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64") or len(head) > 100:
            raise NotAllowed("a picture must be base64, or a data URI of base64.")
    if len(text) > limits.picture_bytes * 4 // 3 + 4096:
        raise TooLarge(
            f"the picture has about {len(text) * 3 // 4} bytes; up to {limits.picture_bytes} are "
            "taken."
        )
    flat = "".join(text.split())
    try:
        return base64.b64decode(flat + "=" * (-len(flat) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise NotAllowed("a picture must be base64, or a data URI of base64.") from None


def _announced(data: bytes, most: int) -> tuple[int, int]:
    """Width and height of a PNG or JPEG by its header alone."""
    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG")) as image:
            return image.size
    except Image.DecompressionBombError:
        raise TooLarge(f"the picture is far too large; up to {most} pixels are taken.") from None
    except Exception:  # a forged file can make a decoder raise anything
        raise FileError("the picture is truncated or damaged.") from None
