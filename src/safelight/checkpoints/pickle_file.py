"""PyTorch files (.ckpt, .pt, .pth, .bin) read as descriptions of tensors; nothing of them runs.

Two containers: a zip archive (PyTorch 1.6 and later) and the older one, five pickles followed by
the bytes of each storage. Both are read by `pickle_machine`; there is no way to ask for less care.
"""

import re
import struct
from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from safelight.checkpoints.closing import Closes
from safelight.checkpoints.pickle_machine import Unpickled, Vocabulary, unpickle
from safelight.checkpoints.regular_file import RegularFile
from safelight.checkpoints.torch_values import (
    BUILDS,
    Storage,
    TensorPlace,
    children,
    inert,
    stored,
)
from safelight.checkpoints.weight_file import Container, TensorInfo, missing
from safelight.checkpoints.zip_entries import zip_entries
from safelight.errors import FileError, UnsafeFileError
from safelight.printable import shown

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# Protocols 0 and 1 have no mark of their own; this is how their pickles of containers and of calls
# start, strict enough that a text file is not taken for one.
OLD_PICKLE = re.compile(
    rb"\(?c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n|\([dl]p?\d*\n|\([dl]q|\([SVIKXU]|[\]}][q(]"
)
MAX_PICKLE = 16 * 2**20
MAX_VISITS = 2_000_000
MAX_DEPTH = 32
MAX_NAME = 2_000
MAX_REMARKS = 10_000
MAX_REMARK = 65_536


def is_pickle(first: bytes) -> bool:
    """Whether a file that starts with these bytes is a PyTorch file or any other pickle."""
    new = first[:1] == b"\x80" and len(first) > 1 and first[1] <= 5
    tar = first[257:262] == b"ustar"
    return first[:4] == b"PK\x03\x04" or new or tar or OLD_PICKLE.match(first) is not None


class PickleFile(Closes):
    """An opened PyTorch file; see `WeightFile`.

    header: if the top holds a `state_dict`, its tensors alone; else all tensors, the names of
    nested containers joined by dots. metadata: the numbers and texts beside them. placeholders:
    names of code that the file mentions and that stayed inert.
    Raises FileError if it is damaged, UnsafeFileError if it names code that is not known to be
    harmless.
    """

    container: Container = "pickle"

    def __init__(self, file: RegularFile) -> None:
        self._file = file
        self.path = file.path
        where = shown(file.path)
        if file.bytes(0, 4) == b"PK\x03\x04":
            read, self._starts = _read_zip(file, where)
        else:
            read, self._starts = _read_legacy(file, where)
        self.placeholders = read.placeholders
        self._places, self.metadata = _tensors(read.value, where)
        if not self._places:
            raise FileError(f"{where} holds no tensors; expected weights")
        self.header: dict[str, TensorInfo] = {
            name: TensorInfo(place.shape, place.dtype) for name, place in self._places.items()
        }

    def read(self, name: str, *, dtype: torch.dtype | None = None, copy: bool = False) -> Tensor:
        """One tensor, with the strides it was saved with; see `WeightFile.read`."""
        if name not in self._places:
            raise missing(self.path, name)
        place = self._places[name]
        wanted = dtype or place.dtype
        start = self._starts[place.storage.key] + place.offset * place.dtype.itemsize
        if not copy and wanted == place.dtype:
            flat = self._file.mapped(start, place.extent, place.dtype)
        elif place.contiguous:
            flat = self._file.copied(start, prod(place.shape), place.dtype, wanted)
        else:
            flat = self._file.copied(start, place.extent, place.dtype)
        return torch.as_strided(flat, place.shape, place.stride).to(wanted)

    def unmap(self) -> None:
        self._file.unmap()

    def close(self) -> None:
        self._file.close()


def _read_zip(file: RegularFile, where: str) -> tuple[Unpickled, dict[str, int]]:
    entries = zip_entries(file)
    programs = [name for name in entries if name.endswith(".pkl")]
    root, _, name = programs[0].rpartition("/") if len(programs) == 1 else ("", "", "")
    if name != "data.pkl" or not root or "/" in root:
        raise FileError(
            f"{where} is a zip archive but not a PyTorch weights file: expected one NAME/data.pkl, "
            f"found {', '.join(shown(p, 60) for p in programs[:4]) or 'no pickle'}"
        )
    if any(entry.startswith((f"{root}/code/", f"{root}/ts_code/")) for entry in entries):
        raise UnsafeFileError(f"{where} is a TorchScript program, which is code; get the weights")
    order = entries.get(f"{root}/byteorder")
    if order and file.bytes(order.start, min(order.size, 16)) != b"little":
        raise FileError(f"{where} was written by a big-endian machine; save it again on another")
    program = entries[programs[0]]
    if program.size > MAX_PICKLE:
        raise FileError(f"{where} has a pickle of {program.size} bytes; at most {MAX_PICKLE}")

    sizes: dict[str, int] = {}

    def register(storage: Storage) -> Storage:
        entry = entries.get(f"{root}/data/{storage.key}")
        if entry is None or entry.size != storage.nbytes:
            found = f"has {entry.size}" if entry else "is missing"
            raise ValueError(
                f"storage {shown(storage.key, 40)} of {storage.nbytes} bytes, whose entry {found}"
            )
        sizes[storage.key] = entry.start
        return storage

    data = file.bytes(program.start, program.size)
    read = unpickle(data, 0, Vocabulary(BUILDS, inert, stored(register, legacy=False)), where)
    if read.end != len(data):
        raise FileError(f"{where} has bytes left over after its pickle; forged?")
    return read, sizes


