"""Hundreds of thousands of scenes with their captions, written by a pool of processes."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from safelight.training.scenes.book import SceneBook
from safelight.training.scenes.packed import PackedScenes, packed_from
from safelight.training.scenes.pages import arrays, open_book, pages, written

CHUNK = 4096  # scenes a process writes at a time
FEW = 4 * CHUNK  # below, starting processes takes longer than the work


@dataclass(frozen=True, eq=False)
class Pages:
    """Scenes [start, start + len) of a book."""

    start: int
    packed: PackedScenes
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def many(book: SceneBook, start: int, count: int, workers: int | None = None) -> Pages:
    """Scenes `start` to `start + count` of a book: the same for any number of workers.

    `workers` processes share the work, as many as there are processors if not given.
    """
    spans = [(at, min(at + CHUNK, start + count)) for at in range(start, start + count, CHUNK)]
    workers = min(workers or os.cpu_count() or 1, max(1, len(spans)))
    if workers == 1 or count <= FEW:
        parts = [written(book, span) for span in spans]
    else:
        # Spawned, not forked: a fork beside torch's threads can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, open_book, (book,)) as pool:
            parts = list(pool.map(pages, spans))
    captions = [caption for _, words in parts for caption in words]
    return Pages(start, packed_from([part for part, _ in parts] or [arrays([])]), captions)
