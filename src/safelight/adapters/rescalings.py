"""Changes that are a function of the weight: IA3, GLoRA, and DoRA around another kind."""

from collections.abc import Sequence
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from safelight.models.deltas import Delta, tucker

Axis = Literal["output", "input"]
Norm = Literal["changed", "base"]
NORMS: tuple[Norm, ...] = ("changed", "base")


class Scaled(Delta):
    """W' = (1 + weight) * W along output or input features: IA3.

    weight (out,) or (in,), what is added to a factor of 1, as LyCORIS stores it; PEFT stores the
    factor itself. scales_bias: the bias goes with the output, as in PEFT; LyCORIS leaves it.

    Liu et al. 2022 (arXiv:2205.05638).
    """

    kind = "IA3"
    additive: ClassVar[bool] = False

    def __init__(self, weight: Tensor, *, on: Axis = "output", scales_bias: bool = False) -> None:
        super().__init__()
        assert on == "output" or not scales_bias, "a bias belongs to the output"
        self.weight = nn.Parameter(weight)
        self.on, self.scales_bias = on, scales_bias

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        return strength * _along(self.weight.float(), weight.ndim, self.on) * weight.float()

    def bias_change(self, bias: Tensor | None, strength: float = 1.0) -> Tensor | None:
        if bias is None or not self.scales_bias:
            return None
        return strength * self.weight.float().flatten() * bias.float()

    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        return self.weight.numel() == shape[_dim(self.on)]


class Generalised(Delta):
    """scale · (W a1 a2 + b1 b2): GLoRA.

    a1 (in, r), a2 (r, in), b1 (out, r), b2 (r, in[, k, k]), or with bm (r, r, k, k) the Tucker form
    of b. Files before LyCORIS 2.2 have the names of each pair the other way round.

    Chavan et al. 2023 (arXiv:2306.07967).
    """

    kind = "GLoRA"
    additive: ClassVar[bool] = False

    def __init__(
        self,
        a1: Tensor,
        a2: Tensor,
        b1: Tensor,
        b2: Tensor,
        *,
        bm: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.a1, self.a2 = nn.Parameter(a1), nn.Parameter(a2)
        self.b1, self.b2 = nn.Parameter(b1), nn.Parameter(b2)
        self.bm = None if bm is None else nn.Parameter(bm)
        self.scale = scale

    @property
    def rank(self) -> int:
        return self.a2.shape[0]

    @property
    def alpha(self) -> float:
        return self.scale * self.rank

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        a1, a2 = self.a1.float().flatten(1), self.a2.float().flatten(1)
        b1, b2 = self.b1.float().flatten(1), self.b2.float().flatten(1)
        inside = torch.einsum("oi...,ir,rj->oj...", weight.float(), a1, a2)
        beside = b1 @ b2 if self.bm is None else tucker(self.bm.float(), b1.mT, b2)
        return strength * self.scale * (inside + beside.reshape(weight.shape))

    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        if min(t.ndim for t in (self.a1, self.a2, self.b1, self.b2)) < 2:
            return False
        a1, a2, b1, b2 = (t.flatten(1).shape for t in (self.a1, self.a2, self.b1, self.b2))
        turned = a1 == (shape[1], a2[0]) and a2[1] == shape[1]
        if self.bm is None:
            return turned and b1 == (shape[0], b2[0]) and b2[1] == prod(shape[1:])
        core = tuple(self.bm.shape)
        return (
            turned and core == (b1[1], b2[0], *shape[2:]) and (b1[0], b2[1]) == (shape[0], shape[1])
        )


class Decomposed(Delta):
    """W' = magnitude · (W + delta) / norm: DoRA around another kind (`dora_scale`).

    magnitude: (out,) with the norm of every row ("output"), or (in,) with that of every input
        feature or channel ("input"). Files tell by its shape: (out, 1[, 1, 1]) or (1, in[, 1, 1]).
    norm: of what; "changed" is of W + delta, as in the paper, PEFT, LyCORIS and A1111; "base" is of
        W alone, as ComfyUI has it for "output".

    A strength m takes the weight m of the way from W to W', as in A1111 and ComfyUI. (PEFT has m
    inside the norm, where 0 is not the model itself.)

    The norm takes no gradient (section 4.3). Liu et al. 2024 (arXiv:2402.09353).
    """

    kind = "DoRA"
    additive: ClassVar[bool] = False

    def __init__(
        self, inner: Delta, magnitude: Tensor, *, over: Axis = "output", norm: Norm = "changed"
    ) -> None:
        super().__init__()
        self.inner = inner
        self.magnitude = nn.Parameter(magnitude)
        self.over, self.norm = over, norm

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        base = weight.float()
        changed = base + self.inner.change(weight)
        measured = (changed if self.norm == "changed" else base).detach()
        norm = magnitude_of(measured, self.over).clamp(min=torch.finfo(torch.float32).eps)
        factor = _along(self.magnitude.float().flatten() / norm, weight.ndim, self.over)
        return strength * (factor * changed - base)

    def bias_change(self, bias: Tensor | None, strength: float = 1.0) -> Tensor | None:
        return self.inner.bias_change(bias, strength)

    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        return self.magnitude.numel() == shape[_dim(self.over)] and self.inner.fits(
            shape, bias=bias
        )

    def extra_repr(self) -> str:
        return f"over {self.over}, norm of the {self.norm} weight"


def magnitude_of(weight: Tensor, over: Axis) -> Tensor:
    """The norm of each output or input feature of a weight: what DoRA starts with. (n,)."""
    dims = [d for d in range(weight.ndim) if d != _dim(over)]
    norm: Tensor = torch.linalg.vector_norm(weight, dim=dims)
    return norm


def _dim(axis: Axis) -> int:
    return 0 if axis == "output" else 1


def _along(factors: Tensor, dims: int, axis: Axis) -> Tensor:
    """Factors (n,) so that they multiply a weight along an axis."""
    if axis == "output":
        return factors.reshape(-1, *[1] * (dims - 1))
    return factors.reshape(1, -1, *[1] * (dims - 2))
