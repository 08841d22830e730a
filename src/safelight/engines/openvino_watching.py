"""What the layers of a network see while it works, and how best to round it to eight bits.

Shapes: I input channels, O output channels, N tokens, h w of a map.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.engines.openvino_attention import SeenAttention, attends_to_itself
from safelight.engines.openvino_eight import Rounding, rounded_weight, with_zero
from safelight.engines.openvino_ops import Output, channels_of

TOKENS = 48  # of a layer's input that are kept of a call
SIDE = 10  # of the piece of a map that is kept of a call
SHARES = (0.0, 0.35, 0.5)  # of a channel's size that moves from the input to the weights
# Of the range seen that levels are given to. What lies beyond the last level does far more harm
# than coarser levels do, and other prompts reach beyond what a few have shown.
MARGIN = 1.3


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that multiplies: its name, and a weight (O, I) or (O, I, k, k)."""

    name: str
    weight: Tensor

    def of(self, x: Tensor, weight: Tensor) -> Tensor:
        """Its product with this weight, where it needs nothing from beyond the edges of x."""
        return F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight)


@dataclass(eq=False)
class Seen:
    """What one input of layers was in all calls. low, high: (I,) of each channel."""

    layers: list[Layer]
    axis: int
    low: Tensor | None = None
    high: Tensor | None = None
    pieces: list[Tensor] = field(default_factory=list)

    RESULTS = 3

    def add(self, results: Sequence[Tensor], *, keep: bool) -> None:
        """Take in what one call told: smallest and largest of each channel, and a piece."""
        low, high, piece = results
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        if keep:
            self.pieces.append(piece.to(torch.bfloat16))


@dataclass(eq=False)
class Watching:
    """Lets a graph tell what its layers see (`Products`), and gathers it.

    wanted: which layers, by name and weight.
    """

    wanted: Callable[[str, Tensor], bool]
    seen: dict[str, Seen] = field(default_factory=dict)
    attentions: dict[str, SeenAttention] = field(default_factory=dict)
    _order: list[Seen | SeenAttention] = field(default_factory=list)

    def of(self, build: Any, layer: str, x: Output, weight: Tensor) -> None:
        """Leaves the layer as it is; its input's ranges and a piece of it become results."""
        if not self.wanted(layer, weight):
            return
        key = f"{x.get_node().get_name()}:{x.get_index()}"
        known = self.seen.get(key)
        if known is None:
            channels = channels_of(x, weight)
            known = self.seen[key] = Seen([], channels)
            self._order.append(known)
            others = [dim for dim in range(len(x.get_shape())) if dim != channels]
            build.also(build.ops.reduce_min(x, build.integers(*others), False).output(0))
            build.also(build.ops.reduce_max(x, build.integers(*others), False).output(0))
            build.also(_piece(build, x, channels))
        known.layers.append(Layer(layer, weight))

    def attention(self, build: Any, layer: str, query: Output, key: Output, value: Output) -> None:
        """The same for attention."""
        if layer not in self.attentions and attends_to_itself(layer, query, key):
            one = self.attentions[layer] = SeenAttention(layer)
            one.watch(build, query, key, value)
            self._order.append(one)

    def gather(self, results: Sequence[Tensor], *, keep: bool) -> None:
        """Take in what one call told."""
        parts = iter(results)
        for one in self._order:
            one.add(list(islice(parts, one.RESULTS)), keep=keep)


def _piece(build: Any, x: Output, channels: int) -> Output:
    """Some tokens, or a square from the middle of a map."""
    shape = list(x.get_shape())
    for axis in range(1, len(shape)):
        if axis == channels:
            continue
        length = shape[axis]
        if channels == 1:
            count = min(SIDE, length)
            places = torch.arange(count) + (length - count) // 2
        else:
            places = torch.linspace(0, length - 1, min(TOKENS, length)).long()
        x = build.ops.gather(x, build.known(places), build.known(torch.tensor(axis))).output(0)
    return x


@dataclass(frozen=True, eq=False)
class Judged:
    """The best rounding found for one input, and what it does to the layers that get it.

    error: the power of what rounding adds to their outputs, as a share of the outputs' own.
    """

    layers: tuple[str, ...]
    rounding: Rounding
    error: float


def judged(seen: Iterable[Seen]) -> list[Judged]:
    """For every input the rounding that changes the outputs of its layers least."""
    return [_best(one) for one in seen]


def _best(seen: Seen) -> Judged:
    assert seen.low is not None and seen.high is not None and seen.pieces
    pieces = torch.cat([piece.float() for piece in seen.pieces])
    exact = [layer.of(pieces, layer.weight.float()) for layer in seen.layers]
    power = sum(float(y.square().sum()) for y in exact)
    found: tuple[float, Rounding] | None = None
    for share in SHARES:
        factors = _factors(seen, share)
        rounding = with_zero(
            factors,
            MARGIN * min(float((seen.low / factors).min()), 0.0),
            MARGIN * max(float((seen.high / factors).max()), 1e-6),
        )
        added = sum(
            float((_rounded_product(layer, pieces, rounding, seen.axis) - y).square().sum())
            for layer, y in zip(seen.layers, exact, strict=True)
        )
        if found is None or added < found[0]:
            found = added, rounding
    assert found is not None
    names = tuple(dict.fromkeys(layer.name for layer in seen.layers))
    return Judged(names, found[1], found[0] / max(power, 1e-30))


def _rounded_product(layer: Layer, x: Tensor, rounding: Rounding, axis: int) -> Tensor:
    numbers, step = rounded_weight(layer.weight, rounding.factors)
    return layer.of(rounding.apply(x, axis), numbers.float() * step)


def _factors(seen: Seen, share: float) -> Tensor:
    """What each channel is divided by: its size ** share / the weights' ** (1 - share); (I,)."""
    assert seen.low is not None and seen.high is not None
    size = torch.maximum(seen.low.abs(), seen.high.abs()).clamp_min(1e-5)
    if not share:
        return torch.ones_like(size)
    weights = torch.stack([_by_input(layer) for layer in seen.layers]).amax(0).clamp_min(1e-5)
    factors = size**share / weights ** (1 - share)
    return factors / factors.log().mean().exp()


def _by_input(layer: Layer) -> Tensor:
    """The largest weight of each input channel: (I,)."""
    others = [dim for dim in range(layer.weight.ndim) if dim != 1]
    return layer.weight.float().abs().amax(others)


def by_name(chosen: Iterable[Judged]) -> Mapping[str, Rounding]:
    """The roundings by the names of layers."""
    return {name: one.rounding for one in chosen for name in one.layers}
