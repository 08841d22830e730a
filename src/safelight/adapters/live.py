"""Deltas that take part in a network's forward pass as they are, so that they can be learned."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from safelight.adapters.sites import Layer, stepped
from safelight.errors import CheckpointError
from safelight.models.deltas import Delta, LowRank
from safelight.models.layers import Conv2d, Linear
from safelight.printable import shown

SLOT = "live"


class Change(nn.Module):
    """A delta in a layer's `changes`: the weight and bias that the layer shall work with.

    Computed in float32, under autocast too, and cast to the layer's type.
    """

    def __init__(self, delta: Delta, strength: float = 1.0) -> None:
        super().__init__()
        self.delta = delta
        self.strength = strength

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(weight.device.type, enabled=False):
            wide = None if bias is None else bias.float()
            changed, moved = stepped(self.delta, weight.float(), wide, self.strength)
        if bias is None or moved is None:
            return changed.to(weight.dtype), bias
        return changed.to(weight.dtype), moved.to(bias.dtype)


class Weighted(nn.Module):
    """A delta in a layer's `deltas` at a strength."""

    def __init__(self, delta: Delta, strength: float = 1.0) -> None:
        super().__init__()
        self.delta = delta
        self.strength = strength

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        added: Tensor = self.delta(x, layer)
        return added if self.strength == 1 else self.strength * added


@contextmanager
def live(
    network: nn.Module, deltas: Mapping[str, Delta], *, strength: float = 1.0, slot: str = SLOT
) -> Iterator[None]:
    """For as long as it is entered, these deltas (by path) act in the network and can be learned.

    LoRAs go through their rank beside the layer; every other kind makes the weight anew in each
    pass. What a delta holds is used as it is, so an optimiser's steps count at once. Raises
    CheckpointError, before anything is changed, for a layer that is not there or does not fit.
    """
    layers = dict(network.named_modules())
    doors = [(_door(layers, path, delta), delta) for path, delta in deltas.items()]
    put: list[nn.ModuleDict] = []
    try:
        for door, delta in doors:
            assert slot not in door, f"the slot {slot!r} is taken"
            low = isinstance(delta, LowRank)
            door[slot] = Weighted(delta, strength) if low else Change(delta, strength)
            put.append(door)
        yield
    finally:
        for door in put:
            del door[slot]


def _door(layers: Mapping[str, nn.Module], path: str, delta: Delta) -> nn.ModuleDict:
    layer = layers.get(path)
    if not isinstance(layer, Layer):
        raise CheckpointError(f"the network has no layer {shown(path)} that could be taught")
    if not delta.fits(tuple(layer.weight.shape), bias=layer.bias is not None):
        raise CheckpointError(
            f"{delta.kind} does not fit {shown(path)}, whose weight is {list(layer.weight.shape)}"
        )
    if isinstance(delta, LowRank):
        assert isinstance(layer, (Linear, Conv2d))
        return layer.deltas
    return layer.changes
