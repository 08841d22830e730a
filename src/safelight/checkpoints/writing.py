"""Weights to disk as safetensors, one tensor in memory at a time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from safelight.checkpoints.safetensors_file import DTYPES
from safelight.writing import whole_file

_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to write: its name, shape and type, and how to get it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_safetensors(path: Path, entries: Sequence[Entry], metadata: Mapping[str, str]) -> None:
    """A safetensors file with these tensors and remarks, in the order the format prefers.

    Raises OutputError if it cannot be written; nothing is left behind then.
    """
    entries = sorted(entries, key=lambda e: (-e.dtype.itemsize, e.name))
    head, at = _head(entries, metadata)
    with whole_file(path, len(head) + at) as file:
        file.write(head)
        for entry in entries:
            tensor = entry.make().detach().to("cpu", entry.dtype).contiguous()
            assert tuple(tensor.shape) == entry.shape, f"{entry.name} is {tuple(tensor.shape)}"
            if tensor.numel():
                file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _head(entries: Sequence[Entry], metadata: Mapping[str, str]) -> tuple[bytes, int]:
    """The length and the JSON before the tensors, and how many bytes follow."""
    fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for entry in entries:
        fields[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.nbytes],
        }
        at += entry.nbytes
    text = json.dumps(fields, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return len(text).to_bytes(8, "little") + text, at
