"""Aspect buckets: every picture goes to the size nearest to its own shape, and none is dropped.

A batch holds pictures of one bucket, so its tensor has one shape; all ranks take rows of the same
batch, so they have the same shape at every step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import log

import numpy as np
import torch
from numpy.typing import NDArray

from safelight.errors import RequestError
from safelight.printable import shown
from safelight.training.draw import stream

Size = tuple[int, int]  # (width, height)


@dataclass(frozen=True, slots=True)
class Rule:
    """Which sizes there are.

    size: side of the square one, in pixels; no bucket has more pixels than size**2.
    multiple: of which every side is a multiple: 8 for most autoencoders, 64 for speed.
    max_aspect: the longer side over the shorter, at most.
    upscale: whether smaller pictures are enlarged; if not, their bucket is their own size, rounded
        down.

    Raises RequestError for values that allow no bucket.
    """

    size: int
    multiple: int = 8
    max_aspect: float = 2.0
    upscale: bool = True

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise RequestError(f"the bucket multiple must be 1 or more; got {self.multiple}")
        if self.size < self.multiple or self.size % self.multiple:
            near = max(self.multiple, self.size // self.multiple * self.multiple)
            raise RequestError(
                f"the size must be a multiple of {self.multiple}; got {self.size}. "
                f"The nearest are {near} and {near + self.multiple}"
            )
        if not 1.0 <= self.max_aspect <= 16.0:
            raise RequestError(f"the largest aspect must be from 1 to 16; got {self.max_aspect:g}")

    def buckets(self) -> tuple[Size, ...]:
        """All sizes, from the tallest to the widest."""
        found = {(self.size, self.size)}
        for short in range(self.multiple, self.size + 1, self.multiple):
            long = self.size**2 // short // self.multiple * self.multiple
            if long / short <= self.max_aspect:
                found |= {(short, long), (long, short)}
        return tuple(sorted(found, key=lambda s: (s[0] / s[1], s)))


@dataclass(frozen=True, slots=True)
class Placement:
    """How a picture fills its bucket: resized to cover it, then cropped. Sizes are (w, h)."""

    original: Size
    resized: Size
    bucket: Size

    @property
    def upscaled(self) -> float:
        """How much it is enlarged; below 1 it is made smaller."""
        return max(self.resized[i] / self.original[i] for i in (0, 1))

    @property
    def lost(self) -> float:
        """The share of the picture outside the crop."""
        return 1 - self.bucket[0] * self.bucket[1] / (self.resized[0] * self.resized[1])

    def corner(self, across: float = 0.5, down: float = 0.5) -> Size:
        """Left and top of the crop for two numbers in [0, 1); 0.5 is the middle."""
        slack = [self.resized[i] - self.bucket[i] for i in (0, 1)]
        return tuple(min(s, int(u * (s + 1))) for s, u in zip(slack, (across, down), strict=True))  # type: ignore[return-value]

    def sizes(self, corner: Size) -> tuple[int, int, int, int, int, int]:
        """What SDXL's vector says, in its order: original height and width, crop's top and left,
        target height and width (Podell et al. 2023, arXiv:2307.01952)."""
        return (
            *(self.original[1], self.original[0]),
            *(corner[1], corner[0]),
            *(self.bucket[1], self.bucket[0]),
        )


def place(original: Size, rule: Rule) -> Placement:
    """The bucket nearest in shape to a picture of this size, and the way into it.

    Nearest is by the logarithm of width over height, so wide and tall count alike; of two, the
    one with more pixels.
    """
    placement = covering(original, _nearest(original[0] / original[1], rule))
    if placement.upscaled > 1 and not rule.upscale and min(original) >= rule.multiple:
        return Placement(original, original, _own_size(original, rule))
    return placement


def covering(original: Size, bucket: Size) -> Placement:
    """The smallest size of a picture that covers a bucket."""
    width, height = original
    scale = max(bucket[0] / width, bucket[1] / height)
    resized = (max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale)))
    return Placement(original, resized, bucket)


def _own_size(original: Size, rule: Rule) -> Size:
    """The size of a small picture itself, in whole multiples and within the largest aspect."""
    width, height = (side // rule.multiple * rule.multiple for side in original)
    longest = int(min(width, height) * rule.max_aspect) // rule.multiple * rule.multiple
    return min(width, longest), min(height, longest)


@lru_cache(maxsize=65536)
def _nearest(aspect: float, rule: Rule) -> Size:
    known = _buckets(rule)
    return min(known, key=lambda b: (round(abs(log(aspect) - log(b[0] / b[1])), 9), -b[0] * b[1]))


@lru_cache(maxsize=64)
def _buckets(rule: Rule) -> tuple[Size, ...]:
    return rule.buckets()


def warnings(ids: Sequence[str], places: Sequence[Placement], rule: Rule) -> tuple[str, ...]:
    """What a person should know of the fit: pictures enlarged, or far from every bucket's shape."""
    enlarged = [i for i, p in zip(ids, places, strict=True) if p.upscaled > 1.0]
    extreme = [
        i
        for i, p in zip(ids, places, strict=True)
        if max(p.original) / min(p.original) > rule.max_aspect and p.lost > 0.05
    ]
    told = []
    if enlarged:
        told.append(f"{len(enlarged)} of {len(ids)} pictures are enlarged: {_named(enlarged)}")
    if extreme:
        told.append(
            f"{len(extreme)} of {len(ids)} pictures are longer than {rule.max_aspect:g} to 1 and "
            f"lose their ends: {_named(extreme)}"
        )
    return tuple(told)


