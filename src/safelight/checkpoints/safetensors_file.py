"""The safetensors container: a header of names, types and places, then the bytes of the tensors.

The whole header is checked against the size of the file before anything else is read. The format is
described at https://github.com/huggingface/safetensors; we refuse what it forbids (holes, overlaps,
bytes left over, repeated names) and set bounds where it sets none.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from safelight.checkpoints.closing import Closes
from safelight.checkpoints.regular_file import RegularFile
from safelight.checkpoints.weight_file import Container, TensorInfo, missing
from safelight.errors import FileError
from safelight.printable import shown

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
# The largest published header we know (SDXL with training notes) is about 1 MB.
MAX_HEADER = 32 * 2**20
MAX_TENSORS = 100_000
MAX_NAME = 2_000
MAX_RANK = 16
MAX_NUMBERS = 2**60  # in one tensor; keeps strides of empty tensors within 64 bits


class SafetensorsFile(Closes):
    """An opened safetensors file; see `WeightFile`. Raises FileError if the file breaks a rule."""

    container: Container = "safetensors"

    def __init__(self, file: RegularFile) -> None:
        self._file = file
        self.path: Path = file.path
        entries, self.metadata, self.data_start = _parsed(file)
        self.header: dict[str, TensorInfo] = {name: info for name, info, _, _ in entries}
        self._starts = {name: self.data_start + start for name, _, start, _ in entries}

    def read(self, name: str, *, dtype: torch.dtype | None = None, copy: bool = False) -> Tensor:
        """One tensor; see `WeightFile.read`."""
        if name not in self.header:
            raise missing(self.path, name)
        info, start = self.header[name], self._starts[name]
        count = prod(info.shape)
        if copy or (dtype is not None and dtype != info.dtype):
            flat = self._file.copied(start, count, info.dtype, dtype)
        else:
            flat = self._file.mapped(start, count, info.dtype)
        return flat.view(info.shape)

    def unmap(self) -> None:
        self._file.unmap()

    def close(self) -> None:
        self._file.close()


Entry = tuple[str, TensorInfo, int, int]  # name, shape and type, first byte, byte after the last


def header_length(first: bytes, size: int) -> int | None:
    """The length of the header if `first` (the first 9 bytes or more) can start such a file."""
    length = int.from_bytes(first[:8], "little")
    plausible = len(first) >= 9 and first[8:9] == b"{" and length <= size - 8
    return length if plausible else None


def _parsed(file: RegularFile) -> tuple[list[Entry], dict[str, str], int]:
    where = shown(file.path)
    if file.size < 10:
        raise FileError(f"{where} has {file.size} bytes; the smallest safetensors file has 10")
    length = int.from_bytes(file.bytes(0, 8), "little")
    if length > file.size - 8:
        raise FileError(
            f"{where} says that its header has {length} bytes, but only {file.size - 8} follow; "
            "it is truncated or not a safetensors file; download or copy it again"
        )
    if not 2 <= length <= MAX_HEADER:
        raise FileError(
            f"{where} has a header of {length} bytes; expected 2 to {MAX_HEADER}; forged?"
        )
    fields = _json(where, file.bytes(8, length))
    metadata = _metadata(where, fields.pop("__metadata__", {}))
    if len(fields) > MAX_TENSORS:
        raise FileError(f"{where} lists {len(fields)} tensors; at most {MAX_TENSORS} are read")
    entries = [_entry(where, name, value) for name, value in fields.items()]
    entries.sort(key=lambda entry: entry[2:])
    _check_places(where, entries, file.size - 8 - length)
    return entries, metadata, 8 + length


def _json(where: str, header: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                raise FileError(f"{where} names {shown(name)} twice in its header")
            found[name] = value
        return found

    def constant(name: str) -> NoReturn:
        raise FileError(f"{where} holds the number {name} in its header")

    if not header.startswith(b"{"):
        raise FileError(f"{where} has a header that does not start with '{{'")
    # Each tensor takes three brackets; far more would only fill the memory.
    if header.count(b"[") + header.count(b"{") > 4 * MAX_TENSORS:
        raise FileError(f"{where} has a header of more than {4 * MAX_TENSORS} lists; forged?")
    try:
        text = header.decode("utf-8")
        fields = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else shown(str(error))
        raise FileError(
            f"{where} has a header that is not JSON: {reason}; the file is damaged, download or "
            "copy it again"
        ) from None
    if not isinstance(fields, dict):
        raise FileError(f"{where} has a header that is not a JSON object")
    return fields


def _metadata(where: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise FileError(f"{where}: __metadata__ must map names to texts")
    return value


def _entry(where: str, name: str, value: object) -> Entry:
    label = f"{where}: tensor {shown(name)}"
    if len(name) > MAX_NAME:
        raise FileError(f"{label} has a name of {len(name)} characters; at most {MAX_NAME}")
    if not name.isascii() and any(0xD800 <= ord(c) <= 0xDFFF for c in name):
        raise FileError(f"{label} has a name that is not Unicode")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise FileError(f"{label} must have exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        known = ", ".join(DTYPES)
        raise FileError(f"{label} has type {shown(value['dtype'], 40)}; known are {known}")
    shape, places = value["shape"], value["data_offsets"]
    if not _whole(shape) or len(shape) > MAX_RANK:
        raise FileError(f"{label} has a shape that is not a list of at most {MAX_RANK} sizes")
    if prod(max(size, 1) for size in shape) > MAX_NUMBERS:
        raise FileError(f"{label} has an impossible shape {shown(shape)}")
    if not _whole(places) or len(places) != 2 or places[0] > places[1]:
        raise FileError(f"{label} must have data_offsets [first, end]; got {shown(places)}")
    info = TensorInfo(tuple(shape), dtype)
    if places[1] - places[0] != info.nbytes:
        raise FileError(
            f"{label} of shape {list(info.shape)} and type {value['dtype']} takes {info.nbytes} "
            f"bytes, but {places[1] - places[0]} are set aside for it"
        )
    return name, info, places[0], places[1]


def _whole(values: object) -> bool:
    return isinstance(values, list) and all(
        type(v) is int and 0 <= v <= MAX_NUMBERS for v in values
    )


def _check_places(where: str, entries: list[Entry], size: int) -> None:
    """Tensors must follow one another from 0 to the end: no hole, no overlap, nothing left over."""
    reached = 0
    for name, _, start, end in entries:
        if start != reached:
            fault = "overlaps the one before" if start < reached else "leaves a hole before it"
            raise FileError(
                f"{where}: tensor {shown(name)} at byte {start} {fault} (expected {reached})"
            )
        reached = end
    if reached != size:
        fault = "is truncated" if reached > size else "has bytes left over"
        raise FileError(
            f"{where} {fault}: its tensors take {reached} bytes, the file has {size} for them"
        )
