"""Opens a picture that somebody else made: PNG, JPEG or WebP, with bounds on all it contains.

`open_picture` gives the stored values and texts, to compare and to read settings from. `open_input`
gives what a viewer would show, to work on: upright, in 8-bit sRGB, and says what it changed.
"""

import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from safelight.errors import FileError, RequestError
from safelight.printable import shown
from safelight.tasks.colour_modes import plain

BYTES_LIMIT = 512 * 2**20
PIXEL_LIMIT = 8192 * 8192
TEXT_LIMIT = 4_000_000  # characters of all texts of one picture together
KINDS = ("PNG", "JPEG", "WEBP")
# Other kinds by how their files begin, so that the message can say what was given
OTHERS = (
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF"),
    (0, b"gimp xcf", "a GIMP file"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an SVG drawing or other XML"),
    (0, b"v/1\x01", "an OpenEXR file"),
    (0, b"qoif", "a QOI"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftypheic", "a HEIC photo"),
    (4, b"ftypheix", "a HEIC photo"),
    (4, b"ftypmif1", "a HEIF photo"),
)

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


@dataclass(frozen=True, eq=False)
class InputPicture:
    """A picture to work on: upright, 8-bit sRGB."""

    name: str  # of the file, without folders
    kind: str  # PNG, JPEG or WEBP; "pixels" if it came as an array
    pixels: NDArray[np.uint8]  # (H, W, 3); transparency is kept apart, not blended
    alpha: NDArray[np.uint8] | None  # (H, W) where the file has transparency; 0 is clear
    notes: tuple[str, ...]  # what opening it changed or left out, a sentence each
    sha256: str  # of the file's bytes; of the array's, if it came as one

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


T = TypeVar("T")


def open_input(path: Path | str, what: str = "picture") -> InputPicture:
    """What a PNG, JPEG or WebP file shows, of at most 8192 x 8192 pixels, ready to be worked on.

    Turned as its EXIF says; 16 bits, palettes, greys, CMYK and colours of other profiles become
    8-bit sRGB. Of an animation the first frame is taken, unless that is blank. What was changed
    stands in `notes`. `what` names the picture's part in the request, for the message. Raises
    FileError, naming file and remedy, for anything else.
    """
    path = Path(path)
    data = _read(path)
    kind, made, frames = _decoded(
        path, data, lambda image: (image.format or "", plain(image), _frames(image)), what
    )
    if frames > 1 and (made.pixels == made.pixels[:1, :1]).all():
        raise FileError(
            f"the {what} {shown(path.name)} is an animation of {frames} frames that begins with a "
            "blank one; save the frame that is meant as a PNG."
        )
    notes = list(made.notes)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x10" and data[25:26] != b"\0":
        notes.append("its 16 bits for each colour were cut to 8.")
    if frames > 1:
        notes.append(f"it is an animation of {frames} frames; the first was taken.")
    return InputPicture(
        path.name,
        "JPEG" if kind == "MPO" else kind,  # a JPEG with further pictures behind the first
        made.pixels,
        made.alpha,
        tuple(notes),
        hashlib.sha256(data).hexdigest(),
    )


def input_of(pixels: NDArray[np.uint8], name: str, what: str = "picture") -> InputPicture:
    """Pixels (H, W, 3), (H, W, 4) with transparency, or (H, W) grey, as an input picture.

    Raises RequestError for another shape or type, or more than 8192 x 8192 pixels.
    """
    given = np.asarray(pixels)
    channels = given.shape[2] if given.ndim == 3 else 1 if given.ndim == 2 else 0
    if given.dtype != np.uint8 or channels not in (1, 3, 4) or given.size == 0:
        raise RequestError(
            f"the {what} {shown(name)} must be uint8 pixels (H, W, 3), (H, W, 4) or (H, W); "
            f"got {given.dtype} {given.shape}."
        )
    if given.shape[0] * given.shape[1] > PIXEL_LIMIT:
        raise RequestError(
            f"the {what} {shown(name)} is too large ({given.shape[1]} x {given.shape[0]}): "
            f"up to {PIXEL_LIMIT} pixels are used."
        )
    grey = given.reshape(*given.shape[:2], channels)
    colours = np.broadcast_to(grey, (*given.shape[:2], 3)) if channels == 1 else given[..., :3]
    return InputPicture(
        name,
        "pixels",
        np.array(colours, order="C"),  # a copy: the caller may go on painting in theirs
        np.array(given[..., 3]) if channels == 4 else None,
        (),
        hashlib.sha256(np.ascontiguousarray(given).tobytes()).hexdigest(),
    )


def _frames(image: Image.Image) -> int:
    """How many frames an animation has; a phone's JPEG with a depth map behind it has one."""
    return 1 if image.format in ("JPEG", "MPO") else int(getattr(image, "n_frames", 1))


def open_picture(path: Path | str) -> OpenedPicture:
    """The pixels and texts of a PNG, JPEG or WebP file, of at most 8192 x 8192 pixels.

    The size is checked before anything is decoded. Raises FileError if the file is missing, not a
    regular file, another format, too large, or truncated.
    """
    path = Path(path)

    def stored(image: Image.Image) -> OpenedPicture:
        texts = dict(_bounded(path, _texts(image)))
        alpha, pixels = _alpha(image), np.asarray(image.convert("RGB"))
        return OpenedPicture(path, image.format or "", pixels, alpha, texts)

    return _decoded(path, _read(path), stored)


def _decoded(
    path: Path, data: bytes, use: Callable[[Image.Image], T], what: str | None = None
) -> T:
    """What `use` makes of the decoded picture; whatever it or the decoder raises is a FileError."""
    named = f"the {what} {shown(path.name)}" if what else shown(path.name)
    width, height = _announced_size(data) or (0, 0)
    _check_size(path, width, height)
    try:
        with Image.open(BytesIO(data), formats=KINDS) as image:
            _check_size(path, *image.size)
            image.load()  # PNG may carry texts behind its pixels
            return use(image)
    except FileError:
        raise
    except UnidentifiedImageError:
        raise FileError(_other_kind(named, data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path) from None
    except MemoryError:
        raise FileError(f"{named} needs more memory than there is.") from None
    except Exception as error:
        # A forged file can make a decoder raise anything: struct.error, KeyError, SyntaxError, ...
        raise FileError(
            f"{named} is truncated or damaged: {_reason(error)}. Fetch it again."
        ) from None


def _other_kind(named: str, data: bytes) -> str:
    for at, mark, kind in OTHERS:
        if data[at : at + len(mark)] == mark:
            return f"{named} is not a PNG, JPEG or WebP picture but {kind}; save it as PNG."
    return f"{named} is not a PNG, JPEG or WebP picture."


def _read(path: Path) -> bytes:
    try:
        # Not blocking: opening a pipe would wait for its writer
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FileError(f"{shown(path)} is not a file.")
            if status.st_size > BYTES_LIMIT:
                raise FileError(
                    f"{shown(path.name)} has {status.st_size} bytes; pictures of up to "
                    f"{BYTES_LIMIT} bytes are read."
                )
            return file.read(BYTES_LIMIT)
    except FileNotFoundError:
        raise FileError(f"there is no file {shown(path)}.") from None
    except IsADirectoryError:
        raise FileError(f"{shown(path)} is a folder, not a picture.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileError(f"{shown(path)} cannot be read: {_reason(error)}.") from None


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
    return FileError(f"{shown(path.name)} is too large{size}: up to {PIXEL_LIMIT} pixels are read.")


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
            raise FileError(f"{shown(path.name)} holds more than {TEXT_LIMIT} characters of text.")
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
