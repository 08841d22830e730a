"""A weight that is kept as bytes, and that every layer may use as if it were not.

Shapes: n output channels, the first dimension of a weight; in features, C channels, k k a kernel.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from safelight.models.cpu_convolution import convolution
from safelight.models.cpu_product import linear, recorded

LARGEST = 127
LEVELS = 253  # of an input; with 2 to spare, rounding cannot leave the range of a byte
LINEAR: frozenset[Any] = frozenset({F.linear})
CONVOLUTION: frozenset[Any] = frozenset({F.conv2d, torch.conv2d})


class Int8Weight(Tensor):
    """weight[o] = scale[o] * numbers[o], each number -127 ... 127.

    It says that it has the type `dtype`, in which its layer computes, and does so in one of two
    ways. As a rule a product or a convolution multiplies by the numbers, which that type holds
    exactly, and scales the result: nothing is rounded but the weight itself, once. If `dynamic`,
    the input is brought to bytes, too, each time anew by its own range, and multiplied by
    the processor's integer instructions: twice as fast, and less exact.

    Another type leaves the bytes as they are. Any other operation is done with the weight in full,
    and gives a plain tensor; so adapters fold into it as if nothing were the matter.
    """

    scale: Tensor  # (n,) float32, positive
    dynamic: bool
    _stored: Tensor  # the numbers, or what oneDNN made of them: opaque, but without loss

    @staticmethod
    def __new__(
        cls,
        numbers: Tensor,
        scale: Tensor,
        dtype: torch.dtype,
        *,
        dynamic: bool = False,
        shape: torch.Size | None = None,  # if the numbers are packed
    ) -> Self:
        made: Self = Tensor._make_wrapper_subclass(
            cls, numbers.shape if shape is None else shape, dtype=dtype, device=numbers.device
        )
        made._stored, made.scale, made.dynamic = numbers, scale, dynamic
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

    @property
    def kept_bytes(self) -> int:
        """What it takes in memory."""
        return self._stored.numel() + self.scale.nbytes

    def in_full(self) -> Tensor:
        """The weight as a plain tensor of its type."""
        with torch._C.DisableTorchFunctionSubclass():
            dtype = self.dtype
        numbers = self.numbers
        return (numbers.float() * _along(self.scale, numbers.dim())).to(dtype)

    def another(self, dtype: torch.dtype, *, dynamic: bool | None = None) -> "Int8Weight":
        """The same bytes for a layer that computes in this type, in this way."""
        with torch._C.DisableTorchFunctionSubclass():
            shape = self.shape
        wanted = self.dynamic if dynamic is None else dynamic
        return Int8Weight(self._stored, self.scale, dtype, dynamic=wanted, shape=shape)

    def packed(self, pack: Callable[[Tensor], Tensor]) -> Tensor:
        """What oneDNN makes of the numbers when they are first used; they go, this stays."""
        if not self._stored.is_mkldnn:
            self._stored = pack(self._stored.contiguous())
        return self._stored

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"Int8Weight({list(self._stored.shape)})"

    def __tensor_flatten__(self) -> tuple[list[str], tuple[torch.dtype, bool]]:
        """What it is made of, so that a module that moves takes all of it along."""
        return ["numbers", "scale"], (self.dtype, self.dynamic)

    @staticmethod
    def __tensor_unflatten__(
        parts: Mapping[str, Tensor], how: tuple[torch.dtype, bool], size: object, stride: object
    ) -> "Int8Weight":
        return Int8Weight(parts["numbers"], parts["scale"], how[0], dynamic=how[1])

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        told = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            if func in LINEAR and isinstance(args[1], Int8Weight):
                by = _linear_by_bytes if _may_round(*args[:2]) else _linear
                return by(*args, **told)
            if func in CONVOLUTION and isinstance(args[1], Int8Weight):
                by = _conv2d_by_bytes if _may_round(*args[:2]) else _conv2d
                return by(*args, **told)
            return func(*args, **told)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[Any, Any] | None = None,
    ) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return args[0].another(args[0].dtype)
        if func is torch.ops.aten._to_copy.default:
            return _moved(*args, **(kwargs or {}))
        return func(*tree_map(_plain, args), **tree_map(_plain, kwargs or {}))


def as_int8(weight: Tensor, dtype: torch.dtype, *, dynamic: bool = False) -> Int8Weight:
    """The weight as bytes, to the nearest step of its channel: no number is off by more than half.

    A channel's step is its largest absolute value / 127. The same weight gives the same bytes.
    """
    flat = weight.detach().float().flatten(1)
    least, largest = torch.aminmax(flat, dim=1)
    scale = torch.maximum(-least, largest) / LARGEST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
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


def _moved(
    weight: Int8Weight,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **_: object,
) -> Int8Weight:
    """The same bytes elsewhere, or for a layer that computes in another type."""
    numbers, scale = weight.numbers, weight.scale
    where = numbers.device if device is None else device
    return Int8Weight(
        numbers.to(where), scale.to(where), dtype or weight.dtype, dynamic=weight.dynamic
    )


def _along(scale: Tensor, dims: int) -> Tensor:
    """(n,) as (n, 1, ..., 1)."""
    return scale.view(-1, *([1] * (dims - 1)))


def _plain(value: Any) -> Any:
    return value.in_full() if isinstance(value, Int8Weight) else value
