"""The weights files of one part of a Diffusers folder: variants, shards and their index.

Names: `STEM[.VARIANT].safetensors`, or shards `STEM[.VARIANT]-00001-of-00002.safetensors` with the
index `STEM.safetensors.index[.VARIANT].json`; the same with `.bin`. Safetensors are preferred.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safelight.checkpoints.files import JoinedFiles, WeightFile, open_shards
from safelight.checkpoints.regular_file import RegularFile
from safelight.errors import FileError
from safelight.printable import shown

MAX_JSON = 32 * 2**20
SUFFIXES = (".safetensors", ".bin")
# Transformers calls a pickled `model` by another name.
PICKLED_STEMS: Mapping[str, str] = {"model": "pytorch_model"}
SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def find_weights(folder: Path, stem: str, variant: str | None = None) -> list[Path]:
    """The files that hold the weights `stem` of a folder, in order: one, or all shards.

    variant: "fp16" and the like; None takes the files without one, or the only variant if there
    are none. Raises FileError if nothing fits (saying what is there), or if a shard is missing.
    """
    found = _candidates(folder, stem)
    wanted = variant or ""
    if wanted not in found and variant is None and len(found) == 1:
        wanted = next(iter(found))
    if wanted not in found:
        there = ", ".join(shown(v) or "without variant" for v in sorted(found)) or "none"
        asked = f"variant {shown(variant)} of {stem}" if variant else f"{stem}.safetensors"
        raise FileError(f"{shown(folder)} holds no {asked}; variants found: {there}")
    return _complete(folder, found[wanted])


def open_folder(folder: Path, stem: str, variant: str | None = None) -> WeightFile:
    """The weights `stem` of a folder as one file; shards are checked against their index.

    Raises FileError as `find_weights` and `open_weights` do, and when index and shards disagree.
    """
    paths = find_weights(folder, stem, variant)
    opened = open_shards(paths)
    try:
        index = _index_path(paths[0])
        if isinstance(opened, JoinedFiles) and index.is_file():
            _check_index(index, paths, opened)
    except BaseException:
        opened.close()
        raise
    return opened


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a small file; FileError if it is too large, damaged or something else."""
    file = RegularFile(path)
    try:
        if file.size > MAX_JSON:
            raise FileError(f"{shown(path)} has {file.size} bytes; at most {MAX_JSON} are read")
        value = json.loads(file.bytes(0, file.size).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{shown(path)} is not JSON: {shown(str(error))}") from None
    finally:
        file.close()
    if not isinstance(value, dict):
        raise FileError(f"{shown(path)} holds no JSON object")
    return value


def _candidates(folder: Path, stem: str) -> dict[str, list[str]]:
    """File names by variant; of each variant the best suffix, a whole file before shards."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise FileError(f"{shown(folder)} cannot be listed: {error.strerror}") from None
    found: dict[str, list[str]] = {}
    for suffix in SUFFIXES:
        base = stem if suffix == SUFFIXES[0] else PICKLED_STEMS.get(stem, stem)
        here = _by_variant([n for n in names if n.endswith(suffix)], base, suffix)
        found = here | found
    return found


def _by_variant(names: list[str], base: str, suffix: str) -> dict[str, list[str]]:
    whole: dict[str, list[str]] = {}
    shards: dict[str, list[str]] = {}
    for name in names:
        label = name.removesuffix(suffix)
        shard = SHARD.search(label)
        label = SHARD.sub("", label)
        if label != base and not label.startswith(f"{base}."):
            continue
        variant = label[len(base) + 1 :]
        group = shards if shard else whole
        group.setdefault(variant, []).append(name)
    return shards | whole


def _complete(folder: Path, names: list[str]) -> list[Path]:
    first = SHARD.search(names[0].rpartition(".")[0])
    if first is None:
        return [folder / names[0]]
    total = int(first[2])
    stem, suffix = names[0][: first.start()], names[0].rpartition(".")[2]
    there = set(names)
    if len(there) < total:
        expected = (f"{stem}-{i:05d}-of-{total:05d}.{suffix}" for i in range(1, total + 1))
        lost = next((name for name in expected if name not in there), "")
        raise FileError(
            f"{shown(folder)} has {len(there)} of {total} shards; {shown(lost)} is lost"
        )
    if len(there) > total:
        raise FileError(f"{shown(folder)} mixes shards of two downloads: {shown(', '.join(names))}")
    return [folder / name for name in names]


def _index_path(shard: Path) -> Path:
    """The index beside a shard: its variant moves behind `index`."""
    label = SHARD.sub("", shard.stem)
    base, _, variant = label.partition(".")
    tail = f".{variant}" if variant else ""
    return shard.parent / f"{base}{shard.suffix}.index{tail}.json"


def _check_index(index: Path, paths: list[Path], opened: JoinedFiles) -> None:
    """Every name must be where the index says; it may only name files beside it."""
    where = shown(index)
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise FileError(f"{where} has no weight_map")
    beside = {path.name for path in paths}
    for name, file in names.items():
        if not isinstance(file, str) or file not in beside:
            raise FileError(
                f"{where} puts {shown(name)} in {shown(file)}, which is not one of its shards"
            )
        if name in opened.header and opened.part_of(name).path.name != file:
            raise FileError(
                f"{where} puts {shown(name)} in {shown(file)}, "
                f"but it is in {shown(opened.part_of(name).path.name)}"
            )
    lost = [name for name in names if name not in opened.header]
    if lost:
        raise FileError(f"{where} names {shown(lost[0])}, which none of its shards holds")
    surplus = [name for name in opened.header if name not in names]
    if surplus:
        raise FileError(f"{where} does not name {shown(surplus[0])}, which its shards hold")
