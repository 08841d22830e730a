"""The batch of a step in pieces: this process's rows, in micro-batches, each with its draw."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import torch

from safelight.training.distributed import Group
from safelight.training.draw import Draw
from safelight.training.order import Order
from safelight.training.settings import Settings
from safelight.training.task import Data

B = TypeVar("B")


class Piece(NamedTuple, Generic[B]):
    """One micro-batch: its examples, its random numbers and its share of the step's rows."""

    batch: B
    draw: Draw
    share: float


def pieces(
    data: Data[B], order: Order, step: int, settings: Settings, group: Group, device: torch.device
) -> Iterator[Piece[B]]:
    """The micro-batches of this process in a step, each loaded when its turn comes."""
    indices = order.indices(step)
    total = len(indices)
    start, count = group.rows(total)
    size = settings.micro_batch or count
    for first in range(start, start + count, size):
        rows = min(size, start + count - first)
        draw = Draw(settings.seed, step, total, first, rows, device)
        yield Piece(data.batch(indices[first : first + rows], draw), draw, rows / total)


Load = Callable[[int], Iterator[Piece[B]]]


@contextmanager
def ahead(load: Load[B], last: int, device: torch.device) -> Iterator[Load[B]]:
    """A `load` whose next step is loaded in a thread while this one is learned from.

    All micro-batches of a step are in memory at once then. Steps are asked for one after another;
    none from `last` on is loaded.
    """

    def begin() -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)

    pool = ThreadPoolExecutor(1, "batches", initializer=begin)
    coming: dict[int, Future[list[Piece[B]]]] = {}

    def ask(step: int) -> Future[list[Piece[B]]]:
        return coming.pop(step, None) or pool.submit(lambda: list(load(step)))

    def taken(step: int) -> Iterator[Piece[B]]:
        found = ask(step).result()
        for passed in [other for other in coming if other < step]:
            del coming[passed]  # left by a look back at an earlier step
        if step + 1 < last:
            coming[step + 1] = ask(step + 1)
        return iter(found)

    try:
        yield taken
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
