"""One layer of a model on which adapters act: by another weight, or through its slot."""

import copy
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from safelight.models.deltas import Delta, LowRank
from safelight.models.layers import Conv2d, GroupNorm, LayerNorm, Linear

Layer = Linear | Conv2d | GroupNorm | LayerNorm


class Term(NamedTuple):
    """What one adapter does to one layer."""

    adapter: int  # its place in the order given
    delta: Delta


class Site(Protocol):
    """A layer and what is done to it."""

    @property
    def part(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def terms(self) -> Sequence[Term]: ...

    def act(self, strengths: Sequence[float]) -> None:
        """Let each term act at its strength; 0 is not at all."""
        ...

    def untouched(self) -> bool:
        """Whether nobody else changed the layer since."""
        ...

    def restore(self) -> None:
        """The layer as it was found."""
        ...


class FoldedSite:
    """A layer whose tensors are swapped for changed ones; its own wait here."""

    def __init__(self, part: str, path: str, layer: Layer, terms: Sequence[Term]) -> None:
        self.part, self.path, self.layer, self.terms = part, path, layer, terms
        # Moved once: a model on a GPU takes adapters that were read to the CPU.
        self._deltas = [beside(term.delta, layer.weight) for term in terms]
        # What torch declares as tensors are parameters, and a layer without a bias has None.
        self._own = cast(tuple[nn.Parameter, nn.Parameter | None], (layer.weight, layer.bias))
        self._there = self._own
        self._strengths: tuple[float, ...] = (0.0,) * len(terms)

    def act(self, strengths: Sequence[float]) -> None:
        given = tuple(strengths)
        if given == self._strengths:
            return
        wanted = [(delta, s) for delta, s in zip(self._deltas, given, strict=True) if s]
        if wanted:
            weight, bias = folded(*self._own, wanted)
            self._put(_frozen(weight), self._own[1] if bias is None else _frozen(bias))
        else:
            self._put(*self._own)
        self._strengths = given

    def untouched(self) -> bool:
        there = (self.layer.weight, self.layer.bias)
        return all(a is b for a, b in zip(there, self._there, strict=True))

    def restore(self) -> None:
        self._put(*self._own)

    def _put(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        self.layer.weight = weight
        self.layer.bias = bias
        self._there = (weight, bias)


class SlotSite:
    """A layer that keeps its weight; LoRAs act through its slot, in the layer's own type."""

    def __init__(self, part: str, path: str, layer: Layer, terms: Sequence[Term]) -> None:
        assert isinstance(layer, (Linear, Conv2d)), "norms have no slot for deltas"
        self.part, self.path, self.layer, self.terms = part, path, layer, terms
        self._name = _free_name(layer.deltas)
        self._strengths: tuple[float, ...] = (0.0,) * len(terms)

    def act(self, strengths: Sequence[float]) -> None:
        given = tuple(strengths)
        if given == self._strengths:
            return
        wanted = [(t.delta, s) for t, s in zip(self.terms, given, strict=True) if s]
        self.restore()
        if wanted:
            self.layer.deltas[self._name] = _Sum(low_ranks(wanted, self.layer.weight))
        self._strengths = given

    def untouched(self) -> bool:
        return True  # slots do not see each other

    def restore(self) -> None:
        if self._name in self.layer.deltas:
            del self.layer.deltas[self._name]


class _Sum(nn.Module):
    """What several deltas add to the output of one layer."""

    def __init__(self, deltas: Sequence[LowRank]) -> None:
        super().__init__()
        self.deltas = nn.ModuleList(deltas)

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        first, *others = (delta(x, layer) for delta in self.deltas)
        total: Tensor = first
        for other in others:
            total = total + other
        return total


def folded(
    weight: Tensor, bias: Tensor | None, wanted: Sequence[tuple[Delta, float]]
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias after these deltas at these strengths, computed in float32 and cast once.

    The deltas lie where the weight does. The bias is None if it stays as it is.
    """
    changed, moved = weight.float(), None if bias is None else bias.float()
    kept = moved
    for delta, strength in wanted:
        changed, moved = stepped(delta, changed, moved, strength)
    made = None if moved is kept or moved is None or bias is None else moved.to(bias.dtype)
    return changed.to(weight.dtype), made


def stepped(
    delta: Delta, weight: Tensor, bias: Tensor | None, strength: float
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in float32 after one delta. Differentiable."""
    return delta.changed(weight, strength), stepped_bias(delta, bias, strength)


def stepped_bias(delta: Delta, bias: Tensor | None, strength: float) -> Tensor | None:
    """The bias in float32 after one delta, if there is one. Differentiable."""
    added = delta.bias_change(bias, strength)
    return bias if added is None or bias is None else bias + added


def low_ranks(wanted: Sequence[tuple[Delta, float]], weight: Tensor) -> list[LowRank]:
    """LoRAs at their strengths as few of them, in the type and place of a weight.

    Those without a core are one of the sum of their ranks: one product in place of many.
    """
    lows = [(delta, strength) for delta, strength in wanted if isinstance(delta, LowRank)]
    plain = [(low, strength) for low, strength in lows if low.mid is None]
    made = []
    if plain:
        # Scaled in float32, so that a half type rounds once.
        ups = [strength * low.scale * low.up.float().flatten(1) for low, strength in plain]
        downs = [low.down.flatten(1).float() for low, _ in plain]
        made.append(
            LowRank(
                torch.cat([u.to(weight.device) for u in ups], 1),
                torch.cat([d.to(weight.device) for d in downs]),
            )
        )
    made += [
        LowRank(strength * low.scale * low.up.float(), low.down.detach(), low.mid.detach())
        for low, strength in lows
        if low.mid is not None
    ]
    return [low.requires_grad_(False).to(weight) for low in made]


def beside(delta: Delta, weight: Tensor) -> Delta:
    """The delta where the weight is; a copy if it lies elsewhere."""
    if all(p.device == weight.device for p in delta.parameters()):
        return delta
    return copy.deepcopy(delta).to(weight.device)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _free_name(deltas: nn.ModuleDict) -> str:
    number = 0
    while f"adapter{number}" in deltas:
        number += 1
    return f"adapter{number}"
