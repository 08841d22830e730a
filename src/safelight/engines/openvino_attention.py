"""Attention whose two products are of eight bits: how it is rounded, seen and judged.

Queries, keys and values are rounded to 255 levels around zero, and the weights of the keys, which
the softmax gives, to 256 levels from zero to the largest that was seen. Where a few keys get almost
all of the weight and others share the rest evenly, that rest is rounded away; `judged` finds out.

Shapes: B batch, H heads, N query tokens, M key tokens, d width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from safelight.engines.openvino_ops import Output

LEVELS = 256
TOKENS = 48  # queries that are looked at
FEWEST = 256  # tokens; with fewer there is nothing to gain
MARGIN = 1.3  # of the largest query, key and value seen, that levels are given to
ROOM = 2.0  # the same of weights, which grow exponentially with what they are made of


def attends_to_itself(layer: str, query: Output, key: Output) -> bool:
    """Whether this is attention of many tokens to each other: the only one that is rounded."""
    tokens = query.get_shape()[2]
    return layer.endswith("attn1") and tokens == key.get_shape()[2] and tokens >= FEWEST


@dataclass(frozen=True)
class AttentionRounding:
    """The largest query, key, value and weight of a key that have levels of their own."""

    query: float
    key: float
    value: float
    weight: float

    def attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What becomes of (B, H, N, d), (B, H, M, d), (B, H, M, d): (B, H, N, d)."""
        q, k, v = (
            _around_zero(x, reach)
            for x, reach in ((query, self.query), (key, self.key), (value, self.value))
        )
        weights = torch.softmax(q @ k.mT / query.shape[-1] ** 0.5, -1)
        step = self.weight / (LEVELS - 1)
        return ((weights / step).round().clamp(0, LEVELS - 1) * step) @ v

    def built(self, build: Any, query: Output, key: Output, value: Output) -> Output:
        """The same as a graph."""
        ops, width = build.ops, query.get_shape()[-1]

        def rounded(x: Output, low: float, high: float) -> Output:
            ends = build.known(low), build.known(high)
            return ops.fake_quantize(x, *ends, *ends, LEVELS).output(0)

        q, k, v = (
            rounded(x, -reach * 128 / 127, reach)
            for x, reach in ((query, self.query), (key, self.key), (value, self.value))
        )
        scores = ops.multiply(ops.matmul(q, k, False, True), build.known(width**-0.5))
        weights = rounded(ops.softmax(scores, -1).output(0), 0.0, self.weight)
        return ops.matmul(weights, v, False, False).output(0)


def _around_zero(x: Tensor, reach: float) -> Tensor:
    step = reach / 127
    return (x / step).round().clamp(-128, 127) * step


@dataclass(eq=False)
class SeenAttention:
    """What one attention was given in all calls: the largest numbers, and pieces of calls."""

    layer: str
    largest: Tensor = field(default_factory=lambda: torch.zeros(4))  # q, k, v, weight
    pieces: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    RESULTS = 7

    def watch(self, build: Any, query: Output, key: Output, value: Output) -> None:
        """Let the graph tell: four largest numbers, and some queries, keys and values."""
        ops = build.ops
        tokens, heads = query.get_shape()[2], query.get_shape()[1]
        some = torch.linspace(0, tokens - 1, min(TOKENS, tokens)).long()
        asked = ops.gather(query, build.known(some), build.known(torch.tensor(2)))
        width = build.known(query.get_shape()[-1] ** -0.5)
        weights = ops.softmax(ops.multiply(ops.matmul(asked, key, False, True), width), -1)
        axes = build.integers(0, 1, 2, 3)
        for x in (ops.abs(query), ops.abs(key), ops.abs(value), weights):
            build.also(ops.reduce_max(x, axes, False).output(0))
        two = build.known(torch.tensor(sorted({0, heads // 2})))
        for x in (asked, key, value):
            build.also(ops.gather(x, two, build.known(torch.tensor(1))).output(0))

    def add(self, results: Sequence[Tensor], *, keep: bool) -> None:
        """Take in what one call told."""
        self.largest = torch.maximum(self.largest, torch.stack(list(results[:4])))
        if keep:
            query, key, value = (x.to(torch.bfloat16) for x in results[4:])
            self.pieces.append((query, key, value))

    def judged(self) -> tuple[AttentionRounding, float]:
        """How it is best rounded, and the power of what that adds, as a share of the output's."""
        query, key, value, weight = self.largest.clamp_min(1e-6).tolist()
        rounding = AttentionRounding(
            MARGIN * query, MARGIN * key, MARGIN * value, min(1.0, ROOM * weight)
        )
        added = power = 0.0
        for piece in self.pieces:
            q, k, v = (x.float() for x in piece)
            exact = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v
            added += float((rounding.attended(q, k, v) - exact).square().sum())
            power += float(exact.square().sum())
        return rounding, added / max(power, 1e-30)
