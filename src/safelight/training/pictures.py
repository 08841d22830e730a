"""Picture files to pixels that mean the same whatever the file was: upright RGB on one ground.

Animations give their first frame. Embedded colour profiles are not applied: values count as sRGB.
"""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from safelight.errors import FileError
from safelight.printable import shown

KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
MAX_PIXELS = 8192 * 8192
WHITE = (255, 255, 255)
ORIENTATION = 0x0112
TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that exchange width and height
SIXTEEN_BITS = frozenset({"I;16", "I;16B", "I;16L", "I"})

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]  # (H, W, 3)


def upright_size(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of a picture as it is looked at, from the head of its file.

    Raises FileError if it is no picture or has more than `max_pixels`.
    """
    with _opened(data, name, max_pixels) as image, _told(name):
        width, height = image.size
        # Pillow decodes all of a PNG to look for an orientation behind the pixels
        behind = image.format == "PNG" and "exif" not in image.info
        turned = not behind and image.getexif().get(ORIENTATION) in TURNED
    return (height, width) if turned else (width, height)


def decoded(
    data: bytes, name: str, *, background: Colour = WHITE, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """A picture as upright 8-bit RGB; what is transparent shows `background`.

    Raises FileError if it is no picture of a kind we read, is damaged, or has more than
    `max_pixels`; the size is checked before anything is decoded.
    """
    with _opened(data, name, max_pixels) as image, _told(name):
        image.load()
        return _flat(ImageOps.exif_transpose(image), background)


def opacity(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """How opaque each place of a picture is, upright: 8-bit grey, white where it is opaque.

    Raises as `decoded`.
    """
    with _opened(data, name, max_pixels) as image, _told(name):
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode in SIXTEEN_BITS:
            upright = _eight_bits(upright)
        if "transparency" in upright.info or upright.mode in ("PA", "RGBa", "La"):
            upright = upright.convert("RGBA")
        if "A" in upright.getbands():
            return upright.getchannel("A")
        return Image.new("L", upright.size, 255)


def cropped(
    image: Image.Image,
    size: tuple[int, int],
    corner: tuple[int, int],
    window: tuple[int, int],
    *,
    flip: bool = False,
) -> Pixels:
    """The window at (left, top) of the picture resized to `size`, antialiased (Lanczos).

    All in (width, height). Only the window is computed; it equals resizing all and cropping.
    """
    across, down = image.width / size[0], image.height / size[1]
    left, top = corner
    box = (
        left * across,
        top * down,
        min(image.width, (left + window[0]) * across),
        min(image.height, (top + window[1]) * down),
    )
    made = image if image.size == window == size else image.resize(window, _LANCZOS, box=box)
    pixels = np.asarray(made)
    return np.ascontiguousarray(pixels[:, ::-1] if flip else pixels)


def to_tensor(pictures: Sequence[Pixels], device: torch.device | str = "cpu") -> Tensor:
    """Pictures of one size as (B, 3, H, W) float32 in [-1, 1]; they travel as bytes."""
    stacked = torch.from_numpy(np.stack(pictures))  # (B, H, W, 3)
    if torch.device(device).type == "cuda":
        stacked = stacked.pin_memory()
    moved = stacked.to(device, non_blocking=True)
    return moved.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


_LANCZOS = Image.Resampling.LANCZOS


def _flat(image: Image.Image, background: Colour) -> Image.Image:
    if image.mode in SIXTEEN_BITS:
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit: Pillow's own conversion would clip all above 255 to white."""
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is None:
        return grey
    grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _opened(data: bytes, name: str, max_pixels: int) -> Image.Image:
    announced = _webp_size(data)
    if announced is not None:
        _bounded(name, announced, max_pixels)
    with _told(name):
        image = Image.open(BytesIO(data), formats=KINDS)
        _bounded(name, image.size, max_pixels)
    return image


def _bounded(name: str, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise FileError(
            f"{shown(name)} is {size[0]} x {size[1]}; at most {max_pixels} pixels are read"
        )


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """The size in a WebP header: its decoder takes the memory of all pixels on opening."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None

    def number(start: int, end: int) -> int:
        return int.from_bytes(data[start:end], "little")

    if data[12:16] == b"VP8X":
        return number(24, 27) + 1, number(27, 30) + 1
    if data[12:16] == b"VP8L":
        bits = number(21, 25)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF


class _told:
    """Turns whatever a decoder raises into a FileError that names the picture."""

    def __init__(self, name: str) -> None:
        self._name = shown(name)

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, FileError) or not isinstance(error, Exception):
            return
        if isinstance(error, UnidentifiedImageError):
            raise FileError(f"{self._name} is not a {', '.join(KINDS)} picture") from None
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            raise FileError(f"{self._name} has too many pixels") from None
        if isinstance(error, MemoryError):
            raise FileError(f"{self._name} needs more memory than there is") from None
        # A forged file can make a decoder raise anything: struct.error, KeyError, SyntaxError, ...
        words = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{self._name} is truncated or damaged: {shown(words, 120)}") from None
