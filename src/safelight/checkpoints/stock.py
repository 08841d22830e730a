"""The weights of one part under our names, from a loaded module or from a file not yet read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from safelight.checkpoints.finite import check_cast
from safelight.checkpoints.keymap import KeyMap, Link, Row
from safelight.checkpoints.parts import Part, PartConfig, Role, shapes_of
from safelight.checkpoints.weight_file import TensorInfo
from safelight.checkpoints.writing import Entry


@dataclass(frozen=True)
class Stock:
    """What there is to write of one part; `read` gets a tensor by our name."""

    role: Role
    config: PartConfig
    header: Mapping[str, TensorInfo]
    read: Callable[[str], Tensor]


def stock_of_module(role: Role, config: PartConfig, module: nn.Module) -> Stock:
    """The weights of a loaded module."""
    state = module.state_dict()
    header = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in state.items()}
    return Stock(role, config, header, state.__getitem__)


def stock_of_part(part: Part) -> Stock:
    """The weights of a part in a file, in the file's types. The part must be sound."""
    shapes = shapes_of(part.config)
    links = {name: link for link in part.keymap.links(shapes) for name in link.ours}
    header = {
        name: TensorInfo(shapes[name], part.tensors.info(links[name].theirs).dtype)
        for name in shapes
    }

    def read(name: str) -> Tensor:
        link = links[name]
        return link.op.to_ours(part.tensors.read(link.theirs))[link.ours.index(name)]

    return Stock(part.role, part.config, header, read)


def entries(
    stock: Stock, rows: Iterable[Row], *, prefix: str = "", dtype: torch.dtype | None = None
) -> list[Entry]:
    """The part's tensors as another layout names them; dtype None keeps the types."""
    return [_entry(stock, link, prefix, dtype) for link in KeyMap(rows).links(stock.header)]


def _entry(stock: Stock, link: Link, prefix: str, dtype: torch.dtype | None) -> Entry:
    infos = [stock.header[name] for name in link.ours]
    kind = dtype or infos[0].dtype

    def make() -> Tensor:
        return link.op.to_theirs([_cast(stock, name, kind) for name in link.ours])

    return Entry(prefix + link.theirs, link.op.shape([info.shape for info in infos]), kind, make)


def _cast(stock: Stock, name: str, dtype: torch.dtype) -> Tensor:
    tensor = stock.read(name)
    cast = tensor.to(dtype)
    check_cast(name, tensor, cast, stock.role)
    return cast
