"""Transparent pictures of single objects with their words, read from WebDataset shards.

Pixels keep straight alpha, as the files have it. Whoever resamples them must premultiply first:
the colour of a clear pixel means nothing, and would bleed into the rim as a dark fringe.
"""

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.json_object import JsonObject
from safelight.checkpoints.weight_file import WeightFile
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import CheckpointError, FileError
from safelight.printable import shown
from safelight.training.scenes.catalogue import Catalogue, CutoutEntry
from safelight.training.scenes.colours import NAMES
from safelight.training.scenes.measure import measured

SIDE = 128
FORMAT = "safelight cut-outs 1"
PICTURE_LIMIT = 1 << 20  # bytes of one compressed picture; ours have 4 kB
WORDS_LIMIT = 1 << 16  # bytes of one JSON
MEMBER_LIMIT = 1_000_000  # files in one shard
PICTURE_SUFFIXES = (".webp", ".png")


@dataclass(frozen=True, eq=False)
class Cutouts:
    """N transparent pictures and their catalogue."""

    rgba: Tensor  # (N, 128, 128, 4) uint8, straight alpha
    catalogue: Catalogue

    def __post_init__(self) -> None:
        assert self.rgba.dtype == torch.uint8 and self.rgba.shape[1:] == (SIDE, SIDE, 4)
        assert len(self.rgba) == len(self.catalogue)

    def __len__(self) -> int:
        return len(self.catalogue)

    @property
    def entries(self) -> tuple[CutoutEntry, ...]:
        return self.catalogue.entries

    def to(self, device: torch.device | str) -> "Cutouts":
        """The same with the pixels on a device."""
        return Cutouts(self.rgba.to(device), self.catalogue)

    def where(self, keep: Callable[[CutoutEntry], bool]) -> "Cutouts":
        """Those to keep, in order: `cutouts.where(lambda e: e.core and e.split == "train")`."""
        indices = self.catalogue.where(keep)
        rows = torch.tensor(indices, dtype=torch.int64, device=self.rgba.device)
        return Cutouts(self.rgba[rows], self.catalogue.take(indices))


def read_cutouts(
    shards: Sequence[Path | str],
    keep: Callable[[CutoutEntry], bool] = lambda entry: True,
    *,
    workers: int | None = None,
) -> Cutouts:
    """The cut-outs of tar shards (`KEY.webp` or `KEY.png` beside `KEY.json`), in their order.

    Nothing is extracted to disk. Only what `keep` wants is decoded, by `workers` threads (as many
    as there are processors if not given). Raises FileError for a shard or picture that is missing,
    broken, too large or not 128x128, and CheckpointError for words that are missing.
    """
    entries: list[CutoutEntry] = []
    pictures: list[tuple[str, bytes]] = []
    for shard in shards:
        for entry, picture in _samples(Path(shard)):
            if keep(entry):
                entries.append(entry)
                pictures.append((f"{shown(Path(shard))}: {shown(entry.key)}", picture))
    if not entries:
        raise FileError(
            f"no cut-out was found in {len(shards)} shards; give tar files with KEY.webp and "
            "KEY.json, and a filter that keeps some"
        )
    rgba = np.empty((len(pictures), SIDE, SIDE, 4), np.uint8)

    def fill(index: int) -> None:
        rgba[index] = _decoded(*pictures[index])

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for _ in pool.map(fill, range(len(pictures)), chunksize=64):
            pass
    return cutouts_of(torch.from_numpy(rgba), entries)


def cutouts_of(rgba: Tensor, entries: Sequence[CutoutEntry]) -> Cutouts:
    """Cut-outs of pixels (N, 128, 128, 4) uint8 with straight alpha; the rest is measured."""
    boxes, clear, paintable = measured(rgba.cpu())
    return Cutouts(rgba, Catalogue(tuple(entries), boxes, clear, paintable))


def save_cutouts(cutouts: Cutouts, path: Path | str) -> None:
    """Write all as one safetensors file, which `load_cutouts` maps in no time.

    Raises OutputError if it cannot be written; nothing is left behind then.
    """
    catalogue = cutouts.catalogue
    tensors = {
        "rgba": cutouts.rgba,
        "boxes": torch.from_numpy(catalogue.boxes),
        "clear": torch.from_numpy(catalogue.clear),
        "paintable": torch.from_numpy(catalogue.paintable),
    }
    words = json.dumps([asdict(entry) for entry in catalogue.entries], separators=(",", ":"))
    write_safetensors(
        Path(path),
        [Entry(n, tuple(t.shape), t.dtype, lambda t=t: t) for n, t in tensors.items()],  # type: ignore[misc]
        {"format": FORMAT, "entries": words},
    )


