"""Pictures made larger by a network, tile by tile, in little memory.

A network of convolutions sees a limited surrounding of each pixel. Tiles share `overlap` pixels:
the outer quarter of what they share is thrown away on either side, the middle half is blended. So
the result is that of one piece if the network sees no further than a quarter of the overlap, and
for the others the step that is left is spread over half of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safelight.errors import RequestError
from safelight.models.layers import NO_WRAP, Wrap
from safelight.upscalers.network import Upscaler

Pixels = NDArray[np.uint8]  # (H, W, 3)
Size = tuple[int, int]  # (width, height)
Watch = Callable[[int, int], None]  # (tiles done, of how many)

PASSES = 3  # at most, of one network over its own result

# A1111's upscalers without a network.
RESAMPLERS: Mapping[str, Image.Resampling] = MappingProxyType(
    {
        "None": Image.Resampling.LANCZOS,
        "Lanczos": Image.Resampling.LANCZOS,
        "Nearest": Image.Resampling.NEAREST,
    }
)


@dataclass(frozen=True, slots=True)
class PixelTiles:
    """Square tiles of `size` pixels of the small picture that share `overlap` of them."""

    size: int = 256
    overlap: int = 32

    def __post_init__(self) -> None:
        if self.size < 8 or not 0 <= 2 * self.overlap <= self.size:
            raise RequestError(
                "an upscaler's tiles have 8 pixels or more and share at most half of them; got "
                f"size {self.size} and overlap {self.overlap}. Try 256 and 32."
            )


@torch.no_grad()
def upscaled(
    pixels: Pixels,
    upscaler: Upscaler,
    tiles: PixelTiles | None = PixelTiles(),
    *,
    wrap: Wrap = NO_WRAP,
    watch: Watch | None = None,
) -> Pixels:
    """The picture (H, W, 3) as (scale H, scale W, 3); None for `tiles` takes it in one piece.

    Besides the result, memory holds one row of tiles of it. With `wrap` the picture continues at
    its other side. Raises RequestError if the network makes another size than it says.
    """
    if not wrap:
        return _by_tiles(pixels, upscaler, tiles, watch)
    # a margin of what lies at the other end; what is made of it is cut off again
    margin = tiles.overlap if tiles is not None else 32
    down, along = (margin if wrap.y else 0), (margin if wrap.x else 0)
    around = np.pad(pixels, ((down, down), (along, along), (0, 0)), mode="wrap")
    larger = _by_tiles(around, upscaler, tiles, watch)
    down, along = down * upscaler.scale, along * upscaler.scale
    return larger[down : larger.shape[0] - down, along : larger.shape[1] - along]


def upscaled_to(
    pixels: Pixels,
    size: Size,
    upscaler: Upscaler,
    tiles: PixelTiles | None = PixelTiles(),
    *,
    wrap: Wrap = NO_WRAP,
    watch: Watch | None = None,
) -> Pixels:
    """The picture at `size` (width, height), made at least as large by the network first.

    As A1111 does: the network runs until the picture is large enough, three times at most, and
    Lanczos brings it to the size; a picture that is large enough to begin with it does not see.
    A network of scale 1 (one that restores) runs once.
    """
    if min(size) < 1:
        raise RequestError(f"a picture has sides of 1 pixel or more; got {size[0]} x {size[1]}.")
    ran = 0
    while ran < PASSES and (_smaller(pixels, size) or (upscaler.scale == 1 and not ran)):
        pixels = upscaled(pixels, upscaler, tiles, wrap=wrap, watch=watch)
        ran += 1
        if upscaler.scale == 1:
            break
    if pixels.shape[1::-1] == size:
        return pixels
    return resampled(pixels, size)


def resampler(name: str) -> str | None:
    """The name of an upscaler without a network as A1111 writes it; None if it is none."""
    return next((n for n in RESAMPLERS if n.lower() == name.strip().lower()), None)


def resampled(pixels: Pixels, size: Size, name: str = "Lanczos") -> Pixels:
    """The picture at `size` (width, height), without a network.

    Raises RequestError if the name is not one of RESAMPLERS, or a side is below 1.
    """
    known = resampler(name)
    if known is None:
        raise RequestError(f"unknown upscaler {name!r}; choose one of {', '.join(RESAMPLERS)}.")
    if min(size) < 1:
        raise RequestError(f"a picture has sides of 1 pixel or more; got {size[0]} x {size[1]}.")
    return np.array(Image.fromarray(pixels).resize(size, RESAMPLERS[known]))


def _smaller(pixels: Pixels, size: Size) -> bool:
    height, width = pixels.shape[:2]
    return bool(width < size[0] or height < size[1])


class _Span(NamedTuple):
    """Where a tile lies along one axis, and what it shares with its neighbours."""

    start: int
    stop: int
    before: int  # 0 at the edge of the picture
    after: int

    def weights(self, scale: int) -> Tensor:
        """Adds up to 1 with that of the neighbours: 0 in the outer quarter shared, then a ramp."""
        weights = torch.ones((self.stop - self.start) * scale)
        if before := self.before * scale:
            weights[:before] = _ramp(before)
        if after := self.after * scale:
            weights[-after:] = 1 - _ramp(after)
        return weights


def _ramp(length: int) -> Tensor:
    places = (torch.arange(length) + 0.5) / length
    return (2 * places - 0.5).clamp(0, 1)


def _spans(length: int, tiles: PixelTiles) -> list[_Span]:
    """Tiles a step apart that share exactly the overlap; the last one is smaller."""
    step, shared = tiles.size - tiles.overlap, tiles.overlap
    count = max(1, -(-(length - shared) // step))
    return [
        _Span(
            i * step,
            min(i * step + tiles.size, length),
            shared if i else 0,
            shared if i < count - 1 else 0,
        )
        for i in range(count)
    ]


def _by_tiles(
    pixels: Pixels, upscaler: Upscaler, tiles: PixelTiles | None, watch: Watch | None
) -> Pixels:
    height, width = pixels.shape[:2]
    whole = tiles or PixelTiles(max(height, width, 8), 0)
    rows, columns, scale = _spans(height, whole), _spans(width, whole), upscaler.scale
    larger = np.empty((height * scale, width * scale, 3), np.uint8)
    kept = torch.zeros(3, 0, width * scale)  # what the strip above adds to the next one
    for i, row in enumerate(rows):
        strip = torch.zeros(3, (row.stop - row.start) * scale, width * scale)
        for j, column in enumerate(columns):
            tile = pixels[row.start : row.stop, column.start : column.stop]
            said = _said(upscaler, tile)
            strip[:, :, column.start * scale : column.stop * scale] += said * column.weights(scale)
            if watch is not None:
                watch(i * len(columns) + j + 1, len(rows) * len(columns))
        strip *= row.weights(scale)[:, None]
        strip[:, : kept.shape[1]] += kept
        ready = strip.shape[1] - row.after * scale
        larger[row.start * scale :][:ready] = _as_pixels(strip[:, :ready])
        kept = strip[:, ready:].clone()
    return larger


def _said(upscaler: Upscaler, tile: Pixels) -> Tensor:
    """What the network makes of a tile: (3, H, W) in [0, 1]."""
    picture = torch.from_numpy(np.array(tile)).permute(2, 0, 1)[None].float() / 255
    said = upscaler(picture)
    expected = (1, 3, tile.shape[0] * upscaler.scale, tile.shape[1] * upscaler.scale)
    if said.shape != expected:
        raise RequestError(
            f"{upscaler.name} made {tuple(said.shape)} of a picture where {expected} was expected; "
            "it is no upscaler of pictures."
        )
    return said[0]


def _as_pixels(picture: Tensor) -> Pixels:
    rounded: Pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return rounded
