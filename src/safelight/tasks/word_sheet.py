"""Where each word acted in a picture, as one picture: the picture, and a heat map for each word.

Shapes: H W pixels of the picture, h w of a heat map.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safelight.canvas.region import Region
from safelight.errors import RequestError
from safelight.tasks.sheet import GAP, MAX_SIDE, PAPER, sheet
from safelight.text.word_maps import WordMap

Pixels = NDArray[np.uint8]

COLUMNS = 4
LABEL = 60  # pixels that the label above a tile may take
# Cold to hot, at even steps; each brighter than the one before, so that it reads without colour.
_RAMP = np.array(
    [(20, 12, 60), (92, 24, 110), (178, 48, 92), (236, 104, 44), (250, 190, 60), (254, 250, 200)],
    dtype=np.float32,
)
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SEEN_THROUGH = 0.35  # how much of the picture remains under the hottest place


def word_sheet(
    pixels: Pixels,
    maps: Sequence[WordMap],
    *,
    title: str = "",
    columns: int = COLUMNS,
    region: Region | None = None,
) -> Pixels:
    """The picture (H, W, 3), and one tile for each word with its share, labelled.

    Heat runs in each tile from the word's least to its most attended place: where it acted shows
    in the tile, how much in its share. region: the part of the picture that the maps lie over; None
    is the whole of it. A sheet of many words has smaller tiles, to stay within `MAX_SIDE`.
    Raises RequestError without words.
    """
    if not maps:
        raise RequestError("the prompt has no words to draw maps of; write a prompt")
    lines = -(-(len(maps) + 1) // columns)
    most = (MAX_SIDE // columns - GAP, MAX_SIDE // lines - LABEL)
    scale = min(1.0, most[0] / pixels.shape[1], most[1] / pixels.shape[0])
    pixels, region = _scaled(pixels, region, scale)
    tiles = [Image.fromarray(pixels)]
    tiles += [Image.fromarray(heated(pixels, word.heat, region)) for word in maps]
    labels = ["picture", *(f"{word.word}  {word.share:.1%}" for word in maps)]
    pages = []
    for start in range(0, len(tiles), columns):
        cells: list[Image.Image | None] = list(tiles[start : start + columns])
        said = labels[start : start + columns]
        if start:  # as wide as the first row
            said = said + [""] * (columns - len(said))
            cells = cells + [None] * (columns - len(cells))
        page, _ = sheet([cells], column_labels=said, title="" if start else title)
        pages.append(page)
    whole = Image.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), PAPER)
    top = 0
    for page in pages:
        whole.paste(page, (0, top))
        top += page.height
    return np.asarray(whole).copy()


def heated(pixels: Pixels, heat: NDArray[np.float32], region: Region | None = None) -> Pixels:
    """The picture (H, W, 3) in grey under the colours of a heat map (h, w).

    Outside of `region`, over which the map lies, it is grey alone.
    """
    if region is not None:
        grey = pixels[..., :3].astype(np.float32) @ _GREY
        whole = np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)
        whole[region.slices] = heated(region.of(pixels), heat)
        return whole
    height, width = pixels.shape[:2]
    low, high = float(heat.min()), float(heat.max())
    even = high - low <= 1e-6 * high  # the same everywhere: cold
    level = np.zeros_like(heat) if even else (heat - low) / (high - low)
    resized = Image.fromarray(level.astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    warm = np.asarray(resized, dtype=np.float32).clip(0, 1)[..., None]  # (H, W, 1)
    grey = (pixels[..., :3].astype(np.float32) @ _GREY)[..., None]
    share = (1 - _SEEN_THROUGH) * (0.35 + 0.65 * warm)  # even cold places are tinted a little
    mixed = grey * (1 - share) + _coloured(warm[..., 0]) * share
    return np.rint(mixed).astype(np.uint8)


def _scaled(pixels: Pixels, region: Region | None, scale: float) -> tuple[Pixels, Region | None]:
    """The picture made smaller, and the same part of it, of at least a pixel."""
    if scale == 1:
        return pixels, region
    height, width = (max(1, int(side * scale)) for side in pixels.shape[:2])
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    if region is not None:
        left, top = int(region.left * scale), int(region.top * scale)
        right = min(max(left + 1, round(region.right * scale)), width)
        bottom = min(max(top + 1, round(region.bottom * scale)), height)
        region = Region(min(left, width - 1), min(top, height - 1), right, bottom)
    return np.asarray(image).copy(), region


def _coloured(level: NDArray[np.float32]) -> NDArray[np.float32]:
    """Levels in 0..1 as colours of the ramp: (H, W) -> (H, W, 3)."""
    at = level * (len(_RAMP) - 1)
    below = np.minimum(at.astype(np.int64), len(_RAMP) - 2)
    part = (at - below)[..., None]
    colours: NDArray[np.float32] = _RAMP[below] * (1 - part) + _RAMP[below + 1] * part
    return colours
