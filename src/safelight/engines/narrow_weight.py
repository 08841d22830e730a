"""A weight that is kept in eight bits a number, and that every layer may use as if it were not.

Shapes: n output channels, the first dimension of a weight.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map

LINEAR: frozenset[Any] = frozenset({F.linear})
CONVOLUTION: frozenset[Any] = frozenset({F.conv2d, torch.conv2d})


class NarrowWeight(Tensor):
    """weight[o] = scale[o] * numbers[o].

    It says that it has the type `dtype`, in which its layer computes. Products and convolutions are
    done with the weight in full, unless its class has a better way (`linear`, `conv2d`). Another
    type leaves the numbers as they are. Any other operation is done with the weight in full, and
    gives a plain tensor; so adapters fold into it as if nothing were the matter.
    """

    scale: Tensor  # (n,) float32, positive
    _stored: Tensor  # the numbers, or an opaque form of them, without loss

    @staticmethod
    def __new__(
        cls, numbers: Tensor, scale: Tensor, dtype: torch.dtype, shape: torch.Size | None = None
    ) -> Self:
        """shape: that of the weight, if the numbers are in an opaque form."""
        made: Self = Tensor._make_wrapper_subclass(
            cls, numbers.shape if shape is None else shape, dtype=dtype, device=numbers.device
        )
        made._stored, made.scale = numbers, scale
        return made

    @property
    def numbers(self) -> Tensor:
        """(n, ...) of eight bits each."""
        with torch._C.DisableTorchFunctionSubclass():
            return self._stored

    @property
    def kept_bytes(self) -> int:
        """What it takes in memory."""
        return self._stored.numel() + self.scale.nbytes

    def in_full(self) -> Tensor:
        """The weight as a plain tensor of its type."""
        with torch._C.DisableTorchFunctionSubclass():
            dtype = self.dtype
        numbers = self.numbers
        return (numbers.float() * along(self.scale, numbers.dim())).to(dtype)

    def another(self, dtype: torch.dtype) -> Self:
        """The same numbers for a layer that computes in this type."""
        with torch._C.DisableTorchFunctionSubclass():
            shape = self.shape
        return type(self)(self._stored, self.scale, dtype, shape)

    def moved(self, device: torch.device | None, dtype: torch.dtype) -> Self:
        """The same numbers elsewhere, for a layer that computes in this type."""
        numbers = self.numbers
        where = numbers.device if device is None else device
        return type(self)(numbers.to(where), self.scale.to(where), dtype)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., in features) -> (..., n): the product with the weight in full."""
        return F.linear(x, self.in_full(), bias)

    def conv2d(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] = (0, 0),
    ) -> Tensor:
        """x (B, C, h, w) -> (B, n, ...): the convolution with the weight in full."""
        return F.conv2d(x, self.in_full(), bias, stride, padding)

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({list(self._stored.shape)})"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        """What it is made of, so that a module that moves takes all of it along."""
        return ["numbers", "scale"], self.dtype

    @classmethod
    def __tensor_unflatten__(
        cls, parts: Mapping[str, Tensor], how: Any, size: object, stride: object
    ) -> Self:
        return cls(parts["numbers"], parts["scale"], how)

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
            if func in LINEAR and isinstance(args[1], NarrowWeight):
                return args[1].linear(args[0], *args[2:], **told)
            if func in CONVOLUTION and isinstance(args[1], NarrowWeight):
                return args[1].conv2d(args[0], *args[2:], **told)
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
            told = kwargs or {}
            return args[0].moved(told.get("device"), told.get("dtype") or args[0].dtype)
        return func(*tree_map(_plain, args), **tree_map(_plain, kwargs or {}))


def along(scale: Tensor, dims: int) -> Tensor:
    """(n,) as (n, 1, ..., 1)."""
    return scale.view(-1, *([1] * (dims - 1)))


def steps(flat: Tensor, largest: float) -> Tensor:
    """Of rows (n, m) the factors (n,) by which their largest absolute value becomes `largest`.

    1 for rows of zeros.
    """
    # not `aminmax`, which takes fifteen times as long along a dimension (PyTorch 2.13, CPU)
    scale = torch.maximum(flat.amax(1), -flat.amin(1)) / largest
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _plain(value: Any) -> Any:
    return value.in_full() if isinstance(value, NarrowWeight) else value
