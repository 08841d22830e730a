"""The kinds of changes that adapters make, each a function of its own small tensors.

Shapes as in `safelight.models.deltas`: out, in, k k the layer's own; r rank. The names of the
parameters are those in files without their prefix (hada_, lokr_, ...).

Hadamard and Kronecker: FedPara, Hyeon-Woo et al. 2021 (arXiv:2108.06098); LyCORIS, Yeh et al. 2023
(arXiv:2309.14859).
"""

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from safelight.adapters.rescalings import Decomposed, Generalised, Scaled
from safelight.adapters.rotations import Butterfly, Orthogonal
from safelight.models.deltas import Delta, LowRank, tucker

__all__ = [
    "Butterfly",
    "Decomposed",
    "Delta",
    "Difference",
    "Generalised",
    "Hadamard",
    "Kronecker",
    "LowRank",
    "NormDifference",
    "Orthogonal",
    "Scaled",
]


class Hadamard(Delta):
    """scale · (w1_a @ w1_b) * (w2_a @ w2_b), element by element: LoHa.

    w_a (out, r), w_b (r, in · k · k). With t1 and t2 (r, r, k, k), the Tucker form, w_a is (r, out)
    and w_b (r, in).
    """

    kind = "LoHa"

    def __init__(
        self,
        w1_a: Tensor,
        w1_b: Tensor,
        w2_a: Tensor,
        w2_b: Tensor,
        *,
        t1: Tensor | None = None,
        t2: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.w1_a, self.w1_b = nn.Parameter(w1_a), nn.Parameter(w1_b)
        self.w2_a, self.w2_b = nn.Parameter(w2_a), nn.Parameter(w2_b)
        assert (t1 is None) == (t2 is None), "both halves of a Tucker form have a core"
        self.t1, self.t2 = _optional(t1), _optional(t2)
        self.scale = scale

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    @property
    def alpha(self) -> float:
        return self.scale * self.rank

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        one = _half(self.w1_a, self.w1_b, self.t1)
        other = _half(self.w2_a, self.w2_b, self.t2)
        return (strength * self.scale * one * other).reshape(weight.shape)

    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        halves = ((self.w1_a, self.w1_b, self.t1), (self.w2_a, self.w2_b, self.t2))
        return all(_half_fits(a, b, core, shape) for a, b, core in halves)


class Kronecker(Delta):
    """scale · kron(w1, w2): LoKr. Either factor may itself be a product.

    w1 (p, q), or w1_a @ w1_b of (p, r) and (r, q). w2 (out / p, in / q[, k, k]), or w2_a @ w2_b of
    (out / p, r) and (r, in / q · k · k), or with t2 (r, r, k, k), w2_a (r, out / p) and w2_b
    (r, in / q). Files whose factors are both whole have no use for their alpha: scale is 1.
    """

    kind = "LoKr"

    def __init__(
        self,
        w1: Tensor | None = None,
        w2: Tensor | None = None,
        *,
        w1_a: Tensor | None = None,
        w1_b: Tensor | None = None,
        w2_a: Tensor | None = None,
        w2_b: Tensor | None = None,
        t2: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        for whole, a, b in ((w1, w1_a, w1_b), (w2, w2_a, w2_b)):
            assert (whole is None) == (a is not None) == (b is not None), "whole, or a product"
        self.w1, self.w1_a, self.w1_b = _optional(w1), _optional(w1_a), _optional(w1_b)
        self.w2, self.w2_a, self.w2_b = _optional(w2), _optional(w2_a), _optional(w2_b)
        self.t2 = _optional(t2)
        self.scale = scale

    @property
    def rank(self) -> int | None:
        """Of the product of which a factor is made; None if both factors are whole."""
        for factor in (self.w1_b, self.w2_b):
            if factor is not None:
                return factor.shape[0]
        return None

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        first, second = self._first().float(), self._second(weight.shape)
        matrix = first[(...,) + (None,) * (second.ndim - 2)]
        product = torch.kron(strength * self.scale * matrix, second.contiguous())
        return product.reshape(weight.shape)

    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        if self.w1 is None:
            assert self.w1_a is not None and self.w1_b is not None
            rows, columns = self.w1_a.shape[0], self.w1_b.shape[-1]
            joined = self.w1_a.ndim == self.w1_b.ndim == 2
            if not joined or self.w1_a.shape[1] != self.w1_b.shape[0]:
                return False
        else:
            if self.w1.flatten(1).shape != self.w1.shape[:2]:
                return False
            rows, columns = self.w1.shape[:2]
        if not rows or not columns or shape[0] % rows or shape[1] % columns:
            return False
        rest = (shape[0] // rows, shape[1] // columns, *shape[2:])
        if self.w2 is not None:
            return self.w2.shape[0] == rest[0] and self.w2[0].numel() == prod(rest[1:])
        assert self.w2_a is not None and self.w2_b is not None
        return _half_fits(self.w2_a, self.w2_b, self.t2, rest)

    def _first(self) -> Tensor:
        if self.w1 is not None:
            return self.w1.flatten(1)
        assert self.w1_a is not None and self.w1_b is not None
        return self.w1_a.float() @ self.w1_b.float()

    def _second(self, shape: Sequence[int]) -> Tensor:
        rows, columns = self._first_shape()
        if self.w2 is not None:
            whole = self.w2.float()
        else:
            assert self.w2_a is not None and self.w2_b is not None
            whole = _half(self.w2_a, self.w2_b, self.t2)
        return whole.reshape(shape[0] // rows, shape[1] // columns, *shape[2:])

    def _first_shape(self) -> tuple[int, int]:
        if self.w1 is not None:
            return self.w1.shape[0], self.w1.shape[1]
        assert self.w1_a is not None and self.w1_b is not None
        return self.w1_a.shape[0], self.w1_b.shape[1]


class Difference(Delta):
    """The whole difference of weight and bias (`diff`, `diff_b`); either may be missing."""

    kind = "full"
    dims: ClassVar[tuple[int, ...]] = (1, 2, 4)

    def __init__(self, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.bias = _optional(weight), _optional(bias)

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        if self.weight is None:
            return torch.zeros_like(weight, dtype=torch.float32)
        return strength * self.weight.float().reshape(weight.shape)

    def bias_change(self, bias: Tensor | None, strength: float = 1.0) -> Tensor | None:
        return None if self.bias is None else strength * self.bias.float()

    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        if self.bias is not None and (not bias or tuple(self.bias.shape) != (shape[0],)):
            return False
        if self.weight is None:
            return True
        mine = tuple(self.weight.shape)
        return mine[:1] == tuple(shape[:1]) and _bare(mine) == _bare(tuple(shape))


class NormDifference(Difference):
    """The difference of a norm's weight and bias (`w_norm`, `b_norm`), both (C,)."""

    kind = "norm"
    dims: ClassVar[tuple[int, ...]] = (1,)


def _optional(tensor: Tensor | None) -> nn.Parameter | None:
    return None if tensor is None else nn.Parameter(tensor)


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the kernel of a 1 x 1 convolution."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def _half(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """a @ b, or the Tucker form of both around a core."""
    if core is None:
        return a.float().flatten(1) @ b.float().flatten(1)
    return tucker(core.float(), a.float().flatten(1), b.float().flatten(1))


def _half_fits(a: Tensor, b: Tensor, core: Tensor | None, shape: Sequence[int]) -> bool:
    if min(a.ndim, b.ndim) < 2:
        return False
    left, right = a.flatten(1).shape, b.flatten(1).shape
    if core is None:
        return left == (shape[0], right[0]) and right[1] == prod(shape[1:])
    sides = (left[0], right[0], *shape[2:])
    return tuple(core.shape) == sides and (left[1], right[1]) == tuple(shape[:2])
