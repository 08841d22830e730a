"""One Brownian path per picture, as a pure function of the noise level.

SDE samplers take increments of a Brownian motion W that runs in sigma. Here W(sigma) is a
function of the seed and sigma alone, so the same path is walked whatever the steps, their order
and the other pictures of the batch (a virtual Brownian tree: Li et al. 2020, arXiv:2001.01328).

The half line is cut at powers of two: [0, 2^-10), [2^-10, 2^-9), [2^-9, 2^-8), ... Each interval
has its own increment, and is bisected by Brownian bridges until sigma is met or 2^-16 of the
interval is left, which is walked straight. Each normal tensor is the first draw of a generator
of the chosen source with the seed `node_seed(...)`.
"""

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

_LOWEST = -10  # exponent of the first cut; smaller than any level a model can tell from 0
_DEPTH = 16
_REMEMBERED = 4  # levels; a step of a second-order SDE sampler asks for three


def node_seed(seed: int, octave: int, depth: int, index: int) -> int:
    """The seed of one node: the first 63 bits of BLAKE2b of "brownian/seed/octave/depth/index"."""
    text = f"brownian/{seed}/{octave}/{depth}/{index}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class BrownianPath:
    """W(sigma) for one picture. It keeps what it computed; the values don't depend on that."""

    def __init__(self, seed: int, draw: Callable[[int], Tensor]) -> None:
        """`draw` gives the first standard normal tensor of a generator with the given seed."""
        self._seed = seed
        self._draw = draw
        self._edges: list[Tensor] = []
        self._recent: dict[float, Tensor] = {}

    def __call__(self, sigma: float) -> Tensor:
        """W(sigma), float64, of variance sigma; W(0) = 0."""
        if sigma not in self._recent:
            if len(self._recent) == _REMEMBERED:
                del self._recent[next(iter(self._recent))]
            self._recent[sigma] = self._at(sigma)
        return self._recent[sigma]

    def increment(self, start: float, end: float) -> Tensor:
        """(W(end) - W(start)) / sqrt(|end - start|): unit variance, float32; 0 if they agree."""
        difference = self(end) - self(start)
        length = abs(end - start)
        return (difference / math.sqrt(length) if length else difference).float()

    def _at(self, sigma: float) -> Tensor:
        octave = max(math.frexp(sigma)[1] - 1, _LOWEST - 1) if sigma else _LOWEST - 1
        low = 0.0 if octave < _LOWEST else 2.0**octave
        width = 2.0 ** max(octave, _LOWEST)
        value = self._edge(octave)
        part = (sigma - low) / width
        if part == 0:
            return value
        rise = self._edge(octave + 1) - value
        index = 0
        for depth in range(1, _DEPTH + 1):
            bridge = math.sqrt(width) / 2 * self._normal(octave, depth, index)
            width /= 2
            part *= 2
            left = rise / 2 + bridge
            right_half = part >= 1
            if right_half:
                value = value + left
            rise = rise - left if right_half else left
            part -= right_half
            index = 2 * index + right_half
            if part == 0:
                return value
        return value + part * rise

    def _edge(self, octave: int) -> Tensor:
        """W at the lower end of an octave."""
        if not self._edges:
            self._edges.append(torch.zeros_like(self._normal(_LOWEST - 1, 0, 0)))
        while len(self._edges) <= octave - (_LOWEST - 1):
            below = _LOWEST - 2 + len(self._edges)
            width = 2.0 ** max(below, _LOWEST)
            step = math.sqrt(width) * self._normal(below, 0, 0)
            self._edges.append(self._edges[-1] + step)
        return self._edges[octave - (_LOWEST - 1)]

    def _normal(self, octave: int, depth: int, index: int) -> Tensor:
        return self._draw(node_seed(self._seed, octave, depth, index)).double()