def _read_legacy(file: RegularFile, where: str) -> tuple[Unpickled, dict[str, int]]:
    data = file.bytes(0, min(file.size, MAX_PICKLE))
    storages: dict[str, Storage] = {}

    def register(storage: Storage) -> Storage:
        if storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {shown(storage.key, 40)} described in two ways")
        return storage

    vocabulary = Vocabulary(BUILDS, inert, stored(register, legacy=True))
    if data[257:262] == b"ustar":
        raise FileError(f"{where} is a PyTorch file from before 2017 (tar); save it again")
    magic = unpickle(data, 0, vocabulary, where)
    if magic.value != LEGACY_MAGIC:
        raise FileError(
            f"{where} is a pickle but not a PyTorch file; nothing of it ran. "
            "Expected weights as .safetensors or from torch.save"
        )
    protocol = unpickle(data, magic.end, vocabulary, where)
    system = unpickle(data, protocol.end, vocabulary, where)
    if protocol.value != LEGACY_PROTOCOL or not isinstance(system.value, dict):
        raise FileError(f"{where} has an unknown version of PyTorch's old format")
    if system.value.get("little_endian") is not True:
        raise FileError(f"{where} was written by a big-endian machine; save it again on another")
    read = unpickle(data, system.end, vocabulary, where)
    keys = unpickle(data, read.end, vocabulary, where)
    return read, _legacy_starts(file, keys, storages, where)


def _legacy_starts(
    file: RegularFile, keys: Unpickled, storages: dict[str, Storage], where: str
) -> dict[str, int]:
    """Where the bytes of each storage begin: they follow in the order of the keys."""
    if not isinstance(keys.value, list) or not all(type(key) is str for key in keys.value):
        raise FileError(f"{where} has no proper list of its storages")
    if len(keys.value) != len(storages) or set(keys.value) != set(storages):
        raise FileError(f"{where} lists other storages than its tensors use; forged?")
    starts: dict[str, int] = {}
    at = keys.end
    for key in keys.value:
        (count,) = struct.unpack("<q", file.bytes(at, 8))
        storage = storages[key]
        if count != storage.count:
            raise FileError(
                f"{where}: storage {shown(key, 40)} has {count} numbers, "
                f"but its tensors expect {storage.count}"
            )
        starts[key] = at + 8
        at += 8 + storage.nbytes
    if at != file.size:
        fault = "is truncated" if at > file.size else "has bytes left over"
        raise FileError(f"{where} {fault}: its storages end at byte {at} of {file.size}")
    return starts


def _tensors(value: object, where: str) -> tuple[dict[str, TensorPlace], dict[str, str]]:
    """The tensors by name and the remarks beside them."""
    found: dict[str, TensorPlace] = {}
    remarks: dict[str, str] = {}
    inner = value.get("state_dict") if isinstance(value, dict) else None
    chosen = inner if any(isinstance(p, TensorPlace) for _, p in children(inner)) else None
    for name, part in _leaves(value, where):
        if isinstance(part, TensorPlace):
            if name in found:
                raise FileError(f"{where} names tensor {shown(name)} twice")
            found[name] = part
        elif isinstance(part, (str, int, float)) and len(remarks) < MAX_REMARKS:
            text = str(part) if not isinstance(part, int) or abs(part) < 2**128 else "a huge number"
            if len(text) <= MAX_REMARK:
                remarks[name] = text
    if chosen is not None:
        prefix = "state_dict."
        found = {n.removeprefix(prefix): p for n, p in found.items() if n.startswith(prefix)}
    return found, remarks


def _leaves(value: object, where: str) -> Iterator[tuple[str, object]]:
    """Everything that is not a container, in order, with its dotted name."""
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    visits = 0
    while waiting:
        name, part, depth = waiting.pop()
        below = children(part)
        visits += 1 + len(below)
        if depth > MAX_DEPTH or visits > MAX_VISITS:
            raise FileError(f"{where} nests its contents too deeply or without end")
        if not below:
            yield name, part
        dot = f"{name}." if name else ""
        if any(len(dot) + len(key) > MAX_NAME for key, _ in below):
            raise FileError(f"{where} holds a name of more than {MAX_NAME} characters")
        waiting += [(dot + key, child, depth + 1) for key, child in reversed(below)]
