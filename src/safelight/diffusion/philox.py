"""CUDA's normal numbers, computed on the CPU: Philox 4x32-10 and the Box-Muller transform.

The numbers of `torch.randn(..., device="cuda")` for tensors that its kernel fills in one go.
Philox: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_SHIFT = np.uint64(32)


class PhiloxGenerator:
    """A stream of normal tensors: the n-th draw is a pure function of the seed, n and the shape."""

    def __init__(self, seed: int) -> None:
        self.seed = seed % 2**64
        self.draws = 0

    def randn(self, shape: Sequence[int]) -> Tensor:
        """The next draw, float32 on the CPU."""
        count = math.prod(shape)
        counter = np.zeros((4, count), dtype=np.uint64)
        counter[0] = self.draws
        counter[2] = np.arange(count, dtype=np.uint64)
        self.draws += 1
        words = philox(counter, (self.seed & _WORD, self.seed >> 32))
        return torch.from_numpy(_box_muller(words[0], words[1])).reshape(tuple(shape))


def philox(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Philox 4x32-10 of counters (4, n) under one key; words of 32 bits held in 64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (product1 >> _SHIFT) ^ c1 ^ np.uint64(k0)
        c1 = product1 & np.uint64(_WORD)
        c2 = (product0 >> _SHIFT) ^ c3 ^ np.uint64(k1)
        c3 = product0 & np.uint64(_WORD)
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return np.stack([c0, c1, c2, c3])


def _box_muller(x: NDArray[np.uint64], y: NDArray[np.uint64]) -> NDArray[np.float32]:
    # In float64: the same bits on every CPU, and within the device's own rounding (5e-7).
    # The transform's other value, the cosine, is what torch leaves unused.
    radius = np.sqrt(-2 * np.log((x + 0.5) / 2.0**32))
    angle = (y + 0.5) * (2 * math.pi / 2.0**32)
    normal: NDArray[np.float32] = (radius * np.sin(angle)).astype(np.float32)
    return normal
