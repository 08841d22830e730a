"""An adapter that makes one model of another: the low-rank part of what was learned."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from safelight.adapters.adapter import TEXT_PARTS, UNET, Adapter, AdapterFacts
from safelight.adapters.deltas import Delta, Difference, LowRank, NormDifference
from safelight.checkpoints.adapter_bias import WithBias
from safelight.checkpoints.adapter_names import Layer, layers_of
from safelight.checkpoints.finite import check_finite
from safelight.checkpoints.made_by import Ingredient, ingredient
from safelight.checkpoints.parts import listed
from safelight.errors import CheckpointError
from safelight.families import Family
from safelight.merging.low_rank import RankRule, Tally, factored
from safelight.merging.sources import Progress, Reader, Source, compared, opened
from safelight.printable import shown


@dataclass(frozen=True, slots=True)
class Scope:
    """Which differences are taken.

    unet, text: of which parts. conv: of convolutions with a kernel. rest: of norms and biases,
    whole, as they have no rank.
    """

    unet: bool = True
    text: bool = True
    conv: bool = True
    rest: bool = False

    def to_json(self) -> dict[str, object]:
        """What departs from the usual, for a recipe."""
        usual = Scope()
        names = ("unet", "text", "conv", "rest")
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(usual, n)}


@dataclass(frozen=True)
class Extracted:
    """The adapter, what it is for, how much it keeps, and what both models were."""

    adapter: Adapter
    family: Family
    tally: Tally
    inputs: tuple[Ingredient, ...]
    notes: tuple[str, ...]


@dataclass
class _Left:
    """Names of what differs and is not carried, by the reason."""

    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.names.setdefault(reason, []).append(name)


def extract(
    tuned: Path,
    base: Path,
    rule: RankRule,
    scope: Scope | None = None,
    *,
    name: str | None = None,
    ema: bool = False,
    variant: str | None = None,
    prediction: str | None = None,
    progress: Progress = lambda done, whole: None,
) -> Extracted:
    """What `tuned` has learned since `base`, layer by layer, as LoRAs by a rule.

    Layers that did not change get none. Two tensors are in memory at a time, besides the adapter.
    Raises CheckpointError for models of different families, or if nothing differs.
    """
    scope = scope or Scope()
    with ExitStack() as stack:
        mine, origin = opened(
            [tuned, base], stack, prediction=prediction, ema=ema, variant=variant, own_vae=False
        )
        notes = list(compared(origin, mine, wider=False))
        tally, left = Tally(), _Left()
        deltas: dict[str, dict[str, Delta]] = {}
        work = list(_work(mine, origin, scope))
        for done, (layer, after, before) in enumerate(work):
            progress(done, len(work))
            delta = _delta(layer, after, before, rule, scope, tally, left)
            if delta is not None:
                deltas.setdefault(layer.part, {})[layer.path] = delta
        progress(len(work), len(work))
        _tables(mine, origin, scope, left)
        inputs = tuple(
            ingredient(source.path, role, metadata=source.checkpoint.files[0].file.metadata)
            for source, role in ((mine, "model"), (origin, "base"))
        )
        family = origin.checkpoint.family
    if not deltas:
        raise CheckpointError(
            f"{shown(tuned)} and {shown(base)} do not differ in what an adapter can carry"
            f"{'; ' + '; '.join(_told(left)) if left.names else ''}"
        )
    facts = AdapterFacts(kinds=("LoRA",), base=family.label)
    adapter = Adapter(name or tuned.stem, deltas, facts)
    return Extracted(adapter, family, tally, inputs, (*notes, *_told(left)))


def _work(mine: Source, origin: Source, scope: Scope) -> Iterator[tuple[Layer, Reader, Reader]]:
    """Every layer that is asked for, with what reads it in both models."""
    layers = layers_of(origin.checkpoint.family)
    for part in _parts(origin):
        wanted = scope.unet if part == "unet" else scope.text
        for layer in layers.of(part) if wanted else ():
            after, before = mine.reader(part), origin.reader(part)
            if after is not None and before is not None and f"{layer.path}.weight" in after:
                yield layer, after, before


def _parts(source: Source) -> tuple[str, ...]:
    """What adapters call the parts that they change."""
    texts = [part for part in source.checkpoint.parts if part.role.startswith("text")]
    return (UNET, *TEXT_PARTS[: len(texts)])


def _delta(
    layer: Layer,
    after: Reader,
    before: Reader,
    rule: RankRule,
    scope: Scope,
    tally: Tally,
    left: _Left,
) -> Delta | None:
    weight = _difference(f"{layer.path}.weight", after, before)
    bias = _difference(f"{layer.path}.bias", after, before) if layer.bias else None
    label = f"{layer.part}.{layer.path}"
    if not scope.rest:
        if bias is not None:
            left.add("biases (--rest takes them)", label)
        bias = None
    if len(layer.shape) == 1:
        if not scope.rest:
            if weight is not None:
                left.add("norms (--rest takes them)", label)
            return None
        return None if weight is None and bias is None else NormDifference(weight, bias)
    kernel = len(layer.shape) == 4 and layer.shape[2:] != (1, 1)
    if kernel and not scope.conv and weight is not None:
        left.add("convolutions (--conv takes them)", label)
        weight = None
    if weight is None:
        return None if bias is None else Difference(bias=bias)
    factors = factored(weight.flatten(1), rule, conv=kernel)
    tally.add(factors)
    up, down = factors.up, factors.down
    if len(layer.shape) == 4:
        up, down = up[..., None, None], down.reshape(-1, *layer.shape[1:])
    low = LowRank(up, down)
    return low if bias is None else WithBias(low, bias)


def _difference(name: str, after: Reader, before: Reader) -> Tensor | None:
    """What was learned of one tensor, float32; None if not a bit of it changed."""
    if name not in after or name not in before:
        return None
    tensors = [after.read(name), before.read(name)]
    for tensor, reader in zip(tensors, (after, before), strict=True):
        check_finite([(name, tensor)], reader.path, full=True)
    change = (tensors[0].to(torch.float64) - tensors[1].to(torch.float64)).float()
    return change if bool(change.any()) else None


def _tables(mine: Source, origin: Source, scope: Scope, left: _Left) -> None:
    """Note the tables of embeddings that differ: no layout of adapters carries them."""
    for part in _parts(origin) if scope.text else ("unet",):
        after, before = mine.reader(part), origin.reader(part)
        if after is None or before is None:
            continue
        for name in after.shapes:
            if name.endswith("_embedding.weight") and _difference(name, after, before) is not None:
                left.add("embeddings (no adapter carries them)", f"{part}.{name}")


def _told(left: _Left) -> list[str]:
    return [
        f"not in the adapter, though they differ: {len(names)} {reason}: {listed(names, 3)}"
        for reason, names in left.names.items()
    ]
