"""Which examples make up the batch of a step: a pure function of the seed and the step."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch

from safelight.errors import RequestError
from safelight.training.draw import stream


class Order(Protocol):
    """The examples of every step, over all ranks and micro-batches.

    Nothing is stored between calls that changes an answer, so a run resumes at any step, and every
    rank can ask for the whole batch and take its own rows.
    """

    def indices(self, step: int) -> Sequence[int]:
        """The numbers of the examples of a step (0 is the first), in the order of the rows."""
        ...

    def epoch(self, step: int) -> int:
        """How many times all examples had been seen before the first row of this step."""
        ...


class Flat:
    """Shuffled passes over `count` examples, `batch_size` of them a step.

    Each pass is a permutation of its own. No example is left out: a batch that reaches the end of a
    pass goes on into the next one, so every batch is full.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        if count < 1:
            raise RequestError("the data set is empty; give it at least one example")
        if batch_size < 1:
            raise RequestError(f"batch_size must be 1 or more; got {batch_size}")
        self._count, self._batch_size = count, batch_size
        # a batch touches one pass, seldom two; a tiny set makes a batch touch many
        self._pass = lru_cache(maxsize=4)(lambda epoch: _permutation(count, seed, epoch))

    def indices(self, step: int) -> list[int]:
        first = step * self._batch_size
        last = first + self._batch_size
        found: list[int] = []
        while first < last:
            epoch, start = divmod(first, self._count)
            end = min(self._count, start + last - first)
            found += self._pass(epoch)[start:end].tolist()
            first += end - start
        return found

    def epoch(self, step: int) -> int:
        return step * self._batch_size // self._count


def _permutation(count: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(count, generator=stream(seed, "order", epoch))