def _named(ids: Sequence[str], count: int = 5) -> str:
    return ", ".join(shown(i, 80) for i in ids[:count]) + (", ..." if len(ids) > count else "")


@dataclass(frozen=True, eq=False)
class BucketOrder:
    """Which examples each step sees: a whole batch of one bucket, a function of seed and step.

    Each bucket is an endless row of its examples, shuffled anew at every round and cut into
    batches. An epoch holds the batches that complete a round of every bucket, in shuffled order.
    So after n epochs every example was seen n times, and those that filled up the last batch of
    their bucket once more, which the next epoch then leaves out: none is ever dropped, and none
    gets more than its share. A weight of 2 stands twice in every round, one of 0.5 in every other.

    batch: pictures in a step, over all ranks and micro-batches; ranks take rows of it.
    """

    buckets: Sequence[Size]  # of each example
    batch: int
    seed: int
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise RequestError(f"the batch size must be 1 or more; got {self.batch}")
        if not len(self.buckets):
            raise RequestError("there is nothing to train on: no pictures")
        if self.weights is not None and not any(weight > 0 for weight in self.weights):
            raise RequestError("every example has weight 0; at least one must be larger")

    def indices(self, step: int) -> list[int]:
        """The examples of a step (from 0), `batch` of them, all of one bucket."""
        epoch = self.epoch(step)
        bucket, number = self._remembered_batches(epoch)[step - self._steps(epoch)]
        first = number * self.batch
        return [self._at(bucket, place) for place in range(first, first + self.batch)]

    def bucket(self, step: int) -> Size:
        """The size of a step's pictures."""
        return self.buckets[self.indices(step)[0]]

    def epoch(self, step: int) -> int:
        """The epoch, from 0, in which a step falls."""
        low, high = 0, 1
        while self._steps(high) <= step:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._steps(middle) <= step else (low, middle)
        return low

    def steps(self, epoch: int) -> int:
        """How many steps an epoch has; it varies by the batches that rounds share."""
        return self._steps(epoch + 1) - self._steps(epoch)

    def notes(self, ids: Sequence[str]) -> tuple[str, ...]:
        """What a person should know: buckets smaller than a batch, with the names of theirs."""
        small = [members for members in self._members if len(members) < self.batch]
        sizes = [self.buckets[members[0]] for members in small]
        return tuple(
            f"the bucket {size[0]}x{size[1]} has fewer pictures ({len(members)}) than a batch "
            f"({self.batch}), so each stands several times in its batch: "
            f"{_named([ids[i] for i in members])}"
            for size, members in zip(sizes, small, strict=True)
        )

    def filled(self, epochs: int = 1) -> int:
        """How many pictures of the first `epochs` were taken from the round after them."""
        return self._steps(epochs) * self.batch - sum(
            self._count(b, epochs) for b in range(len(self._members))
        )

    @cached_property
    def _remembered_batches(self) -> Callable[[int], list[tuple[int, int]]]:
        return lru_cache(maxsize=4)(self._batches)

    @cached_property
    def _remembered_round(self) -> Callable[[int, int], NDArray[np.int64]]:
        return lru_cache(maxsize=1024)(self._round)

    @cached_property
    def _remembered_count(self) -> Callable[[int, int], int]:
        return lru_cache(maxsize=4096)(self._count)

    @cached_property
    def _members(self) -> list[NDArray[np.int64]]:
        groups: dict[Size, list[int]] = {}
        for index, bucket in enumerate(self.buckets):
            if self.weights is None or self.weights[index] > 0:
                groups.setdefault(bucket, []).append(index)
        return [np.array(groups[bucket]) for bucket in sorted(groups)]

    @cached_property
    def _shares(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]] | None]:
        """Weight and phase of each member of each bucket; None where every weight is 1.

        The phase spreads rare examples over the rounds: member i stands in round n as often as
        a whole number lies in (w * n + phase, w * (n + 1) + phase].
        """
        if self.weights is None or all(weight == 1 for weight in self.weights):
            return [None] * len(self._members)
        weights = np.asarray(self.weights, np.float64)
        phases = torch.rand(
            len(weights), generator=stream(self.seed, "phases"), dtype=torch.float64
        ).numpy()
        return [(weights[members], phases[members]) for members in self._members]

    def _count(self, bucket: int, rounds: int) -> int:
        """How many pictures the first rounds of a bucket have together."""
        share = self._shares[bucket]
        if share is None:
            return rounds * len(self._members[bucket])
        weights, phases = share
        return int(np.floor(weights * rounds + phases).sum())

    def _steps(self, epochs: int) -> int:
        """How many steps the first epochs have together."""
        return sum(
            -(-self._remembered_count(b, epochs) // self.batch) for b in range(len(self._members))
        )

    def _batches(self, epoch: int) -> list[tuple[int, int]]:
        """(bucket, number of its batch) of every step of an epoch."""
        found = [
            (bucket, number)
            for bucket in range(len(self._members))
            for number in range(
                -(-self._remembered_count(bucket, epoch) // self.batch),
                -(-self._remembered_count(bucket, epoch + 1) // self.batch),
            )
        ]
        order = torch.randperm(len(found), generator=stream(self.seed, "batches", epoch))
        return [found[i] for i in order.tolist()]

    def _at(self, bucket: int, place: int) -> int:
        """The example at a place of a bucket's endless row."""
        count = self._remembered_count
        low, high = 0, 1
        while count(bucket, high) <= place:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if count(bucket, middle) <= place else (low, middle)
        return int(self._remembered_round(bucket, low)[place - count(bucket, low)])

    def _round(self, bucket: int, number: int) -> NDArray[np.int64]:
        members, share = self._members[bucket], self._shares[bucket]
        if share is not None:
            weights, phases = share
            times = np.floor(weights * (number + 1) + phases) - np.floor(weights * number + phases)
            members = np.repeat(members, times.astype(np.int64))
        order = torch.randperm(
            len(members), generator=stream(self.seed, "round", bucket, number)
        ).numpy()
        found: NDArray[np.int64] = members[order]
        return found
