"""Names of one layout in terms of another: rows of module prefixes, valid in both directions.

"theirs" is the layout of a file, "ours" the Diffusers and Transformers names that our modules use.
A row covers every tensor below its prefix, and the longest prefix wins, so one row serves all
weights of a module whose inner names agree. Rows are computed from configs, never typed by hand.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """What happens to a tensor between a file and a module; each has its inverse.

    parts: what `*` stands for in `Row.ours` when one tensor of the file becomes several of ours.
    shape: the file's shape for our shapes. accepts: whether a shape found in a file will do.
    """

    name: str
    to_ours: Callable[[Tensor], tuple[Tensor, ...]]
    to_theirs: Callable[[Sequence[Tensor]], Tensor]
    shape: Callable[[Sequence[Shape]], Shape]
    accepts: Callable[[Shape, Sequence[Shape]], bool]
    parts: tuple[str, ...] = ("",)


def _same(theirs: Shape, ours: Sequence[Shape]) -> bool:
    return theirs == ours[0]


def _squeezed(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor[:, :, 0, 0] if tensor.dim() == 4 else tensor,)


def _unsqueezed(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0][:, :, None, None] if tensors[0].dim() == 2 else tensors[0]


def _conv_shape(ours: Sequence[Shape]) -> Shape:
    return (*ours[0], 1, 1) if len(ours[0]) == 2 else ours[0]


def _stacked_shape(ours: Sequence[Shape]) -> Shape:
    return (sum(shape[0] for shape in ours), *ours[0][1:])


KEEP = Op(
    name="keep",
    to_ours=lambda tensor: (tensor,),
    to_theirs=lambda tensors: tensors[0],
    shape=lambda ours: ours[0],
    accepts=_same,
)
CONV1X1 = Op(  # a 1x1 convolution in the file, a Linear in ours; biases pass unchanged
    name="conv1x1",
    to_ours=_squeezed,
    to_theirs=_unsqueezed,
    shape=_conv_shape,
    accepts=lambda theirs, ours: theirs in (ours[0], _conv_shape(ours)),
)
TRANSPOSE = Op(
    name="transpose",
    to_ours=lambda tensor: (tensor.mT.contiguous(),),
    to_theirs=lambda tensors: tensors[0].mT.contiguous(),
    shape=lambda ours: (ours[0][1], ours[0][0]),
    accepts=lambda theirs, ours: theirs == (ours[0][1], ours[0][0]),
)
SPLIT_QKV = Op(  # query, key and value stacked along the rows
    name="split_qkv",
    to_ours=lambda tensor: tuple(part.contiguous() for part in tensor.chunk(3)),
    to_theirs=lambda tensors: torch.cat(list(tensors)),
    shape=_stacked_shape,
    accepts=lambda theirs, ours: theirs == _stacked_shape(ours),
    parts=("q", "k", "v"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One module prefix in the file and in ours; an empty prefix stands for the whole layout."""

    theirs: str
    ours: str
    op: Op = KEEP


@dataclass(frozen=True, slots=True)
class Link:
    """One tensor of the file and the tensors of ours that it holds."""

    theirs: str
    ours: tuple[str, ...]
    op: Op


class KeyMap:
    """Translates tensor names by rows, both ways."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = tuple(rows)
        self._by_ours = {
            row.ours.replace("*", part): (row, part) for row in self.rows for part in row.op.parts
        }
        self._by_theirs = {row.theirs: row for row in self.rows}

    def links(self, ours: Iterable[str]) -> list[Link]:
        """The file's tensors that hold these tensors of ours, in order of first mention.

        Raises KeyError for a name that no row covers: the rows and the module disagree.
        """
        found: dict[str, Link] = {}
        for name in ours:
            link = self._link(name)
            found.setdefault(link.theirs, link)
        return list(found.values())

    def to_ours(self, theirs: str) -> tuple[str, ...] | None:
        """Our names for one tensor of the file; None if no row covers it."""
        for prefix, suffix in _splits(theirs):
            if row := self._by_theirs.get(prefix):
                return _expanded(row, suffix)
        return None

    def _link(self, ours: str) -> Link:
        for prefix, suffix in _splits(ours):
            if found := self._by_ours.get(prefix):
                row, _ = found
                return Link(row.theirs + suffix, _expanded(row, suffix), row.op)
        raise KeyError(f"no row covers {ours}")


def _expanded(row: Row, suffix: str) -> tuple[str, ...]:
    return tuple(row.ours.replace("*", part) + suffix for part in row.op.parts)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """(prefix, rest) for every module prefix of a name, longest first; the rest keeps its dot."""
    yield name, ""
    end = name.rfind(".")
    while end > 0:
        yield name[:end], name[end:]
        end = name.rfind(".", 0, end)
    yield "", name
