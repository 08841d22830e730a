"""Adapters made of adapters: a lower rank, and several as one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from safelight.adapters.adapter import Adapter, AdapterFacts
from safelight.adapters.deltas import Delta, Difference, LowRank, NormDifference
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.adapter_bias import WithBias
from safelight.checkpoints.adapter_names import Layer, layers_of
from safelight.errors import CheckpointError, RequestError
from safelight.families import Family
from safelight.merging.low_rank import Factors, RankRule, Tally, factored, refactored
from safelight.merging.methods import dropped, elected, place_seed
from safelight.printable import shown

Joining = Literal["sum", "ties", "dare", "dare-ties"]
JOININGS: tuple[Joining, ...] = get_args(Joining)
Order = Sequence[tuple[Adapter, Strengths]]


@dataclass(frozen=True, slots=True)
class Remade:
    """An adapter made of others, what it keeps of them, and what should be said."""

    adapter: Adapter
    tally: Tally
    notes: tuple[str, ...] = ()


@torch.no_grad()
def resized(adapter: Adapter, family: Family, rule: RankRule) -> Remade:
    """The same adapter with every low-rank change brought to the rank that a rule says.

    Changes of norms and biases stay as they are; LoHa, LoKr and whole differences become LoRAs. A
    rank that is asked for is never more than what a change has.
    Raises CheckpointError for kinds that depend on the weight they change, such as DoRA.
    """
    tally = Tally()
    deltas: dict[str, dict[str, Delta]] = {}
    for part, path, delta in adapter:
        layer = _layer(adapter, family, part, path)
        inner, bias = _parted(delta)
        if inner is not None and not isinstance(inner, NormDifference) and _has_weight(inner):
            _check_additive(adapter, layer, inner)
            factors = _factors(inner, layer, rule)
            tally.add(factors)
            inner = _low(factors, layer)
        deltas.setdefault(part, {})[path] = _joined(inner, bias)
    return Remade(replace(adapter, deltas=deltas), tally)


@torch.no_grad()
def combined(
    adapters: Order,
    family: Family,
    *,
    name: str,
    method: Joining = "sum",
    rule: RankRule | None = None,
    density: float = 1.0,
    seed: int = 0,
) -> Remade:
    """One adapter that does what several do together, each at its strengths.

    "sum" of LoRAs without a rule is exact: their ranks add up. Every other method, and a rule,
    makes the whole change of each layer and takes the best LoRA of it, by default of the greatest
    rank among those that went in. Methods are those of `methods`, from a base of zero.
    Raises CheckpointError for kinds that depend on the weight they change.
    """
    places: dict[tuple[str, str], list[tuple[int, Delta, float]]] = {}
    for number, (adapter, strengths) in enumerate(adapters):
        for part, path, delta in adapter:
            layer = _layer(adapter, family, part, path)
            _check_additive(adapter, layer, delta)
            if strength := strengths.of(part, path):
                places.setdefault((part, path), []).append((number, delta, strength))
    tally = Tally()
    deltas: dict[str, dict[str, Delta]] = {}
    for (part, path), terms in places.items():
        layer = _layer(adapters[0][0], family, part, path)
        join = _join(method, density, seed, terms, f"{part}.{path}")
        deltas.setdefault(part, {})[path] = _combined(terms, layer, join, method, rule, tally)
    if not deltas:
        raise RequestError("the adapters change nothing at these strengths; nothing to write")
    triggers = tuple(dict.fromkeys(t for a, _ in adapters for t in a.about.triggers))
    facts = AdapterFacts(("LoRA",), adapters[0][0].about.base, triggers)
    return Remade(Adapter(name, deltas, facts), tally)


Join = Callable[[Sequence[Tensor], str], Tensor]  # tensors of a layer, and of what -> their join


def _join(
    method: Joining,
    density: float,
    seed: int,
    terms: Sequence[tuple[int, Delta, float]],
    place: str,
) -> Join:
    weights = [strength for _, _, strength in terms]

    def join(tensors: Sequence[Tensor], what: str) -> Tensor:
        zero = torch.zeros_like(tensors[0])
        if method == "sum":
            return torch.stack([t * w for t, w in zip(tensors, weights, strict=True)]).sum(0)
        if method == "ties":
            return elected(zero, tensors, weights, density=density, dtype=torch.float32)
        return dropped(
            zero,
            tensors,
            weights,
            density=density,
            seeds=[place_seed(seed, number, place, what) for number, _, _ in terms],
            elect=method == "dare-ties",
            dtype=torch.float32,
        )

    return join


def _combined(
    terms: Sequence[tuple[int, Delta, float]],
    layer: Layer,
    join: Join,
    method: Joining,
    rule: RankRule | None,
    tally: Tally,
) -> Delta:
    biases = [_bias(delta, layer) for _, delta, _ in terms]
    bias = None
    if any(each is not None for each in biases):
        there = [torch.zeros(layer.shape[0]) if each is None else each for each in biases]
        bias = join(there, "bias")
    inners = [_parted(delta)[0] for _, delta, _ in terms]
    if len(layer.shape) == 1:
        return NormDifference(join([_whole(i, layer) for i in inners], "weight"), bias)
    if not any(inner is not None and _has_weight(inner) for inner in inners):
        return Difference(bias=bias)
    plain = [inner for inner in inners if isinstance(inner, LowRank) and inner.mid is None]
    rank = max((r for i in inners if (r := getattr(i, "rank", None)) is not None), default=None)
    exact = method == "sum" and len(plain) == len(inners)
    if exact and rule is None:
        up, down = _stacked(plain, terms, layer)
        kept = Factors(up, down, 1.0, 1.0)
    elif exact and rule is not None:
        kept = refactored(*_stacked(plain, terms, layer), rule, conv=_kernel(layer))
    else:
        whole = join([_whole(inner, layer) for inner in inners], "weight")
        if rule is None and rank is None:
            return _joined(Difference(whole), bias)
        kept = factored(whole.flatten(1), rule or RankRule(rank), conv=_kernel(layer))
    tally.add(kept)
    return _joined(_low(kept, layer), bias)


def _stacked(
    lows: Sequence[LowRank], terms: Sequence[tuple[int, Delta, float]], layer: Layer
) -> tuple[Tensor, Tensor]:
    """The sum of LoRAs as one of all their ranks."""
    strengths = [strength for _, _, strength in terms]
    scales = [s * low.scale for low, s in zip(lows, strengths, strict=True)]
    ups = [s * low.up.float().flatten(1) for low, s in zip(lows, scales, strict=True)]
    return torch.cat(ups, 1), torch.cat([low.down.float().flatten(1) for low in lows])


# -- one layer -------------------------------------------------------------------------------------


def _layer(adapter: Adapter, family: Family, part: str, path: str) -> Layer:
    layer = layers_of(family).at(part, path)
    if layer is None:
        raise CheckpointError(
            f"{shown(adapter.name)} changes {shown(f'{part}.{path}')}, which {family.label} does "
            "not have"
        )
    return layer


def _check_additive(adapter: Adapter, layer: Layer, delta: Delta) -> None:
    if not delta.additive:
        raise CheckpointError(
            f"{shown(adapter.name)} holds {delta.kind}, whose change of {shown(layer.path)} "
            "depends on the weight that it meets: merge it into a checkpoint, and extract a LoRA "
            "from that"
        )


def _parted(delta: Delta) -> tuple[Delta | None, Tensor | None]:
    """The change of the weight, and of the bias."""
    if isinstance(delta, WithBias):
        return delta.inner, delta.bias
    return delta, None


def _joined(inner: Delta | None, bias: Tensor | None) -> Delta:
    if bias is None:
        assert inner is not None
        return inner
    return Difference(bias=bias) if inner is None else WithBias(inner, bias)


def _has_weight(delta: Delta) -> bool:
    return not isinstance(delta, Difference) or delta.weight is not None


def _bias(delta: Delta, layer: Layer) -> Tensor | None:
    return delta.bias_change(torch.zeros(layer.shape[0]))


def _whole(delta: Delta | None, layer: Layer) -> Tensor:
    """What is added to the layer's weight, in full; of what changes the bias alone, zeros."""
    weight = torch.zeros(layer.shape)
    return weight if delta is None else delta.change(weight)


def _factors(delta: Delta, layer: Layer, rule: RankRule) -> Factors:
    conv = _kernel(layer)
    if isinstance(delta, LowRank) and delta.mid is None:
        up, down = delta.scale * delta.up.float().flatten(1), delta.down.float().flatten(1)
        return refactored(up, down, rule, conv=conv)
    most = getattr(delta, "rank", None)
    if isinstance(delta, LowRank) and most is not None:
        rule = replace(rule, rank=min(rule.rank or most, most), conv_rank=None)
    return factored(_whole(delta, layer).flatten(1), rule, conv=conv)


def _kernel(layer: Layer) -> bool:
    return len(layer.shape) == 4 and layer.shape[2:] != (1, 1)


def _low(factors: Factors, layer: Layer) -> LowRank:
    up, down = factors.up, factors.down
    if len(layer.shape) == 4:
        up, down = up[..., None, None], down.reshape(-1, *layer.shape[1:])
    return LowRank(up, down)
