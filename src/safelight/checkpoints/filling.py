"""The weights of a part from its file into its module, one tensor at a time."""

import torch
from torch import Tensor, nn

from safelight.checkpoints.finite import check_cast, check_finite, overflows
from safelight.checkpoints.keymap import Link
from safelight.checkpoints.parts import Part
from safelight.errors import FileError


def filled(part: Part, *, dtype: torch.dtype | None, device: torch.device) -> nn.Module:
    """The module of a part with its weights. The part must have been reported sound."""
    module = part.module()
    for link in part.links():
        for name, tensor in zip(link.ours, _read(part, link, dtype, device), strict=True):
            _assign(module, name, tensor)
    return module.eval().requires_grad_(False)


def _read(
    part: Part, link: Link, dtype: torch.dtype | None, device: torch.device
) -> tuple[Tensor, ...]:
    wanted = dtype or _default_dtype(part.tensors.info(link.theirs).dtype, device)
    tensor = part.tensors.read(link.theirs, dtype=wanted)
    _check(part, link, tensor)
    return tuple(ours.contiguous().to(device) for ours in link.op.to_ours(tensor))


def _check(part: Part, link: Link, tensor: Tensor) -> None:
    """Refuse NaN and infinity, and say whether the file or the cast is to blame."""
    name, path = part.stored(link.theirs), part.tensors.file.path
    narrowed = overflows(part.tensors.info(link.theirs).dtype, tensor.dtype)
    try:
        check_finite([(name, tensor)], path, full=narrowed)
    except FileError:
        check_cast(name, part.tensors.read(link.theirs), tensor, path)
        raise


def _default_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    if device.type == "cpu" or not stored.is_floating_point:
        return torch.float32
    return stored if stored.itemsize > 1 else torch.float16


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
