"""Any source as WebDataset shards: pictures as they are, with all that is said of them."""

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

from safelight.errors import FileError, OutputError, RequestError
from safelight.printable import shown
from safelight.training.sources.example import Example, Source
from safelight.writing import make_folder, whole_file

SHARD_BYTES = 256 * 2**20
_MAGIC = (
    (re.compile(rb"\x89PNG"), ".png"),
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    (re.compile(rb"GIF8"), ".gif"),
    (re.compile(rb"BM"), ".bmp"),
)
_NOT_IN_KEYS = re.compile(r"[^\w/-]|^_+|(?<=/)_+")  # dots end a key; __ marks no example


def pack(
    source: Source,
    folder: Path,
    *,
    per_shard: int = 2000,
    shard_bytes: int = SHARD_BYTES,
    name: str = "shard",
    watch: Callable[[int], None] = lambda count: None,
) -> list[Path]:
    """Write a source as shards NAME-00000.tar, ... in a new or empty folder; returns their paths.

    Each example is KEY.png (or what its bytes are) and KEY.json with captions, weight and fields;
    the same source gives the same bytes. Raises OutputError if the folder holds anything or cannot
    be written, FileError if a picture cannot be read, RequestError for a shard of nothing.
    """
    if per_shard < 1 or shard_bytes < 1:
        raise RequestError(f"a shard must hold 1 picture or more; got {per_shard}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{shown(folder)} exists and is not empty; give a new folder")
    make_folder(folder)
    paths: list[Path] = []
    done = 0
    for shard in _shards(source, per_shard, shard_bytes):
        path = folder / f"{name}-{len(paths):05}.tar"
        with whole_file(path, sum(len(data) + 1024 for _, data in shard)) as file:
            write_tar(file, shard)
        paths.append(path)
        done += len(shard) // 2
        watch(done)
    return paths


def _shards(source: Source, per_shard: int, shard_bytes: int) -> Iterator[list[tuple[str, bytes]]]:
    files: list[tuple[str, bytes]] = []
    size = 0
    used: set[str] = set()
    for index in range(len(source)):
        example = source.example(index)
        picture, said = _files(example, _key(example.id, used))
        more = len(picture[1]) + len(said[1])
        if files and (len(files) >= 2 * per_shard or size + more > shard_bytes):
            yield files
            files, size = [], 0
        files += [picture, said]
        size += more
    if files:
        yield files


def _files(example: Example, key: str) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    data = example.read()
    suffix = next((ending for magic, ending in _MAGIC if magic.match(data)), None)
    if suffix is None:
        raise FileError(f"{shown(example.id)} is no picture of a kind that shards hold")
    told: dict[str, object] = {**example.fields, "captions": list(example.captions)}
    if example.weight != 1.0:
        told["weight"] = example.weight
    text = json.dumps(told, ensure_ascii=False, sort_keys=True, default=str)
    return (key + suffix, data), (f"{key}.json", text.encode("utf-8", "backslashreplace"))


def _key(name: str, used: set[str]) -> str:
    """A key that no other example has: the id, with what a key must not hold replaced."""
    base = _NOT_IN_KEYS.sub("-", name).strip("/") or "picture"
    key, number = base, 1
    while key in used:
        number += 1
        key = f"{base}-{number}"
    used.add(key)
    return key


def write_tar(file: object, files: Sequence[tuple[str, bytes]]) -> None:
    """Write files by name as one archive; the same files always give the same bytes."""
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, data in files:
            info = tarfile.TarInfo(name)  # no time, no owner: the same source gives the same bytes
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
