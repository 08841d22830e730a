"""A call of a network taken apart into its tensors and the rest, and put together again.

Compilers and recorders know tensors only. What else a call says (scales, names of layers) is fixed
in what they make, so it is part of what tells one such product from another.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor of a call belongs."""

    index: int


@dataclass(frozen=True, slots=True)
class Call:
    """Tensors of a call, and its skeleton: the arguments with a `Slot` for every tensor."""

    tensors: tuple[Tensor, ...]
    skeleton: Any

    @property
    def shapes(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and type of each tensor."""
        return tuple((tuple(t.shape), str(t.dtype)) for t in self.tensors)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for calls that one compiled graph serves."""
        return (repr(self.skeleton), self.shapes)


def taken_apart(*args: object, **told: object) -> Call:
    """The call of these arguments. What is None or empty by name is left out: it says nothing.

    Raises TypeError for an argument that is neither tensor, number, text nor made of such.
    """
    tensors: list[Tensor] = []
    named = {name: value for name, value in sorted(told.items()) if not _says_nothing(value)}
    skeleton = (_skeleton(args, tensors), _skeleton(named, tensors))
    return Call(tuple(tensors), skeleton)


def put_together(
    skeleton: Any, tensors: Sequence[Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of a call with these tensors."""
    args, told = skeleton
    return _filled(args, tensors), _filled(told, tensors)


def _says_nothing(value: object) -> bool:
    if value is None or value is False:
        return True
    return isinstance(value, tuple | list | Mapping | frozenset | set) and not value


def _skeleton(value: object, tensors: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors.append(value)
        return Slot(len(tensors) - 1)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _skeleton(value[name], tensors) for name in sorted(value)}
    if isinstance(value, frozenset | set):
        return tuple(sorted(str(item) for item in value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_skeleton(item, tensors) for item in value))
    if isinstance(value, tuple | list):
        return tuple(_skeleton(item, tensors) for item in value)
    raise TypeError(f"a call with {type(value).__name__} cannot be compiled or recorded")


def _filled(value: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(value, Slot):
        return tensors[value.index]
    if isinstance(value, dict):
        return {name: _filled(item, tensors) for name, item in value.items()}
    if isinstance(value, tuple):
        items: Iterable[Any] = (_filled(item, tensors) for item in value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
