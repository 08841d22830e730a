"""Weights to disk as safetensors, one tensor in memory at a time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from safelight.checkpoints.safetensors_file import DTYPES
from safelight.errors import RequestError
from safelight.writing import whole_file, write_text

_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
# More than what a head says of a tensor besides its name: type, shape and place, and the filling.
_HEAD_OF_ENTRY = 200


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


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """A JSON object to a file; the folder it is in is made. Raises OutputError as `write_text`."""
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_shards(
    folder: Path,
    stem: str,
    entries: Sequence[Entry],
    metadata: Mapping[str, str],
    max_file_bytes: int | None = None,
) -> None:
    """These tensors as `STEM.safetensors`, or as shards with their index if that is too large.

    The names are Diffusers' and Transformers'. max_file_bytes holds for every file of weights, head
    included. Raises RequestError for a tensor larger than that, OutputError as
    `write_safetensors` does.
    """
    shards = _shards(entries, metadata, max_file_bytes)
    names = [
        f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        if len(shards) > 1
        else f"{stem}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard, metadata)
    if len(shards) > 1:
        weight_map = {
            entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard
        }
        index = {
            "metadata": {"total_size": sum(entry.nbytes for entry in entries)},
            "weight_map": dict(sorted(weight_map.items())),
        }
        write_json(folder / f"{stem}.safetensors.index.json", index)


def _shards(
    entries: Sequence[Entry], metadata: Mapping[str, str], limit: int | None
) -> list[list[Entry]]:
    """Neighbours that fit into one file each, in the order given."""
    if limit is None:
        return [list(entries)]
    empty = len(_head((), metadata)[0])
    shards: list[list[Entry]] = [[]]
    size = empty
    for entry in entries:
        need = entry.nbytes + _HEAD_OF_ENTRY + len(json.dumps(entry.name))
        if empty + need > limit:
            raise RequestError(
                f"{entry.name} alone takes {entry.nbytes} bytes; files of at most {limit} bytes "
                "cannot hold it: allow larger ones"
            )
        if shards[-1] and size + need > limit:
            shards.append([])
            size = empty
        shards[-1].append(entry)
        size += need
    return shards


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
