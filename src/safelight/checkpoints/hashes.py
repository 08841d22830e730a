"""Hashes of weights files, with those that other programs print, remembered between runs.

A remembered hash is used only if the file's path, size, time of change and inode are the same.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.regular_file import RegularFile
from safelight.checkpoints.safetensors_file import header_length
from safelight.errors import FileError
from safelight.printable import shown

BLOCK = 4 * 2**20
MAX_CACHE = 16 * 2**20
HEX = frozenset("0123456789abcdef")


class _Seen(NamedTuple):
    """What must be unchanged for a remembered hash to hold."""

    size: int
    mtime_ns: int
    inode: int


def cache_folder() -> Path:
    """Where Safelight keeps what it can compute again; SAFELIGHT_CACHE overrides it."""
    if chosen := os.environ.get("SAFELIGHT_CACHE"):
        return Path(chosen)
    home = Path(os.environ.get("HOME") or os.environ.get("USERPROFILE") or tempfile.gettempdir())
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "safelight"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home) / "safelight" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "safelight"


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, 64 hex digits; remembered, since 2 GB take seconds.

    Raises FileError if it cannot be read or changes meanwhile.
    """
    return _hashed(path, skip_header=False)


def content_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a safetensors file without its header, so that editing notes leaves it.

    kohya's trainer stores it as `sshs_model_hash`, and A1111 names a LoRA by its first 12 digits.
    Raises FileError if the file is not safetensors.
    """
    return _hashed(path, skip_header=True)


def known_sha256(path: str | os.PathLike[str]) -> str | None:
    """The remembered SHA-256 of a file that has not changed since, or None; never computes it."""
    key = str(Path(path).absolute())
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return _remembered(_Seen(found.st_size, found.st_mtime_ns, found.st_ino), f"sha256 {key}")


def short_hash(path: str | os.PathLike[str]) -> str:
    """The first 10 digits of the SHA-256: A1111's "Model hash" since 2023."""
    return sha256(path)[:10]


def old_short_hash(path: str | os.PathLike[str]) -> str:
    """A1111's model hash of 2022: 8 digits over 64 KiB at 1 MiB. Different files may share it."""
    file = RegularFile(path)
    try:
        start = min(0x100000, file.size)
        return hashlib.sha256(file.bytes(start, min(0x10000, file.size - start))).hexdigest()[:8]
    finally:
        file.close()


def folder_sha256(folder: Path) -> str:
    """One hash for the weights and settings of a Diffusers folder.

    The SHA-256 of the lines "HASH  NAME\\n", one for each .safetensors, .bin, .json, .txt and
    .model file below the folder (hidden ones left out), sorted by NAME, the path from the folder
    with forward slashes: what `sha256sum` prints. Raises FileError if there is none.
    """
    suffixes = {".safetensors", ".bin", ".json", ".txt", ".model"}
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in suffixes and path.is_file()
    )
    names = [name for name in names if not any(p.startswith(".") for p in name.split("/"))]
    if not names:
        raise FileError(f"{shown(folder)} holds no weights or settings")
    lines = (f"{sha256(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _hashed(path: str | os.PathLike[str], *, skip_header: bool) -> str:
    kind = "content" if skip_header else "sha256"
    file = RegularFile(path)
    try:
        key = f"{kind} {file.path.absolute()}"
        seen = _Seen(*file.identity)
        if (known := _remembered(seen, key)) is not None:
            return known
        start = 0
        if skip_header:
            length = header_length(file.bytes(0, min(9, file.size)), file.size)
            if length is None:
                if file.path.suffix.lower() == ".safetensors":
                    open_weights(path).close()  # says what is wrong with it
                raise FileError(f"{shown(file.path)} is not a safetensors file")
            start = 8 + length
        digest = _digest(file, start)
        _remember(seen, key, digest)
        return digest
    finally:
        file.close()


def _digest(file: RegularFile, start: int) -> str:
    digest = hashlib.sha256()
    while start < file.size:
        block = file.bytes(start, min(BLOCK, file.size - start))
        digest.update(block)  # releases the interpreter lock
        start += len(block)
    file.check()
    return digest.hexdigest()


def _cache_path() -> Path:
    return cache_folder() / "hashes.json"


def _cache() -> dict[str, object]:
    """What was remembered; a missing, damaged or huge cache is an empty one."""
    try:
        path = _cache_path()
        if path.stat().st_size > MAX_CACHE:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _remembered(seen: _Seen, key: str) -> str | None:
    entry = _cache().get(key)
    if not isinstance(entry, list) or entry[:-1] != list(seen):
        return None
    digest = entry[-1]
    sound = isinstance(digest, str) and len(digest) == 64 and set(digest) <= HEX
    return digest if sound else None


def _remember(seen: _Seen, key: str, digest: str) -> None:
    """Write the cache anew beside the old one and swap; a cache that cannot be written is none."""
    with contextlib.suppress(OSError, ValueError):
        path = _cache_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = _cache() | {key: [*seen, digest]}
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".hashes-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump(entries, out, indent=0)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
