"""Layers that multiply in eight bits: how their inputs are rounded, and what that does to weights.

The input of a layer is divided channel by channel by factors that the weights are multiplied by, so
that channels of large numbers do not use up the 256 levels that all share (SmoothQuant, Xiao et al.
2023, arXiv:2211.10438). Then it is rounded to 256 levels of one range. Weights are rounded to 255
levels around zero, each output channel with its own step.

Shapes: I input channels, O output channels, k k of a kernel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from safelight.engines.openvino_attention import AttentionRounding, attends_to_itself
from safelight.engines.openvino_ops import Output, channels_of

LEVELS = 256
# weights rounded at a time: whole layers would leave gaps in memory, gigabytes for SD 1.5
PIECE = 2**18


@dataclass(frozen=True, eq=False)
class Rounding:
    """How one input is rounded, for all layers that it is given to.

    factors: (I,) float32, what each channel is divided by. low, high: the range after that.
    """

    factors: Tensor
    low: float
    high: float

    def apply(self, x: Tensor, axis: int) -> Tensor:
        """The input (..., I, ...), its channels along `axis`, as the layer will see it."""
        shape = [1] * x.ndim
        shape[axis] = -1
        step = (self.high - self.low) / (LEVELS - 1)
        scaled = x / self.factors.reshape(shape)
        return ((scaled.clamp(self.low, self.high) - self.low) / step).round() * step + self.low


def with_zero(factors: Tensor, low: float, high: float) -> Rounding:
    """A rounding of about this range that has zero as one of its levels.

    The runtime moves the levels to where zero is one; if none was, it would round otherwise than
    what was judged, with more than twice the error. low <= 0 < high.
    """
    step = (high - low) / (LEVELS - 1)
    below = round(-low / step)
    return Rounding(factors, -below * step, (LEVELS - 1 - below) * step)


@dataclass(frozen=True, eq=False)
class Scales:
    """The layers and attentions of a network that multiply in eight bits, and their roundings."""

    layers: Mapping[str, Rounding]
    attention: Mapping[str, AttentionRounding] = field(default_factory=dict)


def rounded_weight(weight: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """A weight times the factors of its input as bytes, and the step of each output channel.

    (O, I) or (O, I, k, k), (I,) -> int8 of the same shape, and (O, 1, ...).
    """
    factors = factors.reshape(1, -1, *[1] * (weight.ndim - 2))
    numbers = torch.empty(weight.shape, dtype=torch.int8)
    step = torch.empty(len(weight), *[1] * (weight.ndim - 1))
    rows = max(1, PIECE // max(1, weight[0].numel()))
    for at in range(0, len(weight), rows):
        wide = weight[at : at + rows].float() * factors
        largest = wide.flatten(1).abs().amax(1).reshape(-1, *[1] * (weight.ndim - 1))
        each = (largest / 127).clamp_min(torch.finfo(torch.float32).tiny)
        numbers[at : at + rows] = wide.div_(each).round_().clamp_(-127, 127)
        step[at : at + rows] = each
    return numbers, step


@dataclass(eq=False)
class EightBits:
    """The products of a graph some of whose layers multiply in eight bits (`Products`)."""

    scales: Scales
    _rounded: dict[tuple[str, int], Output] = field(default_factory=dict)

    def of(self, build: Any, layer: str, x: Output, weight: Tensor) -> tuple[Output, Output] | None:
        rounding = self.scales.layers.get(layer)
        if rounding is None or len(rounding.factors) != weight.shape[1]:
            return None
        # Layers that are given the same input, as queries, keys and values are, share its rounding.
        known = (f"{x.get_node().get_name()}:{x.get_index()}", id(rounding))
        if known not in self._rounded:
            self._rounded[known] = _rounded(build, rounding, x, channels_of(x, weight))
        return self._rounded[known], _weight(build, weight, rounding.factors)

    def attention(
        self, build: Any, layer: str, query: Output, key: Output, value: Output
    ) -> Output | None:
        rounding = self.scales.attention.get(layer)
        if rounding is None or not attends_to_itself(layer, query, key):
            return None
        return rounding.built(build, query, key, value)


def _rounded(build: Any, rounding: Rounding, x: Output, axis: int) -> Output:
    shape = [1] * len(x.get_shape())
    shape[axis] = -1
    scaled = build.ops.multiply(x, build.known((1 / rounding.factors).reshape(shape)))
    low, high = build.known(rounding.low), build.known(rounding.high)
    return build.ops.fake_quantize(scaled, low, high, low, high, LEVELS).output(0)


def _weight(build: Any, weight: Tensor, factors: Tensor) -> Output:
    numbers, step = rounded_weight(weight, factors)
    wide = build.ops.convert(build.known(numbers), "f32")
    return build.ops.multiply(wide, build.known(step)).output(0)
