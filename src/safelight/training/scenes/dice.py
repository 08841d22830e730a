"""Random numbers of one scene: cheap to start, the same on every machine and Python."""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")

_BLOCK = struct.Struct("<16I")
_RANGE = 1 << 32


class Dice:
    """Draws that depend on a seed and the number of a scene alone: digests of a counter.

    Starting a generator of the standard library takes longer than drawing a whole scene from these.
    """

    __slots__ = ("_block", "_key", "_left")

    def __init__(self, seed: int, number: int) -> None:
        self._key = struct.pack("<qq", seed, number)
        self._block = 0
        self._left: list[int] = []

    def _next(self) -> int:
        if not self._left:
            key = self._key + self._block.to_bytes(4, "little")
            self._left = list(_BLOCK.unpack(blake2b(key, digest_size=64).digest()))
            self._block += 1
        return self._left.pop()

    def unit(self) -> float:
        """A number in [0, 1)."""
        return self._next() / _RANGE

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._next() / _RANGE

    def below(self, count: int) -> int:
        """A whole number from 0 to count - 1."""
        return self._next() * count >> 32

    def chance(self, share: float) -> bool:
        """True in this share of the draws."""
        return self._next() < share * _RANGE

    def of(self, choices: Sequence[T]) -> T:
        """One of the choices, each as likely."""
        return choices[self._next() * len(choices) >> 32]

    def weighted(self, choices: Sequence[T], sums: Sequence[float]) -> T:
        """One of the choices, as likely as its weight; `sums` are the weights added up."""
        place = bisect_right(sums, self._next() / _RANGE * sums[-1])
        return choices[min(place, len(choices) - 1)]
