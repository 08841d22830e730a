"""The weights of a part from its file into its module, one tensor at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from safelight.checkpoints.finite import check_cast, check_finite, overflows
from safelight.checkpoints.keymap import Link
from safelight.checkpoints.parts import Part
from safelight.errors import FileError
from safelight.model import Sink

CPU = torch.device("cpu")


def filled(
    part: Part, *, dtype: torch.dtype | None, device: torch.device, sink: Sink | None = None
) -> nn.Module:
    """The module of a part with its weights. The part must have been reported sound.

    sink: is given the weights that it wants, in place of the module.
    """
    module = part.module()
    for link in part.links():
        if sink is not None and all(sink.wants(part.role, module, name) for name in link.ours):
            for name, tensor in weights_of(part, link, torch.float32, CPU, passing=True):
                sink.take(module, name, tensor)
                _assign(module, name, _bodiless(part, link, tensor, dtype, device))
            continue
        for name, tensor in weights_of(part, link, dtype, device):
            _assign(module, name, tensor)
    return module.eval().requires_grad_(False)


def weights_of(
    part: Part,
    link: Link,
    dtype: torch.dtype | None,
    device: torch.device,
    *,
    passing: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """Our names and tensors of one of the file's, in the wanted type and place.

    dtype: None is as `load` says. passing: they will be let go of soon, so they are read and not
    mapped; pages of a map stay in memory for as long as any tensor of it.
    Raises FileError for a NaN or an infinity, RequestError for numbers that the type does not hold.
    """
    wanted = dtype or default_dtype(part.tensors.info(link.theirs).dtype, device)
    tensor = part.tensors.read(link.theirs, dtype=wanted, copy=passing)
    _check(part, link, tensor)
    for name, ours in zip(link.ours, link.op.to_ours(tensor), strict=True):
        yield name, ours.contiguous().to(device)


def _check(part: Part, link: Link, tensor: Tensor) -> None:
    """Refuse NaN and infinity, and say whether the file or the cast is to blame."""
    name, path = part.stored(link.theirs), part.tensors.file.path
    narrowed = overflows(part.tensors.info(link.theirs).dtype, tensor.dtype)
    try:
        check_finite([(name, tensor)], path, full=narrowed)
    except FileError:
        check_cast(name, part.tensors.read(link.theirs), tensor, path)
        raise


def _bodiless(
    part: Part, link: Link, tensor: Tensor, dtype: torch.dtype | None, device: torch.device
) -> Tensor:
    """A weight that was taken, without memory, in the type that it would have had."""
    wanted = dtype or default_dtype(part.tensors.info(link.theirs).dtype, device)
    return torch.empty(tensor.shape, dtype=wanted, device="meta")


def default_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The type of a weight where none is asked for."""
    if device.type == "cpu" or not stored.is_floating_point:
        return torch.float32
    return stored if stored.itemsize > 1 else torch.float16


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
