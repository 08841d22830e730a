"""Safetensors files that break the format's rules, one rule each; see `FORGED`."""

import json
import struct
from collections.abc import Callable

from torch_archives import SIX, archive


def entry(shape: object = (2, 3), places: object = (0, 24), dtype: object = "F32") -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": places}


def safetensors(header: object, data: bytes = SIX, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def one(**changed: object) -> bytes:
    return safetensors({"weight": entry(**changed)})


def many(count: int) -> bytes:
    return safetensors({f"t{i}": entry([0], [0, 0]) for i in range(count)}, b"")


ONE = json.dumps(entry()).encode()
FORGED: dict[str, Callable[[object], bytes]] = {
    "length-2e63": lambda m: safetensors({"w": entry()}, length=2**63 + 5),
    "length-beyond": lambda m: safetensors({"w": entry()}, length=10**6),
    "length-0": lambda m: struct.pack("<Q", 0) + SIX,
    "length-short": lambda m: safetensors({"w": entry()}, length=20),
    "length-into-data": lambda m: safetensors({"w": entry()}, length=len(ONE) + 20),
    "only-length": lambda m: struct.pack("<Q", 2),
    "not-json": lambda m: safetensors(b"{weight: 1}"),
    "json-list": lambda m: safetensors(b"[1, 2, 3, 4]"),
    "leading-space": lambda m: safetensors(b' {"weight": ' + ONE + b"}"),
    "not-utf8-header": lambda m: safetensors(b'{"\xff": ' + ONE + b"}"),
    "lone-surrogate": lambda m: safetensors(b'{"\\ud800": ' + ONE + b"}"),
    "name-twice": lambda m: safetensors(b'{"w": ' + ONE + b', "w": ' + ONE + b"}"),
    "field-twice": lambda m: safetensors(b'{"w": ' + ONE[:-1] + b', "dtype": "F32"}}'),
    "nan": lambda m: safetensors(
        b'{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0,24]}}'
    ),
    "digits-5000": lambda m: safetensors(
        b'{"w": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0,24]}}'
    ),
    "type-unknown": lambda m: one(dtype="F99"),
    "type-list": lambda m: one(dtype=["F32"]),
    "type-none": lambda m: one(dtype=None),
    "type-too-wide": lambda m: one(dtype="F64"),
    "shape-negative": lambda m: one(shape=[-2, -3]),
    "shape-float": lambda m: one(shape=[2.0, 3]),
    "shape-true-header": lambda m: one(shape=[True, 6]),
    "shape-text-header": lambda m: one(shape="23"),
    "shape-overflow": lambda m: one(shape=[2**32, 2**32]),
    "shape-overflow-empty": lambda m: one(shape=[0, 2**60, 2**60], places=[0, 0]),
    "shape-other": lambda m: one(shape=[2, 4]),
    "rank-5000": lambda m: one(shape=[1] * 5000),
    "offsets-reversed": lambda m: one(places=[24, 0]),
    "offsets-negative": lambda m: one(places=[-24, 0]),
    "offsets-three": lambda m: one(places=[0, 24, 24]),
    "offsets-huge": lambda m: one(places=[2**63, 2**63 + 24]),
    "offsets-text": lambda m: one(places="ab"),
    "overlap": lambda m: safetensors({"a": entry(), "b": entry([1], [20, 24])}),
    "alias": lambda m: safetensors({"a": entry(), "b": entry()}),
    "hole": lambda m: safetensors({"a": entry([1], [0, 4]), "b": entry([1], [20, 24])}),
    "late-start": lambda m: one(shape=[5], places=[4, 24]),
    "truncated": lambda m: safetensors({"weight": entry()}, SIX[:-1]),
    "trailing": lambda m: safetensors({"weight": entry()}, SIX + b"\0"),
    "trailing-zip": lambda m: safetensors({"weight": entry()}, SIX) + archive(),
    "field-missing": lambda m: safetensors({"weight": {"dtype": "F32", "shape": [6]}}),
    "field-surplus": lambda m: safetensors({"weight": {**entry(), "code": "x"}}),  # type: ignore[dict-item]
    "entry-list": lambda m: safetensors({"weight": [1, 2]}),
    "metadata-list": lambda m: safetensors({"__metadata__": [], "weight": entry()}),
    "metadata-number": lambda m: safetensors({"__metadata__": {"a": 1}, "weight": entry()}),
    "metadata-nested": lambda m: safetensors({"__metadata__": {"a": {}}, "weight": entry()}),
    "tensors-150000": lambda m: many(150_000),
    "name-long": lambda m: safetensors({"w" * 10_000: entry()}),
    "name-escape": lambda m: safetensors({"\x1b[31m\n\x07": entry(dtype="F99")}),
    "json-deep": lambda m: safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "json-deep-type": lambda m: safetensors(
        b'{"w":{"dtype":' + b"[" * 900 + b"]" * 900 + b',"shape":[6],"data_offsets":[0,24]}}'
    ),
    "json-deep-list": lambda m: safetensors(b'{"a":' + b"[" * 10**6),
    "header-large": lambda m: safetensors(b'{"a":[' + b"[]," * 11_500_000 + b"[]]}"),
    "header-lists": lambda m: safetensors(b'{"a":[' + b"[]," * 10_000_000 + b"[]]}"),
}
