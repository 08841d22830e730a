"""Weights to disk, one tensor in memory at a time, and never half a file under its real name."""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from safelight.checkpoints.printable import shown
from safelight.checkpoints.safetensors_file import DTYPES
from safelight.errors import OutputError

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


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    data = text.encode("utf-8")
    with whole_file(path, len(data)) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path, size: int) -> Iterator[BinaryIO]:
    """A file that takes its name only once everything is written and has reached the disk.

    Until then an older file of that name stays. Raises OutputError naming folder and bytes.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    with _told(path, size):
        try:
            # O_EXCL: never follow a link that somebody laid at this name
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, size: int) -> Iterator[Path]:
    """A new folder to fill, which takes its name only if filling it succeeds.

    Raises OutputError if there already is something of that name, or on a failure.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    with _told(path, size):
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise OutputError(f"{shown(path)} exists and is not empty; give a new folder")
        try:
            temporary.mkdir()
            yield temporary
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _told(path: Path, size: int) -> Iterator[None]:
    """Turn a failure of the disk into an OutputError; refuse at once what cannot fit."""
    try:
        free = shutil.disk_usage(path.parent).free
        if size > free:
            raise OutputError(
                f"cannot write {shown(path.name)} in {shown(path.parent.absolute())}: it needs "
                f"{size} bytes and {free} are free; free some space or give another folder"
            )
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {shown(path.name)} ({size} bytes) in {shown(path.parent.absolute())}: "
            f"{error.strerror or type(error).__name__}; free some space or give another folder"
        ) from None


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


def _sync(folder: Path) -> None:
    """Make the new name itself durable; systems that cannot open a folder do so on their own."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
