"""Graphs of one network that are ready to run, and when they must be made anew.

A graph is made of the weights that a network has at that moment. Adapters that are put on or taken
off change them: the graph is then stale, which is noticed by looking at every weight's memory,
version and type, and at what lies in the slots of layers. It takes milliseconds.

Shapes: any.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from safelight.engines.openvino_runtime import Compiled
from safelight.models.layers import Conv2d

KEPT = 2  # graphs of a network at once: each holds the weights anew, packed for its products


class Input(NamedTuple):
    """What a graph is made for: an input's name, shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


Signature = tuple[Input, ...]


class _Weight(NamedTuple):
    name: str
    memory: Tensor  # shares that of the weight, which so is not given to another meanwhile
    version: int

    def is_still(self, other: "_Weight") -> bool:
        return (
            self.name == other.name
            and self.version == other.version
            and self.memory.data_ptr() == other.memory.data_ptr()
            and self.memory.dtype == other.memory.dtype
            and self.memory.shape == other.memory.shape
        )


@dataclass(frozen=True, eq=False)
class State:
    """What a network computes with, as it is now."""

    weights: tuple[_Weight, ...]
    built: tuple[object, ...]  # modules that joined it, and maps that continue at their other side

    def is_still(self, other: "State") -> bool:
        """Whether nothing was changed between the two."""
        if self.built != other.built or len(self.weights) != len(other.weights):
            return False
        return all(a.is_still(b) for a, b in zip(self.weights, other.weights, strict=True))


def state_of(network: nn.Module) -> State:
    """The weights and slots of a network now."""
    tensors = (*network.named_parameters(), *network.named_buffers())
    weights = tuple(_Weight(name, t.detach(), t._version) for name, t in tensors)
    built: list[object] = []
    for name, module in network.named_modules():
        built.append((name, type(module)))
        if isinstance(module, Conv2d) and module.wrap:
            built.append(module.wrap)
    return State(weights, tuple(built))


@dataclass(eq=False)
class Shelf:
    """The graphs of one network, the last used last.

    made: a graph for such inputs, of the network as it is now.
    """

    network: nn.Module
    made: Callable[[Signature], Compiled]
    _state: State | None = None
    _ready: dict[Signature, Compiled] = field(default_factory=dict)

    def __call__(self, given: Mapping[str, Tensor]) -> Tensor:
        """The network's output for these inputs, in their order."""
        compiled, signature = self._found(signature_of(given))
        return compiled([_filled(one, given) for one in signature])

    def clear(self) -> None:
        """Let go of all graphs."""
        self._ready.clear()
        self._state = None

    def _found(self, wanted: Signature) -> tuple[Compiled, Signature]:
        state = state_of(self.network)
        if self._state is None or not self._state.is_still(state):
            self._ready.clear()  # before new ones take memory
            self._state = state
        signature = next((known for known in self._ready if serves(known, wanted)), wanted)
        compiled = self._ready.pop(signature, None)
        if compiled is None:
            while len(self._ready) >= KEPT:
                del self._ready[next(iter(self._ready))]
            compiled = self.made(signature)
        self._ready[signature] = compiled
        return compiled, signature


def signature_of(given: Mapping[str, Tensor]) -> Signature:
    """What a graph for these inputs is made for."""
    return tuple(Input(name, tuple(t.shape), t.dtype) for name, t in given.items())


def serves(known: Signature, wanted: Signature) -> bool:
    """Whether a graph for `known` computes `wanted` too: what it takes besides can be zeros.

    Such are the residuals of control networks, which are added.
    """
    asked = set(wanted)
    return asked <= set(known) and all(is_added(one.name) for one in known if one not in asked)


ADDED = "added "


def is_added(name: str) -> bool:
    """Whether an input of this name is one that is only added to something."""
    return name.startswith(ADDED)


def _filled(one: Input, given: Mapping[str, Tensor]) -> Tensor:
    found = given.get(one.name)
    return torch.zeros(one.shape, dtype=one.dtype) if found is None else found
