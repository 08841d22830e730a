"""A weight that is kept as bytes (`NarrowWeight`).

Shapes: n output channels, the first dimension of a weight; in features, C channels, k k a kernel.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from safelight.engines.narrow_weight import NarrowWeight, steps
from safelight.models.cpu_convolution import convolution
from safelight.models.cpu_product import linear, recorded

LARGEST = 127
LEVELS = 253  # of an input; with 2 to spare, rounding cannot leave the range of a byte


class Int8Weight(NarrowWeight):
    """weight[o] = scale[o] * numbers[o], each number -127 ... 127.

    Its layer computes in one of two ways. As a rule a product or a convolution multiplies by the
    numbers, which the layer's type holds exactly, and scales the result: nothing is rounded but the
    weight itself, once. If `dynamic`, the input is brought to bytes, too, each time anew by its own
    range, and multiplied by the processor's integer instructions: twice as fast, and less exact.
    """

    dynamic: bool

    @staticmethod
    def __new__(
        cls,
        numbers: Tensor,
        scale: Tensor,
        dtype: torch.dtype,
        shape: torch.Size | None = None,
        *,
        dynamic: bool = False,
    ) -> Self:
        made = NarrowWeight.__new__(cls, numbers, scale, dtype, shape)
        made.dynamic = dynamic
        return made

    @property
    def numbers(self) -> Tensor:
        """(n, ...) int8."""
        with torch._C.DisableTorchFunctionSubclass():
            stored, matrix = self._stored, self.dim() == 2
        if not stored.is_mkldnn:
            return stored
        dense = stored.to_dense()
        return dense.t().contiguous() if matrix else dense.contiguous()

    def another(self, dtype: torch.dtype, *, dynamic: bool | None = None) -> "Int8Weight":
        """The same bytes for a layer that computes in this type, in this way."""
        with torch._C.DisableTorchFunctionSubclass():
            shape = self.shape
        wanted = self.dynamic if dynamic is None else dynamic
        return Int8Weight(self._stored, self.scale, dtype, shape, dynamic=wanted)

    def moved(self, device: torch.device | None, dtype: torch.dtype) -> "Int8Weight":
        plain = super().moved(device, dtype)
        plain.dynamic = self.dynamic
        return plain

    def packed(self, pack: Callable[[Tensor], Tensor]) -> Tensor:
        """What oneDNN makes of the numbers when they are first used; they go, this stays."""
        if not self._stored.is_mkldnn:
            self._stored = pack(self._stored.contiguous())
        return self._stored

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return (_linear_by_bytes if _may_round(x, self) else _linear)(x, self, bias)

    def conv2d(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] = (0, 0),
    ) -> Tensor:
        by = _conv2d_by_bytes if _may_round(x, self) else _conv2d
        return by(x, self, bias, stride, padding)

    def __tensor_flatten__(self) -> tuple[list[str], tuple[torch.dtype, bool]]:
        return ["numbers", "scale"], (self.dtype, self.dynamic)

    @staticmethod
    def __tensor_unflatten__(
        parts: Mapping[str, Tensor], how: tuple[torch.dtype, bool], size: object, stride: object
    ) -> "Int8Weight":
        return Int8Weight(parts["numbers"], parts["scale"], how[0], dynamic=how[1])


def as_int8(weight: Tensor, dtype: torch.dtype, *, dynamic: bool = False) -> Int8Weight:
    """The weight as bytes, to the nearest step of its channel: no number is off by more than half.

    A channel's step is its largest absolute value / 127. The same weight gives the same bytes.
    """
    flat = weight.detach().float().flatten(1)
    scale = steps(flat, LARGEST)
    numbers = (flat / scale[:, None]).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
    return Int8Weight(numbers.reshape(weight.shape), scale, dtype, dynamic=dynamic)


class Bytes(NamedTuple):
    """An input as bytes: x is about (numbers - zero) * step."""

    numbers: Tensor  # uint8
    step: float
    zero: int


def as_bytes(x: Tensor) -> Bytes:
    """An input as bytes, evenly from its least to its largest value; 0 is met exactly.

    NaN and infinity make the step NaN, and with it every result.
    """
    least, largest = (float(bound) for bound in torch.aminmax(x))
    low, high = min(least, 0.0), max(largest, 0.0)
    if not math.isfinite(least + largest) or not math.isfinite(high - low):
        return Bytes(torch.zeros_like(x, dtype=torch.uint8), math.nan, 0)
    inverse = _held(LEVELS / (high - low), x.dtype) if high > low else 1.0
    zero = round(-low * inverse) + 1
    base = torch.tensor(float(zero), dtype=x.dtype)
    # One pass that rounds once; in bfloat16 this alone brings the upper half to whole numbers.
    numbers = torch.add(base, x, alpha=inverse).round_().to(torch.uint8)
    return Bytes(numbers, 1.0 / inverse, zero)


def _held(factor: float, dtype: torch.dtype) -> float:
    """The largest number that the type holds and that is not above the factor.

    torch rounds a factor to the type of what it multiplies: rounded up, it could leave the range.
    """
    nearest = torch.tensor(min(factor, torch.finfo(dtype).max), dtype=dtype)
    if float(nearest) > factor:
        nearest = torch.nextafter(nearest, torch.zeros_like(nearest))
    return float(nearest)


def _may_round(x: Tensor, weight: Int8Weight) -> bool:
    """Whether the input may be brought to bytes: a gradient would not pass."""
    return weight.dynamic and not recorded(x)


def _linear(x: Tensor, weight: Int8Weight, bias: Tensor | None = None) -> Tensor:
    y = linear(x, weight.numbers.to(x.dtype))
    return _scaled(y, weight.scale.to(y.dtype), bias)


def _conv2d(
    x: Tensor,
    weight: Int8Weight,
    bias: Tensor | None = None,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
) -> Tensor:
    y = convolution(x, weight.numbers.to(x.dtype), None, stride, padding)
    scale = weight.scale.to(y.dtype)[:, None, None]
    return _scaled(y, scale, None if bias is None else bias[:, None, None])


def _scaled(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """y * scale + bias, in place where no gradient is wanted: y was made for it."""
    if torch.is_grad_enabled():
        return y * scale if bias is None else torch.addcmul(bias, y, scale)
    return y.mul_(scale) if bias is None else torch.addcmul(bias, y, scale, out=y)


def _linear_by_bytes(x: Tensor, weight: Int8Weight, bias: Tensor | None = None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    given = as_bytes(rows)
    kept = weight.packed(lambda w: torch.ops.onednn.qlinear_prepack(w, list(rows.shape)))
    y: Tensor = torch.ops.onednn.qlinear_pointwise(
        *given,
        *(kept, weight.scale, _zeros(weight.scale)),
        *(None if bias is None else bias.float(), 1.0, 0, x.dtype),
        *("none", [], ""),
    )
    return y.view(*x.shape[:-1], -1)


def _conv2d_by_bytes(
    x: Tensor,
    weight: Int8Weight,
    bias: Tensor | None = None,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    given = as_bytes(x)
    where = (list(stride), list(padding), [1, 1], 1)
    kept = weight.packed(
        lambda w: torch.ops.onednn.qconv_prepack(
            w, weight.scale, given.step, given.zero, *where, list(x.shape)
        )
    )
    y: Tensor = torch.ops.onednn.qconv2d_pointwise(
        *given,
        *(kept, weight.scale, _zeros(weight.scale)),
        *(None if bias is None else bias.float(), *where, 1.0, 0, x.dtype),
        *("none", [], ""),
    )
    return y


def _zeros(scale: Tensor) -> Tensor:
    return torch.zeros(scale.shape, dtype=torch.int32)
