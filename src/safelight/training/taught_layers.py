"""The deltas of an adapter as one module that learns, in the layers of a frozen model.

Shapes: see `safelight.models.deltas`.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TypeGuard

from torch import Tensor, nn
from torch.nn import functional as F

from safelight.adapters.live import SLOT, Weighted, live
from safelight.models.deltas import Delta
from safelight.models.layers import Conv2d, GroupNorm, LayerNorm, Linear

PLAYER = "adapter"
Deltas = Mapping[str, Mapping[str, Delta]]  # by part, then by path
_LAYERS = (Linear, Conv2d, GroupNorm, LayerNorm)


class TaughtLayers(nn.Module):
    """What learns: weights are named as in `unet.down_blocks.0.attentions.0...to_q.down`."""

    def __init__(self, deltas: Deltas) -> None:
        super().__init__()
        self.deltas = deltas
        for part, layers in deltas.items():
            for path, delta in layers.items():
                self._hang(f"{part}.{path}", delta)

    def _hang(self, path: str, delta: Delta) -> None:
        *parents, name = path.split(".")
        place: nn.Module = self
        for parent in parents:
            if parent not in place._modules:
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        place.add_module(name, delta)

    @property
    def count(self) -> int:
        """How many layers are taught."""
        return sum(len(layers) for layers in self.deltas.values())


class Dropped(nn.Module):
    """A delta in a layer's slot that sees only a part of the layer's input while it learns.

    Srivastava et al. 2014, as the published LoRA trainers apply it: to what goes into `down`.
    """

    def __init__(self, inner: Weighted, share: float) -> None:
        super().__init__()
        self.inner, self.share = inner, share

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        # The delta is a part of what learns; the frozen network around it is always judging.
        seen = F.dropout(x, self.share, training=self.inner.delta.training)
        added: Tensor = self.inner(seen, layer)
        return added


@contextmanager
def taking_part(
    networks: Mapping[str, nn.Module], deltas: Deltas, *, dropout: float = 0.0
) -> Iterator[None]:
    """For as long as it is entered, the deltas act in the networks of their parts, and can learn.

    dropout: of the input of LoRAs. Raises CheckpointError for a layer that does not fit.
    """
    with ExitStack() as stack:
        for part, layers in deltas.items():
            stack.enter_context(live(networks[part], layers))
        if dropout:
            for network in networks.values():
                for layer in network.modules():
                    if _is_taught(layer):
                        inner = layer.deltas[SLOT]
                        assert isinstance(inner, Weighted)
                        layer.deltas[SLOT] = Dropped(inner, dropout)
        yield


def _is_taught(layer: nn.Module) -> TypeGuard[Linear | Conv2d]:
    return isinstance(layer, Linear | Conv2d) and SLOT in layer.deltas


@contextmanager
def untaught(*networks: nn.Module) -> Iterator[None]:
    """Inside, the networks are as they were before they were taught anything."""
    doors = [
        door
        for network in networks
        for layer in network.modules()
        if isinstance(layer, _LAYERS)
        for door in (getattr(layer, "deltas", None), layer.changes)
        if door is not None and SLOT in door
    ]
    found = [door.pop(SLOT) for door in doors]
    try:
        yield
    finally:
        for door, module in zip(doors, found, strict=True):
            door[SLOT] = module
