"""Opens a picture that somebody else made: PNG, JPEG or WebP, with bounds on all it contains."""

import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from safelight.errors import FileError

BYTES_LIMIT = 512 * 2**20
PIXEL_LIMIT = 8192 * 8192
TEXT_LIMIT = 4_000_000  # characters of all texts of one picture together
KINDS = ("PNG", "JPEG", "WEBP")

RECIPE_KEY = "safelight"
USER_COMMENT_KEY = "UserComment"
MAKER_NOTE_KEY = "MakerNote"
EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
MAKER_NOTE = 0x927C
EXIF_NAMES = {0x010E: "ImageDescription", 0x010F: "Make", 0x0110: "Model", 0x0131: "Software"}
UNICODE_MARK = b"UNICODE\0"
RECIPE_MARK = b"safelight\0"


@dataclass(frozen=True, eq=False)
class OpenedPicture:
    """What a picture file holds."""

    path: Path
    kind: str  # PNG, JPEG or WEBP
    pixels: NDArray[np.uint8]  # (H, W, 3); transparency is left out, not blended
    alpha: NDArray[np.uint8] | None  # (H, W) where the file has it: some tools hide texts there
    texts: Mapping[str, str]  # text chunks by key; EXIF texts by the tag's name


def open_picture(path: Path | str) -> OpenedPicture:
    """The pixels and texts of a PNG, JPEG or WebP file, of at most 8192 x 8192 pixels.

    The size is checked before anything is decoded. Raises FileError if the file is missing, not a
    regular file, another format, too large, or truncated.
    """
    path = Path(path)
    data = _read(path)
    width, height = _announced_size(data) or (0, 0)
    _check_size(path, width, height)
    try:
        with Image.open(BytesIO(data), formats=KINDS) as image:
            _check_size(path, *image.size)
            image.load()  # PNG may carry texts behind its pixels
            kind = image.format or ""
            texts = dict(_bounded(path, _texts(image)))
            alpha = _alpha(image)
            pixels = np.asarray(image.convert("RGB"))
    except FileError:
        raise
    except UnidentifiedImageError:
        raise FileError(f"{path.name} is not a PNG, JPEG or WebP picture.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path) from None
    except MemoryError:
        raise FileError(f"{path.name} needs more memory than there is.") from None
    except Exception as error:
        # A forged file can make a decoder raise anything: struct.error, KeyError, SyntaxError, ...
        raise FileError(
            f"{path.name} is truncated or damaged: {_reason(error)}. Fetch it again."
        ) from None
    return OpenedPicture(path, kind, pixels, alpha, texts)


def _read(path: Path) -> bytes:
    try:
        # Not blocking: opening a pipe would wait for its writer
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FileError(f"{path} is not a file.")
            if status.st_size > BYTES_LIMIT:
                raise FileError(
                    f"{path.name} has {status.st_size} bytes; pictures of up to "
                    f"{BYTES_LIMIT} bytes are read."
                )
            return file.read(BYTES_LIMIT)
    except FileNotFoundError:
        raise FileError(f"there is no file {path}.") from None
    except IsADirectoryError:
        raise FileError(f"{path} is a folder, not a picture.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileError(f"{path} cannot be read: {_reason(error)}.") from None


def _announced_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in a WebP header: Pillow's decoder takes its memory on opening."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return _little(data[24:27]) + 1, _little(data[27:30]) + 1
        case b"VP8L":
            bits = _little(data[21:25])
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return _little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF
        case _:
            return None


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > PIXEL_LIMIT:
        raise _too_large(path, f" ({width} x {height})")


def _too_large(path: Path, size: str = "") -> FileError:
    return FileError(f"{path.name} is too large{size}: up to {PIXEL_LIMIT} pixels are read.")


def _texts(image: Image.Image) -> Iterator[tuple[str, str]]:
    """Text chunks, then EXIF texts. A chunk that is there twice counts once: the last."""
    for key, value in {**image.info, **getattr(image, "text", {})}.items():
        if isinstance(key, str) and isinstance(value, str):
            yield key, value
        elif key == "comment" and isinstance(value, bytes):  # JPEG
            yield "Comment", value.decode("utf-8", "replace")
    exif = image.getexif()
    for tag, name in EXIF_NAMES.items():
        value = exif.get(tag)
        if isinstance(value, str):
            yield name, value
    private = exif.get_ifd(EXIF_IFD)
    yield from _comment(USER_COMMENT_KEY, private.get(USER_COMMENT, exif.get(USER_COMMENT)))
    note = private.get(MAKER_NOTE, exif.get(MAKER_NOTE))
    if isinstance(note, bytes) and note.startswith(RECIPE_MARK):
        yield RECIPE_KEY, note[len(RECIPE_MARK) :].decode("utf-8", "replace")
    else:
        yield from _comment(MAKER_NOTE_KEY, note)


def _comment(key: str, value: object) -> Iterator[tuple[str, str]]:
    """An EXIF comment: eight bytes name the character set, the text follows."""
    if isinstance(value, str):
        yield key, value.strip("\0")
    elif isinstance(value, bytes):
        mark, text = value[:8], value[8:]
        if mark == UNICODE_MARK:
            yield key, text.decode(_utf16(text), "replace").strip("\0\ufeff")
        elif mark in (b"ASCII\0\0\0", b"\0" * 8, b"JIS\0\0\0\0\0"):
            yield key, text.decode("utf-8", "replace").strip("\0")
        else:
            yield key, value.decode("utf-8", "replace").strip("\0")


def _utf16(text: bytes) -> str:
    """Which half of a character comes first: the one that is zero in Latin text, else big."""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16-le" if text[0] == 0xFF else "utf-16-be"
    first, second = text[:4096:2].count(0), text[1:4096:2].count(0)
    return "utf-16-le" if second > first else "utf-16-be"


def _bounded(path: Path, texts: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    total = 0
    for key, text in texts:
        total += len(key) + len(text)
        if total > TEXT_LIMIT:
            raise FileError(f"{path.name} holds more than {TEXT_LIMIT} characters of text.")
        yield key, text


def _alpha(image: Image.Image) -> NDArray[np.uint8] | None:
    if image.mode not in ("RGBA", "LA", "PA"):
        return None
    return np.asarray(image.getchannel("A"))


def _reason(error: Exception) -> str:
    """The decoder's words on one short line."""
    if isinstance(error, zlib.error):
        return "its compressed data is broken"
    words = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in words)[:120].rstrip(".")
