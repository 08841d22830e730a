"""What the processes of a pool do: write scenes as plain arrays and captions. Needs no torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from safelight.training.scenes.book import SceneBook
from safelight.training.scenes.colours import RECOLOUR_NAMES
from safelight.training.scenes.scene import KINDS, LAYERS, Scene

Arrays = tuple[
    NDArray[np.int32],
    NDArray[np.float32],
    NDArray[np.int8],
    NDArray[np.uint8],
    NDArray[np.int8],
]


def arrays(scenes: Sequence[Scene]) -> Arrays:
    """The fields of PackedScenes as arrays, which cross between processes cheaply."""
    empty = (-1, 0.5, 0.5, 0.5, -1)
    cutouts, spots, recolours = [], [], []
    for scene in scenes:
        rows = [
            (
                layer.cutout,
                layer.size,
                layer.x,
                layer.y,
                -1 if layer.recolour is None else RECOLOUR_NAMES.index(layer.recolour),
            )
            for layer in scene.layers
        ]
        for cutout, size, x, y, recolour in [*rows, *[empty] * (LAYERS - len(rows))]:
            cutouts.append(cutout)
            spots.append((size, x, y))
            recolours.append(recolour)
    count = len(scenes)
    return (
        np.array(cutouts, np.int32).reshape(count, LAYERS),
        np.array(spots, np.float32).reshape(count, LAYERS, 3),
        np.array(recolours, np.int8).reshape(count, LAYERS),
        np.array([scene.background for scene in scenes], np.uint8).reshape(count, 3),
        np.array([KINDS.index(scene.kind) for scene in scenes], np.int8),
    )


_BOOKS: list[SceneBook] = []  # the one book of a process of the pool


def open_book(book: SceneBook) -> None:
    """Keep a book for the pages that this process is asked for."""
    _BOOKS[:] = [book]


def pages(span: tuple[int, int]) -> tuple[Arrays, list[str]]:
    """Scenes [start, stop) of the opened book, with their captions."""
    return written(_BOOKS[0], span)


def written(book: SceneBook, span: tuple[int, int]) -> tuple[Arrays, list[str]]:
    """Scenes [start, stop) of a book, with their captions."""
    scenes = book.scenes(range(*span))
    return arrays(scenes), [scene.caption for scene in scenes]
