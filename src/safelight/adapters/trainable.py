"""Adapters as training starts them: nothing is changed yet, and everything can be learned."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from safelight.adapters.deltas import (
    Butterfly,
    Decomposed,
    Delta,
    Difference,
    Generalised,
    Hadamard,
    Kronecker,
    LowRank,
    NormDifference,
    Orthogonal,
    Scaled,
)
from safelight.adapters.rescalings import magnitude_of
from safelight.adapters.sites import Layer
from safelight.errors import RequestError
from safelight.models.layers import GroupNorm, LayerNorm
from safelight.printable import shown


@dataclass(frozen=True, slots=True)
class Size:
    """How much an adapter can hold, for every layer alike.

    rank: of products, and the size of the blocks of OFT and BOFT, at most (BOFT's least may be
        larger).
    alpha: scale = alpha / rank; None is the rank, a scale of 1.
    conv_rank, conv_alpha: of convolutions with a kernel; None is as for the others.
    factor: the greatest side of LoKr's first factor; None makes both factors alike in size.
    tucker: convolutions in Tucker form (LoRA, LoHa, LoKr).
    """

    rank: int = 16
    alpha: float | None = None
    conv_rank: int | None = None
    conv_alpha: float | None = None
    factor: int | None = None
    tucker: bool = False

    def __post_init__(self) -> None:
        for name, value in (("rank", self.rank), ("conv_rank", self.conv_rank)):
            if value is not None and value < 1:
                raise RequestError(f"{name} must be 1 or more; got {value}")
        if self.factor is not None and self.factor < 1:
            raise RequestError(f"factor must be 1 or more; got {self.factor}")
        for name, alpha in (("alpha", self.alpha), ("conv_alpha", self.conv_alpha)):
            if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
                raise RequestError(f"{name} must be a positive number; got {alpha}")

    def of(self, shape: tuple[int, ...]) -> tuple[int, float]:
        """Rank and scale for a weight of this shape."""
        rank, alpha = self.rank, self.alpha
        if math.prod(shape[2:]) > 1 and self.conv_rank is not None:
            rank, alpha = self.conv_rank, self.conv_alpha
        return rank, 1.0 if alpha is None else alpha / rank


def trainable(
    network: nn.Module,
    kind: str,
    paths: Iterable[str],
    *,
    size: Size | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Delta]:
    """Deltas of one kind for these layers, which change nothing before they are taught: by path.

    kind: one of `KINDS`. Layers that are norms get a difference whatever the kind. Parameters are
    float32, on the device of their layer, and require gradients; draws are made on the CPU, from
    `generator` if given. See `targets` for choosing paths, `live` for using the deltas.
    Raises RequestError for an unknown kind, a path that is no layer, or a block that fits no side.
    """
    if kind not in KINDS:
        raise RequestError(f"unknown kind of adapter {shown(kind)}; choose {', '.join(KINDS)}")
    layers = dict(network.named_modules())
    made: dict[str, Delta] = {}
    for path in paths:
        layer = layers.get(path)
        if not isinstance(layer, Layer):
            raise RequestError(f"{shown(path)} is no layer of the network that can be taught")
        start = _norm if isinstance(layer, (GroupNorm, LayerNorm)) else KINDS[kind]
        delta = start(layer, size or Size(), _Draw(generator))
        made[path] = delta.to(layer.weight.device).requires_grad_(True)
    return made


class _Draw:
    """Initial values of parameters in float32, on the CPU."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def normal(self, *shape: int, deviation: float) -> Tensor:
        return deviation * torch.randn(shape, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        """As a layer without a bias starts: in ±1 / sqrt(inputs)."""
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        return (2 * torch.rand(shape, generator=self.generator) - 1) * bound


Start = Callable[[Layer, Size, _Draw], Delta]


def _shape(layer: Layer) -> tuple[int, ...]:
    return tuple(layer.weight.shape)


def _low_rank(layer: Layer, size: Size, draw: _Draw) -> LowRank:
    out, inner, *kernel = shape = _shape(layer)
    rank, scale = size.of(shape)
    one = [1] * len(kernel)
    if size.tucker and math.prod(kernel) > 1:
        mid = draw.uniform(rank, rank, *kernel)
        return LowRank(torch.zeros(out, rank, *one), draw.uniform(rank, inner, *one), mid, scale)
    return LowRank(torch.zeros(out, rank, *one), draw.uniform(rank, inner, *kernel), scale=scale)


def _hadamard(layer: Layer, size: Size, draw: _Draw) -> Hadamard:
    out, inner, *kernel = shape = _shape(layer)
    rank, scale = size.of(shape)
    if size.tucker and math.prod(kernel) > 1:
        return Hadamard(
            draw.normal(rank, out, deviation=0.1),
            draw.normal(rank, inner, deviation=1.0),
            torch.zeros(rank, out),
            draw.normal(rank, inner, deviation=1.0),
            t1=draw.normal(rank, rank, *kernel, deviation=0.1),
            t2=draw.normal(rank, rank, *kernel, deviation=0.1),
            scale=scale,
        )
    columns = inner * math.prod(kernel)
    return Hadamard(
        draw.normal(out, rank, deviation=0.1),
        draw.normal(rank, columns, deviation=1.0),
        torch.zeros(out, rank),
        draw.normal(rank, columns, deviation=1.0),
        scale=scale,
    )


def _kronecker(layer: Layer, size: Size, draw: _Draw) -> Kronecker:
    out, inner, *kernel = shape = _shape(layer)
    rank, scale = size.of(shape)
    rows, columns = (_small_factor(side, size.factor) for side in (out, inner))
    first, rest = draw.uniform(rows, columns), (out // rows, inner // columns)
    if 2 * rank >= max(rest):
        return Kronecker(first, torch.zeros(*rest, *kernel))
    if size.tucker and math.prod(kernel) > 1:
        a, core = draw.uniform(rank, rest[0]), draw.uniform(rank, rank, *kernel)
        return Kronecker(first, w2_a=a, w2_b=torch.zeros(rank, rest[1]), t2=core, scale=scale)
    b = torch.zeros(rank, rest[1] * math.prod(kernel))
    return Kronecker(first, w2_a=draw.uniform(rest[0], rank), w2_b=b, scale=scale)


def _small_factor(side: int, most: int | None) -> int:
    """The greatest divisor that is at most `most` and at most the root."""
    limit = math.isqrt(side) if most is None else min(most, math.isqrt(side))
    return next(d for d in range(limit, 0, -1) if side % d == 0)


def _decomposed(layer: Layer, size: Size, draw: _Draw) -> Decomposed:
    magnitude = magnitude_of(layer.weight.detach().float().cpu(), "output")
    return Decomposed(_low_rank(layer, size, draw), magnitude)


def _scaled(layer: Layer, size: Size, draw: _Draw) -> Scaled:
    return Scaled(torch.zeros(_shape(layer)[0]))


def _generalised(layer: Layer, size: Size, draw: _Draw) -> Generalised:
    out, inner, *kernel = shape = _shape(layer)
    rank, scale = size.of(shape)
    one = [1] * len(kernel)
    return Generalised(
        draw.uniform(inner, rank, *one),
        torch.zeros(rank, inner, *one),
        draw.uniform(out, rank, *one),
        torch.zeros(rank, inner, *kernel),
        scale=scale,
    )


def _orthogonal(layer: Layer, size: Size, draw: _Draw) -> Orthogonal:
    out, rank = _shape(layer)[0], size.of(_shape(layer))[0]
    block = next(d for d in range(min(rank, out), 0, -1) if out % d == 0)
    return Orthogonal(torch.zeros(out // block, block, block))


def _butterfly(layer: Layer, size: Size, draw: _Draw) -> Butterfly:
    """As many factors as let every feature reach every other.

    Features are an even block times a power of two: the greatest block within the rank, or the
    least that there is.
    """
    out, rank = _shape(layer)[0], size.of(_shape(layer))[0]
    fit = [b for b in range(2, out + 1, 2) if out % b == 0 and _is_power(out // b)]
    if not fit:
        raise RequestError(
            f"BOFT turns features in pairs, and a layer has {out} of them; choose other layers "
            "(targets), or the kind oft"
        )
    block = max((b for b in fit if b <= rank), default=fit[0])
    count = out // block
    return Butterfly(torch.zeros(count.bit_length(), count, block, block))


def _is_power(number: int) -> bool:
    return number & (number - 1) == 0


def _full(layer: Layer, size: Size, draw: _Draw) -> Difference:
    bias = None if layer.bias is None else torch.zeros(layer.bias.shape)
    return Difference(torch.zeros(_shape(layer)), bias)


def _norm(layer: Layer, size: Size, draw: _Draw) -> NormDifference:
    bias = None if layer.bias is None else torch.zeros(layer.bias.shape)
    return NormDifference(torch.zeros(_shape(layer)), bias)


KINDS: Mapping[str, Start] = MappingProxyType(
    {
        "lora": _low_rank,
        "loha": _hadamard,
        "lokr": _kronecker,
        "dora": _decomposed,
        "ia3": _scaled,
        "glora": _generalised,
        "oft": _orthogonal,
        "boft": _butterfly,
        "full": _full,
    }
)
"""How each kind starts. LoCon is "lora" on layers that are convolutions."""
