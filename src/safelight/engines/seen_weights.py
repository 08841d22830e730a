"""What a network computes with, as an engine saw it last, and what of it has changed since.

An engine that keeps something it made of a network's weights asks before each call whether they
still are what they were. Where tensors lie is found once: looking there takes a fifth of a
millisecond for some three hundred of them, and walking through the network ten times that.

Noticed are another tensor in a place, other memory, shape, strides or type of the same one, a
change in place that PyTorch counts (not one through `.data`, which it doesn't), modules and tensors
that come, go or change their order, and how convolutions treat the border.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from safelight.engines.doors import Doors

Owner = Mapping[str, Tensor | None]  # the parameters or buffers of a module


class _Place:
    """Where a tensor lies, and the one that was seen there.

    The tensor and its memory are kept, so that neither is given to another meanwhile.
    """

    __slots__ = ("dtype", "leaf", "memory", "name", "owner", "tensor", "version")

    def __init__(self, name: str, owner: Owner, leaf: str) -> None:
        self.name, self.owner, self.leaf = name, owner, leaf
        self.tensor: Tensor | None = None
        self.memory: Tensor | None = None
        self.dtype: torch.dtype | None = None
        self.version: int | None = None

    def look(self) -> None:
        """Remember what lies here now."""
        self.tensor = now = self.owner.get(self.leaf)
        self.memory = None if now is None else now.detach()
        self.dtype = None if now is None else now.dtype
        # tensors of inference mode cannot be changed outside of it, and count nothing
        self.version = None if now is None or now.is_inference() else now._version


class Weights:
    """Tensors of a network, and which of them are not those that were seen last.

    names: of parameters; None is every parameter and buffer.
    """

    def __init__(self, network: nn.Module, names: Iterable[str] | None = None) -> None:
        places = _all_places(network) if names is None else _places_of(network, names)
        self._places = tuple(places)
        self._new = True

    def fresh(self) -> dict[str, Tensor]:
        """By name, detached, those that changed since it was asked last; all the first time."""
        return {place.name: place.memory for place in self._look() if place.memory is not None}

    def changed(self) -> bool:
        """Whether any changed, came or went since it was asked last; true the first time."""
        return bool(self._look())

    def _look(self) -> list[_Place]:
        """The places where something else lies, or is, than was seen last; it is seen now."""
        every, self._new = self._new, False
        found = [place for place in self._places if every or _changed(place)]
        for place in found:
            place.look()
        return found

    def forget(self) -> None:
        """Take all for changed when it is asked next."""
        self._new = True


def _changed(place: _Place) -> bool:
    now, seen = place.owner.get(place.leaf), place.memory
    if now is not place.tensor:
        return True
    if now is None or seen is None:
        return False
    # a version of None would be an inference tensor's
    return (
        (place.version is not None and now._version != place.version)
        or not now.is_set_to(seen)
        or now.dtype is not place.dtype
    )


def _all_places(network: nn.Module) -> Iterator[_Place]:
    """Of all modules, also those where a tensor may be and is not."""
    for path, module in network.named_modules():
        for owner in (module._parameters, module._buffers):
            for leaf in owner:
                yield _Place(f"{path}.{leaf}" if path else leaf, owner, leaf)


def _places_of(network: nn.Module, names: Iterable[str]) -> Iterator[_Place]:
    for name in names:
        path, _, leaf = name.rpartition(".")
        yield _Place(name, network.get_submodule(path)._parameters, leaf)


class Structure:
    """The modules of a network, how they are put together, and whether they are still so."""

    def __init__(self, network: nn.Module) -> None:
        self._modules = tuple(network.modules())
        self._kinds = [*map(type, self._modules)]
        self._inside = [m._modules for m in self._modules if m._modules]
        self._names = [[*inside] for inside in self._inside]
        self._children = [[*inside.values()] for inside in self._inside]
        self._tables = [t for m in self._modules for t in (m._modules, m._parameters, m._buffers)]
        self._lengths = [*map(len, self._tables)]
        self._doors = Doors(network)
        self._wraps = self._doors.wraps()

    def is_still(self) -> bool:
        """Whether the network is built as it was; of tensors only how many there are."""
        return (
            [*map(len, self._tables)] == self._lengths
            and [[*inside.values()] for inside in self._inside] == self._children
            and [[*inside] for inside in self._inside] == self._names
            and [*map(type, self._modules)] == self._kinds
            and self._doors.wraps() == self._wraps
        )


class Watch:
    """All that a network computes with, its slots and their adapters included."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._seen: tuple[Structure, Weights] | None = None

    def changed(self) -> bool:
        """Whether anything is not what it was when this was asked last; true the first time."""
        if self._seen is not None:
            structure, weights = self._seen
            if structure.is_still():
                return weights.changed()
        self._seen = Structure(self._network), Weights(self._network)
        self._seen[1].changed()
        return True

    def forget(self) -> None:
        """Let go of what was seen; the next answer is true."""
        self._seen = None
