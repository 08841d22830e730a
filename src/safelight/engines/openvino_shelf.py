"""Graphs of one network that are ready to run, and when they must be made anew.

A graph is made of the weights that a network has at that moment. Adapters that are put on or taken
off change them: the graph is then stale, which is noticed before the next call (`seen_weights`).

Shapes: any.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from safelight.engines.openvino_runtime import Compiled
from safelight.engines.seen_weights import Watch

KEPT = 2  # graphs of a network at once: each holds the weights anew, packed for its products


class Input(NamedTuple):
    """What a graph is made for: an input's name, shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


Signature = tuple[Input, ...]


@dataclass(eq=False)
class Shelf:
    """The graphs of one network, the last used last.

    made: a graph for such inputs, of the network as it is now.
    """

    network: nn.Module
    made: Callable[[Signature], Compiled]
    _watch: Watch = field(init=False)
    _ready: dict[Signature, Compiled] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._watch = Watch(self.network)

    def __call__(self, given: Mapping[str, Tensor]) -> Tensor:
        """The network's output for these inputs, in their order."""
        compiled, signature = self._found(signature_of(given))
        return compiled([_filled(one, given) for one in signature])

    def clear(self) -> None:
        """Let go of all graphs."""
        self._ready.clear()
        self._watch.forget()

    def _found(self, wanted: Signature) -> tuple[Compiled, Signature]:
        if self._watch.changed():
            self._ready.clear()  # before new ones take memory
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
