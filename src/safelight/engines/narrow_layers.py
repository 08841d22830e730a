"""Which layers keep their weights in eight bits a number, and how they come by them.

Weights are taken as they are read from the file, one at a time, so no more than one of them is ever
there in full.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from safelight.engines.narrow_weight import NarrowWeight
from safelight.models.layers import Conv2d, Linear

FEWEST = 1024  # weights; below there is nothing to save
LEFT = ("conv_in", "conv_out")  # few weights, and every picture goes through them
_KEPT = "taken_narrow"  # where a layer waits with what a sink took, until the engine is applied


class NarrowSink(ABC):
    """A `Sink` that keeps the large weights of some parts of a model in eight bits a number."""

    @abstractmethod
    def keeps(self, role: str) -> bool:
        """Whether this part of a model is kept so."""

    @abstractmethod
    def made(self, weight: Tensor) -> NarrowWeight:
        """A weight in eight bits a number."""

    def wants(self, role: str, module: nn.Module, name: str) -> bool:
        """Whether a weight is taken: that of a product or a convolution of such a part."""
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or not self.keeps(role):
            return False
        return _served(path, module.get_submodule(path))

    def take(self, module: nn.Module, name: str, weight: Tensor) -> None:
        """Keep a weight for its layer."""
        vars(module.get_submodule(name.rpartition(".")[0]))[_KEPT] = self.made(weight)


def taken(layer: nn.Module, place: torch.device | None) -> NarrowWeight | None:
    """What a sink took of a layer, on this device; None if nothing. The layer forgets it."""
    kept: NarrowWeight | None = vars(layer).pop(_KEPT, None)
    return None if kept is None else kept.moved(place, kept.dtype)


def place_of(network: nn.Module) -> torch.device | None:
    """Where the weights lie that no sink took; None if it took all: then they lie where it left
    them."""
    return next((one.device for one in network.parameters() if one.device.type != "meta"), None)


def layers(network: nn.Module) -> Iterator[tuple[str, Linear | Conv2d]]:
    """The layers of a network with a large weight, and their paths."""
    for path, layer in network.named_modules():
        if _served(path, layer):
            assert isinstance(layer, Linear | Conv2d)
            yield path, layer


def nbytes(network: nn.Module) -> int:
    """What the weights of a network take in memory."""
    return sum(
        weight.kept_bytes if isinstance(weight, NarrowWeight) else weight.nbytes
        for weight in network.parameters()
    )


def _served(path: str, layer: nn.Module) -> bool:
    return (
        isinstance(layer, Linear | Conv2d)
        and path not in LEFT
        and layer.weight.numel() >= FEWEST
        and ".deltas." not in path
    )
