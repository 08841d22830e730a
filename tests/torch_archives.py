"""PyTorch files written opcode by opcode: sound ones, and the pieces of others."""

import io
import pickle
import struct
import zipfile
from collections.abc import Iterable


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def whole(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(what: bytes, *args: bytes) -> bytes:
    return what + tuple_of(*args) + b"R"


def program(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def dict_of(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(key: str = "0", count: int = 6, kind: str = "FloatStorage", *more: bytes) -> bytes:
    parts = [text("storage"), name("torch", kind), text(key), text("cpu"), whole(count), *more]
    return tuple_of(*parts) + b"Q"


ORDERED = name("collections", "OrderedDict") + b")R"


def tensor(
    source: bytes | None = None,
    offset: int = 0,
    shape: Iterable[int] = (2, 3),
    stride: Iterable[int] = (3, 1),
) -> bytes:
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage() if source is None else source,
        whole(offset),
        tuple_of(*map(whole, shape)),
        tuple_of(*map(whole, stride)),
        b"\x89",
        ORDERED,
    )


SIX = struct.pack("<6f", *range(6))
GOOD = program(dict_of(weight=tensor()))


def archive(
    data: bytes = GOOD,
    root: str = "archive",
    more: Iterable[tuple[str, bytes]] = (("data/0", SIX),),
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    """A zip archive as torch.save lays it out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        z.writestr(f"{root}/data.pkl", data)
        z.writestr(f"{root}/byteorder", b"little")
        for entry, content in more:
            z.writestr(f"{root}/{entry}", content)
        z.writestr(f"{root}/version", b"3\n")
    return out.getvalue()


MAGIC = program(whole(0x1950A86A20F9469CFC6C))
SYSTEM = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)


def legacy(
    data: bytes | None = None,
    keys: bytes | None = None,
    tail: bytes | None = None,
    system: bytes = SYSTEM,
) -> bytes:
    """The container that torch.save wrote before version 1.6."""
    source = storage("0", 6, "FloatStorage", b"N")
    data = program(dict_of(weight=tensor(source))) if data is None else data
    keys = pickle.dumps(["0"], 2) if keys is None else keys
    tail = struct.pack("<q", 6) + SIX if tail is None else tail
    return MAGIC + pickle.dumps(1001, 2) + system + data + keys + tail
