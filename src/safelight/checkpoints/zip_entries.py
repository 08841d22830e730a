"""The entries of a zip archive whose members are stored as they are, as PyTorch writes it.

Much stricter than zip in general: no compression (so nothing can inflate), no encryption, no
comments or bytes that another reader could take for a second archive, no repeated or overlapping
entries, and the two places that name an entry must agree. Format: PKWARE APPNOTE 6.3.
"""

import struct
from dataclasses import dataclass

from safelight.checkpoints.regular_file import RegularFile
from safelight.errors import FileError
from safelight.printable import shown

END = struct.Struct("<4s4H2LH")  # end of the central directory
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
ENCRYPTED = 0x0001 | 0x0040 | 0x2000
MAX_ENTRIES = 200_000
MAX_DIRECTORY = 64 * 2**20
SMALL, LARGE = 0xFFFF, 0xFFFFFFFF  # "look in the 64-bit record"


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored member: the bytes [start, start + size) of the archive."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Directory:
    count: int
    start: int
    size: int


def zip_entries(file: RegularFile) -> dict[str, Entry]:
    """Where each member lies in the file, by name; FileError if the archive is not strict."""
    where = shown(file.path)
    directory = _directory(file, where)
    found: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, offset, size in _central(file, directory, where):
        if name in found:
            raise FileError(f"{where} holds {shown(name)} twice; it is damaged or forged")
        start = _local(file, name, offset, size, where)
        found[name] = Entry(start, size)
        spans.append((offset, start + size, name))
    _check_spans(spans, directory.start, where)
    return found


def _directory(file: RegularFile, where: str) -> _Directory:
    if file.size < END.size:
        raise FileError(f"{where} is cut off: no zip directory at its end")
    tail = file.size - END.size
    magic, disk, first, here, count, size, start, comment = END.unpack(file.bytes(tail, END.size))
    if magic != b"PK\x05\x06" or comment:
        raise FileError(
            f"{where} is a zip archive without its directory at the end; it is truncated"
        )
    if SMALL in (here, count) or LARGE in (size, start) or _has_64(file, tail):
        directory, tail = _directory64(file, tail, where)
    else:
        directory = _Directory(count, start, size)
        if disk or first or here != count:
            raise FileError(f"{where} is one part of a split zip archive")
    if directory.count > MAX_ENTRIES or directory.size > MAX_DIRECTORY:
        raise FileError(f"{where} lists {directory.count} entries; at most {MAX_ENTRIES} are read")
    if directory.start + directory.size != tail:
        raise FileError(f"{where} has a zip directory that does not end where it says; forged?")
    return directory


def _has_64(file: RegularFile, tail: int) -> bool:
    at = tail - LOCATOR64.size
    return at >= 0 and file.bytes(at, 4) == b"PK\x06\x07"


def _directory64(file: RegularFile, tail: int, where: str) -> tuple[_Directory, int]:
    if not _has_64(file, tail):
        raise FileError(f"{where} has no 64-bit zip directory; it is truncated")
    _, _, at, _ = LOCATOR64.unpack(file.bytes(tail - LOCATOR64.size, LOCATOR64.size))
    if at != tail - LOCATOR64.size - END64.size:
        raise FileError(f"{where} has a zip directory that is not where it says; forged?")
    magic, length, _, _, disk, first, here, count, size, start = END64.unpack(
        file.bytes(at, END64.size)
    )
    if magic != b"PK\x06\x06" or length != END64.size - 12 or disk or first or here != count:
        raise FileError(f"{where} has a damaged 64-bit zip directory")
    return _Directory(count, start, size), at


def _central(file: RegularFile, directory: _Directory, where: str) -> list[tuple[str, int, int]]:
    """Name, place of the local header, and size of every member."""
    data = file.bytes(directory.start, directory.size)
    members: list[tuple[str, int, int]] = []
    at = 0
    for _ in range(directory.count):
        if at + CENTRAL.size > len(data):
            raise FileError(f"{where} has a zip directory that is cut off")
        fields = CENTRAL.unpack_from(data, at)
        magic, flags, method = fields[0], fields[3], fields[4]
        packed, size, name_size, extra_size, note_size = fields[8:13]
        offset = fields[16]
        end = at + CENTRAL.size + name_size + extra_size + note_size
        if magic != b"PK\x01\x02" or end > len(data):
            raise FileError(f"{where} has a damaged zip directory")
        raw = data[at + CENTRAL.size : at + CENTRAL.size + name_size]
        name = _name(raw, where)
        extra = data[at + CENTRAL.size + name_size : end - note_size]
        size, packed, offset = _widened(extra, [size, packed, offset], where)
        if flags & ENCRYPTED:
            raise FileError(f"{where}: {shown(name)} is encrypted; PyTorch files never are")
        if method or packed != size:
            raise FileError(
                f"{where}: {shown(name)} is compressed; PyTorch stores its entries as they are, "
                "so this was packed by something else: unpack it first"
            )
        members.append((name, offset, size))
        at = end
    if at != len(data):
        raise FileError(f"{where} has bytes left over in its zip directory; forged?")
    return members


def _name(raw: bytes, where: str) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FileError(f"{where} holds an entry whose name is not UTF-8") from None
    if not name or "\0" in name:
        raise FileError(f"{where} holds an entry without a proper name")
    return name


def _widened(extra: bytes, values: list[int], where: str) -> list[int]:
    """Sizes and place with those that did not fit 32 bits taken from the 64-bit extra field."""
    if LARGE not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind == 1:
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            try:
                return [next(wide) if value == LARGE else value for value in values]
            except (StopIteration, RuntimeError):
                break
    raise FileError(f"{where} lacks the 64-bit sizes of an entry; it is damaged")


def _local(file: RegularFile, name: str, offset: int, size: int, where: str) -> int:
    """The first byte of a member; its own header must agree with the directory."""
    label = f"{where}: {shown(name)}"
    if offset + LOCAL.size > file.size:
        raise FileError(f"{label} lies beyond the end of the file; it is truncated")
    fields = LOCAL.unpack(file.bytes(offset, LOCAL.size))
    magic, flags, method, packed, plain = fields[0], fields[2], fields[3], fields[7], fields[8]
    name_size, extra_size = fields[9:11]
    start: int = offset + LOCAL.size + name_size + extra_size
    if magic != b"PK\x03\x04" or start + size > file.size:
        raise FileError(f"{label} lies beyond the end of the file or is damaged")
    if file.bytes(offset + LOCAL.size, name_size) != name.encode():
        raise FileError(f"{label} has another name in its own header; forged")
    if method or flags & ENCRYPTED:
        raise FileError(f"{label} is compressed or encrypted in its own header; forged")
    # PyTorch leaves both sizes 0 here and repeats them after the data.
    if not {packed, plain} <= {0, LARGE, size}:
        raise FileError(f"{label} has another size in its own header; forged")
    return start


def _check_spans(spans: list[tuple[int, int, str]], directory: int, where: str) -> None:
    reached = 0
    for start, end, name in sorted(spans):
        if start < reached:
            raise FileError(f"{where}: {shown(name)} overlaps another entry; forged")
        reached = end
    if reached > directory:
        raise FileError(f"{where}: an entry overlaps the zip directory; forged")
