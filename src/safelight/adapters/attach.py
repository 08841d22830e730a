"""Adapters put on a model and taken off again, which leaves it bit for bit as it was.

Folding swaps a layer's weight for the changed one, computed in float32 and cast once; the original
tensor waits and is put back, the very same object. Slots leave the weight alone and add what a LoRA
makes of the input through its rank: exact in half types, in which most of a LoRA is smaller than
what a weight is rounded by.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Self, get_args

import torch
from torch import nn

from safelight.adapters.adapter import Adapter
from safelight.adapters.sites import FoldedSite, Layer, Site, SlotSite, Term, beside, folded
from safelight.adapters.strengths import Strengths
from safelight.errors import CheckpointError, RequestError
from safelight.models.deltas import LowRank
from safelight.printable import shown

Mode = Literal["auto", "fold", "slot"]
MODES: tuple[Mode, ...] = get_args(Mode)
Parts = Mapping[str, nn.Module]
"""The networks of a model by the name of the part: "unet", "text_encoder", "text_encoder_2"."""
Order = Sequence[tuple[Adapter, Strengths]]
"""Adapters in the order in which they act. It matters only for kinds that do not add."""

_LISTED = 5


class MergedTensor(NamedTuple):
    """One tensor of a part as it is with the adapters in it."""

    part: str
    name: str  # as in the part's state dict
    tensor: torch.Tensor


class Attachment:
    """Adapters on a model. Leave the context, or call `detach`, to have the model as it was."""

    def __init__(self, adapters: Sequence[Adapter], sites: Sequence[Site], parts: Parts) -> None:
        self.adapters = tuple(adapters)
        self._sites = tuple(sites)
        self._paths = _paths(parts)
        self._strengths: tuple[Strengths, ...] = ()
        self._attached = True

    @property
    def strengths(self) -> tuple[Strengths, ...]:
        """Of each adapter, now."""
        return self._strengths

    @property
    def folds(self) -> bool:
        """Whether weights of the networks were read, and are read again for other strengths."""
        return any(isinstance(site, FoldedSite) for site in self._sites)

    @torch.no_grad()
    def set_strengths(self, strengths: Sequence[Strengths]) -> None:
        """Let each adapter act this strongly from now on; a layer whose strengths stay is left.

        Raises RequestError for another number of strengths than of adapters, for one that is not
        finite, or for a block that the model has not.
        """
        assert self._attached, "the adapters were taken off"
        given = tuple(strengths)
        if len(given) != len(self.adapters):
            raise RequestError(
                f"{len(given)} strengths were given for {len(self.adapters)} adapters; give each "
                f"of them one"
            )
        for one, adapter in zip(given, self.adapters, strict=True):
            one.check(adapter.name, self._paths)
        for site in self._sites:
            site.act([given[t.adapter].of(site.part, site.path) for t in site.terms])
        self._strengths = given

    def detach(self) -> None:
        """Take the adapters off: every tensor that was swapped is put back. Twice is once.

        Raises RuntimeError if adapters that were attached later are still there.
        """
        if not self._attached:
            return
        if not all(site.untouched() for site in self._sites):
            raise RuntimeError("adapters that were attached later must be taken off first")
        for site in self._sites:
            site.restore()
        self._attached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()


def attached(parts: Parts, adapters: Order, *, mode: Mode = "auto") -> Attachment:
    """These adapters on these networks until they are taken off: a handle, and a context.

    mode: "fold" swaps weights, "slot" leaves the weights of layers alone that only LoRAs change,
        "auto" does so where weights are of a half type.
    Raises CheckpointError for layers that a network lacks or that have another shape, and
    RequestError for a strength that is not finite or a block that the model has not, all before
    anything is changed.
    """
    if mode not in MODES:
        raise RequestError(f"unknown mode {mode!r}; choose {', '.join(MODES)}")
    given = [adapter for adapter, _ in adapters]
    spots = _spots(parts, adapters)
    attachment = Attachment(given, [_site(spot, mode) for spot in spots], parts)
    try:
        attachment.set_strengths([strengths for _, strengths in adapters])
    except BaseException:
        attachment.detach()
        raise
    return attachment


@torch.no_grad()
def merged(parts: Parts, adapters: Order) -> Iterator[MergedTensor]:
    """The tensors that these adapters change, changed, one after the other; the model stays.

    Bit for bit those of `attached(..., mode="fold")`, in the type of the weight. Tensors that no
    adapter touches are not told. Raises as `attached`.
    """
    for spot in _spots(parts, adapters):
        wanted = [
            (beside(term.delta, spot.layer.weight), strength)
            for term in spot.terms
            if (strength := adapters[term.adapter][1].of(spot.part, spot.path))
        ]
        if not wanted:
            continue
        weight, bias = folded(spot.layer.weight, spot.layer.bias, wanted)
        yield MergedTensor(spot.part, f"{spot.path}.weight", weight)
        if bias is not None:
            yield MergedTensor(spot.part, f"{spot.path}.bias", bias)


class _Spot(NamedTuple):
    part: str
    path: str
    layer: Layer
    terms: tuple[Term, ...]


def _spots(parts: Parts, adapters: Order) -> list[_Spot]:
    """The layers that the adapters change, with what is done to each, all of it checked."""
    paths = _paths(parts)
    for adapter, strengths in adapters:
        strengths.check(adapter.name, paths)
    terms: dict[tuple[str, str], list[Term]] = {}
    for place, (adapter, _) in enumerate(adapters):
        for part, path, delta in adapter:
            terms.setdefault((part, path), []).append(Term(place, delta))
    known = {
        (part, path): module
        for part, network in parts.items()
        for path, module in network.named_modules()
    }
    spots = []
    for (part, path), done in terms.items():
        layer = known.get((part, path))
        if not isinstance(layer, Layer):
            _refuse_missing(adapters[done[0].adapter][0], parts, known)
        assert isinstance(layer, Layer)
        for term in done:
            _check_fit(adapters[term.adapter][0], part, path, layer, term)
        spots.append(_Spot(part, path, layer, tuple(done)))
    return spots


def _paths(parts: Parts) -> list[tuple[str, str]]:
    return [
        (part, path)
        for part, network in parts.items()
        for path, module in network.named_modules()
        if isinstance(module, Layer)
    ]


def _refuse_missing(
    adapter: Adapter, parts: Parts, known: Mapping[tuple[str, str], nn.Module]
) -> None:
    lost = [
        f"{part}.{path}"
        for part, path, _ in adapter
        if not isinstance(known.get((part, path)), Layer)
    ]
    some = ", ".join(shown(name) for name in lost[:_LISTED]) + (" ..." if lost[_LISTED:] else "")
    raise CheckpointError(
        f"the adapter {shown(adapter.name)} changes {len(lost)} layers (of {len(adapter)}) that "
        f"this model ({', '.join(parts)}) does not have: {some}; it is for another model"
    )


def _check_fit(adapter: Adapter, part: str, path: str, layer: Layer, term: Term) -> None:
    shape = tuple(layer.weight.shape)
    if not term.delta.fits(shape, bias=layer.bias is not None):
        raise CheckpointError(
            f"the {term.delta.kind} of the adapter {shown(adapter.name)} does not fit the layer "
            f"{shown(f'{part}.{path}')}, whose weight is {list(shape)}: {term.delta}"
        )


def _site(spot: _Spot, mode: Mode) -> Site:
    low = all(isinstance(term.delta, LowRank) for term in spot.terms)
    half = spot.layer.weight.dtype in (torch.float16, torch.bfloat16)
    if low and (mode == "slot" or (mode == "auto" and half)):
        return SlotSite(*spot)
    return FoldedSite(*spot)
