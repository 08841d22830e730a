"""Where each file of a plain tar archive lies, found once and remembered between runs."""

import contextlib
import hashlib
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from safelight.checkpoints.hashes import cache_folder
from safelight.errors import FileError, OutputError
from safelight.printable import shown
from safelight.writing import make_folder, write_text

FORMAT = 1
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

Identity = tuple[int, int, int]  # size, time of change, inode


@dataclass(frozen=True, slots=True)
class TarEntry:
    """A regular file in an archive: its name, first byte and length."""

    name: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class TarIndex:
    """The files of one archive in order, and what is wrong with it, if anything is."""

    identity: Identity
    entries: tuple[TarEntry, ...]
    fault: str | None = None


def tar_index(path: Path) -> TarIndex:
    """The index of an archive; of a damaged one, what lies before the damage, and the fault.

    It is remembered while the archive's size, time and inode are the same. Raises FileError if
    there is no such file, or it is no plain tar archive.
    """
    identity = identity_of(path)
    place = _place(path)
    found = _remembered(place, identity)
    if found is None:
        found = _read(path, identity)
        if found.fault is None:
            _remember(place, found)
    return found


def read_entry(path: Path, identity: Identity, start: int, length: int) -> bytes:
    """The bytes of a file in an archive. Raises FileError if the archive is not what it was."""
    try:
        with path.open("rb", buffering=0) as file:
            if _identity(os.fstat(file.fileno())) != identity:
                raise FileError(f"{shown(path)} has changed since it was listed; start again")
            file.seek(start)
            data = b""
            while len(data) < length:  # one read may give less than asked for
                more = file.read(length - len(data))
                if not more:
                    raise FileError(f"{shown(path)} ends at byte {start + len(data)}")
                data = data + more if data else more
            return data
    except OSError as error:
        raise FileError(f"{shown(path)} cannot be read: {error.strerror}") from None


def identity_of(path: Path) -> Identity:
    """What tells that a file is still the same. Raises FileError if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FileError(f"{shown(path)} cannot be read: {reason}") from None
    if not path.is_file():
        raise FileError(f"{shown(path)} is not a file")
    return _identity(found)


def _identity(found: os.stat_result) -> Identity:
    return found.st_size, found.st_mtime_ns, found.st_ino


def _read(path: Path, identity: Identity) -> TarIndex:
    size = identity[0]
    entries: list[TarEntry] = []
    fault = None
    try:
        with path.open("rb") as file:
            first = file.read(8)
            for magic, name in PACKED.items():
                if first.startswith(magic):
                    raise FileError(
                        f"{shown(path)} is compressed ({name}), so its files cannot be read in any "
                        "order; unpack it to a plain .tar"
                    )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                try:
                    while (member := tar.next()) is not None:
                        if member.isreg():
                            entries.append(TarEntry(member.name, member.offset_data, member.size))
                except (tarfile.TarError, ValueError, OverflowError) as error:
                    fault = f"damaged: {' '.join(str(error).split())}"
                end = tar.offset
            file.seek(end)
            if fault is None and file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                # the reader takes a header that is no header for the end of the archive
                fault = f"damaged at byte {end} of {size}"
    except tarfile.TarError as error:
        raise FileError(f"{shown(path)} is no tar archive: {shown(str(error), 120)}") from None
    except OSError as error:
        raise FileError(f"{shown(path)} cannot be read: {error.strerror}") from None
    whole = tuple(entry for entry in entries if entry.start + entry.length <= size)
    if fault is None and len(whole) < len(entries):
        fault = "truncated"
    return TarIndex(identity, whole, fault)


def _place(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return cache_folder() / "shards" / f"{name}.json"


def _remembered(place: Path, identity: Identity) -> TarIndex | None:
    try:
        told = json.loads(place.read_bytes())
        if told["format"] != FORMAT or tuple(told["identity"]) != identity:
            return None
        entries = tuple(TarEntry(str(n), int(s), int(c)) for n, s, c in told["entries"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not ours
        return None
    inside = all(e.start >= 0 and 0 <= e.length <= identity[0] - e.start for e in entries)
    return TarIndex(identity, entries) if inside else None


def _remember(place: Path, index: TarIndex) -> None:
    entries = [(entry.name, entry.start, entry.length) for entry in index.entries]
    told = {"format": FORMAT, "identity": index.identity, "entries": entries}
    with contextlib.suppress(OutputError):  # without it, the next run reads the headers again
        make_folder(place.parent)
        write_text(place, json.dumps(told))
