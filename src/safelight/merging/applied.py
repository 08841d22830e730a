"""Adapters folded into a model's tensors as they stream by."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from safelight.adapters.sites import folded, stepped_bias
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.finite import check_cast
from safelight.checkpoints.stock import Stock
from safelight.errors import CheckpointError
from safelight.merging.adapter_inputs import Given
from safelight.models.deltas import Delta
from safelight.printable import shown

Wanted = Sequence[tuple[Delta, float]]
Read = Callable[[str, torch.dtype], Tensor]  # name, type -> tensor


def wanted_of(adapters: Sequence[Given], part: str) -> dict[str, list[tuple[Delta, float]]]:
    """What is to be done to each layer of a part, in the order given."""
    found: dict[str, list[tuple[Delta, float]]] = {}
    for given in adapters:
        for path, delta in given.adapter.deltas.get(part, {}).items():
            if strength := given.strengths.of(part, path):
                found.setdefault(path, []).append((delta, strength))
    return found


def check_strengths(adapters: Sequence[Given], layers: Sequence[tuple[str, str]]) -> None:
    """Raise RequestError for strengths that are not finite, or of blocks that there are not."""
    for given in adapters:
        strengths: Strengths = given.strengths
        strengths.check(given.adapter.name, layers)


def adapted(stock: Stock, wanted: Mapping[str, Wanted], read: Read) -> Stock:
    """The part with its layers changed: what `attach` makes of it by folding, tensor by tensor.

    read: of the part in a wider type, so that the result is rounded once.
    """

    @torch.no_grad()
    def changed(name: str) -> Tensor:
        path, _, leaf = name.rpartition(".")
        given, dtype = wanted.get(path), stock.header[name].dtype
        if not given or leaf not in ("weight", "bias"):
            return stock.read(name)
        before = read(name, torch.float32)
        after = _bias(before, given) if leaf == "bias" else folded(before, None, given)[0]
        if not bool(after.isfinite().all()):
            raise CheckpointError(
                f"the adapters make NaN or infinity of {shown(f'{stock.role}.{name}')}; give them "
                "smaller weights"
            )
        cast = after.to(dtype)
        check_cast(name, after, cast, stock.role)
        return cast

    return Stock(stock.role, stock.config, stock.header, changed)


def _bias(bias: Tensor, given: Wanted) -> Tensor:
    for delta, strength in given:
        after = stepped_bias(delta, bias, strength)
        assert after is not None, "there was a bias before"
        bias = after
    return bias