def load_cutouts(path: Path | str) -> Cutouts:
    """The cut-outs of a file that `save_cutouts` wrote.

    Raises FileError for a broken file, CheckpointError for one of another kind.
    """
    with open_weights(path) as file:
        return _loaded(file, shown(Path(path)))


def _loaded(file: WeightFile, where: str) -> Cutouts:
    if file.metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{where} is not a file of cut-outs ({FORMAT}); give one that save_cutouts wrote, "
            "or the shards themselves"
        )
    try:
        words = json.loads(file.metadata.get("entries", ""))
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, list):
        raise FileError(f"{where} has no readable entries; write it again from the shards")
    entries = tuple(_entry(JsonObject(w if isinstance(w, dict) else {}, where)) for w in words)
    shapes = {"rgba": (SIDE, SIDE, 4), "boxes": (4,), "clear": (len(NAMES),), "paintable": ()}
    types = (torch.uint8, torch.float32, torch.bool, torch.bool)
    for (name, shape), dtype in zip(shapes.items(), types, strict=True):
        info = file.header.get(name)
        if info is None or info.shape != (len(entries), *shape) or info.dtype != dtype:
            raise FileError(
                f"{where}: {name} does not hold {len(entries)} cut-outs; write it again"
            )
    measures = [file.read(name).numpy() for name in ("boxes", "clear", "paintable")]
    return Cutouts(file.read("rgba"), Catalogue(entries, *measures))


def _samples(shard: Path) -> Iterator[tuple[CutoutEntry, bytes]]:
    """Words and compressed picture of each sample of a shard."""
    waiting: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(shard, "r|") as archive:  # a stream: no seeking, nothing extracted
            for number, member in enumerate(archive):
                if number >= MEMBER_LIMIT:
                    _refuse(shard, f"holds more than {MEMBER_LIMIT} files")
                if not member.isreg():
                    continue
                key, suffix = os.path.splitext(member.name)
                if suffix not in (".json", *PICTURE_SUFFIXES):
                    continue
                limit = WORDS_LIMIT if suffix == ".json" else PICTURE_LIMIT
                if member.size > limit:
                    _refuse(shard, f"{shown(member.name)} has {member.size} bytes, over {limit}")
                stream = archive.extractfile(member)
                assert stream is not None
                kind = "words" if suffix == ".json" else "picture"
                sample = waiting.setdefault(key, {})
                sample[kind] = stream.read()
                if len(sample) == 2:
                    del waiting[key]
                    yield _words(shard, key, sample["words"]), sample["picture"]
    except (tarfile.TarError, EOFError) as error:
        _refuse(shard, f"is not a whole tar file: {error}")
    except OSError as error:
        _refuse(shard, f"cannot be read: {error.strerror or error}")
    if waiting:
        key, sample = next(iter(waiting.items()))
        lacks = "JSON" if "picture" in sample else "picture"
        _refuse(shard, f"{shown(key)} has no {lacks}; {len(waiting)} samples are incomplete")


def _words(shard: Path, key: str, text: bytes) -> CutoutEntry:
    where = f"{shown(shard)}: {shown(key)}.json"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{where} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise FileError(f"{where} holds no JSON object; give name, keywords, style and the others")
    return _entry(JsonObject({**values, "key": key}, where))


def _entry(words: JsonObject) -> CutoutEntry:
    return CutoutEntry(
        key=words.text("key"),
        name=words.text("name"),
        keywords=words.texts("keywords"),
        group=words.text("group"),
        subgroup=words.text("subgroup"),
        core=words.flag("core"),
        style=words.text("style"),
        style_words=words.texts("style_words"),
        family=words.text("family"),
        hexcode=words.text("hexcode"),
        split=words.text("split"),
        source=words.text("source"),
        licence=words.text("licence"),
        credit=words.text("credit"),
    )


def _decoded(where: str, data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The pixels of one picture (128, 128, 4), straight alpha."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data), formats=("WEBP", "PNG")) as picture:
            if picture.size != (SIDE, SIDE):
                raise FileError(f"{where} is {picture.size}; expected {SIDE}x{SIDE} pixels")
            return np.asarray(picture.convert("RGBA"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise FileError(f"{where} is a broken picture: {shown(str(error))}") from None


def _refuse(shard: Path, fault: str) -> NoReturn:
    raise FileError(f"{shown(shard)} {fault}")
