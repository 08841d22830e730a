"""The pictures that the tour begins with: real renderings that training never showed, and masks.

Each is the k-th question that `safelight evaluate` asks of one held-out split (seed 1), as it is
rendered for the ceiling of its scores. Masks are drawn by arithmetic.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from held_out import Pixels, bench
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from safelight.writing import make_folder, write_whole

SEED = 1
Plane = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Pick:
    """A question of a held-out split, by its number."""

    split: str
    number: int


REAL: Mapping[str, Pick] = {
    "koala": Pick("heldout_background", 37),
    "rocket": Pick("heldout_background", 33),
    "whale": Pick("heldout_background", 9),
    "candy-face": Pick("heldout_pairs", 15),
    "apple-pump": Pick("heldout_pairs", 4),
    "kiss": Pick("heldout_combo", 9),
}


def _right_half(x: Plane, y: Plane) -> Plane:
    return (x > 0.52) * 1.0


def _disc(x: Plane, y: Plane) -> Plane:
    return ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.3**2) * 1.0


def _ramp(x: Plane, y: Plane) -> Plane:
    return np.clip((x - 0.1) / 0.8, 0, 1)


MASKS: Mapping[str, Callable[[Plane, Plane], Plane]] = {
    "right-half": _right_half,
    "disc": _disc,
    "ramp": _ramp,
}
HOLED = ("koala", "disc", "koala-hole")  # a picture, the mask that is cut out, and its name


def write_inputs(cutouts: Sequence[Path], folder: Path) -> list[Path]:
    """Write the tour's inputs to a folder; each real picture's file tells its words and its source.

    Raises FileError or CheckpointError if the cut-outs cannot be read.
    """
    desk = bench(cutouts)
    make_folder(folder)
    pictures: dict[str, tuple[Pixels, dict[str, str]]] = {}
    for name, pick in REAL.items():
        (*_, item) = desk.asked([pick.split], pick.number + 1, seed=SEED)
        (pixels,) = desk.real([item])
        entries = [desk.cutouts.entries[layer.cutout] for layer in item.scene.layers]
        sources = "; ".join(dict.fromkeys(f"{e.source}, {e.licence}, {e.credit}" for e in entries))
        words = {"caption": item.scene.caption, "split": pick.split, "source": sources}
        pictures[name] = pixels, words
    for name, shape in MASKS.items():
        pictures[name] = _mask(shape, desk.side), {}
    own, cut, name = HOLED
    opaque = 255 - pictures[cut][0][..., :1]
    pictures[name] = np.concatenate([pictures[own][0], opaque], axis=2), pictures[own][1]
    return [_written(folder / f"{name}.png", *picture) for name, picture in pictures.items()]


def _mask(shape: Callable[[Plane, Plane], Plane], side: int) -> Pixels:
    y, x = (np.indices((side, side)) + 0.5) / side
    levels = (shape(x, y) * 255).round().astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)


def _written(path: Path, pixels: Pixels, words: Mapping[str, str]) -> Path:
    chunks, file = PngInfo(), BytesIO()
    for key, text in words.items():
        chunks.add_text(key, text)
    Image.fromarray(pixels).save(file, "PNG", optimize=True, pnginfo=chunks)
    write_whole(path, file.getvalue())
    return path
