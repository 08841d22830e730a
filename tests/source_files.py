"""Small data sets on disk, for tests of sources."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def png(size: tuple[int, int] = (16, 16), seed: int = 0) -> bytes:
    """A PNG of random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_folder(folder: Path, pictures: Mapping[str, str | None]) -> Path:
    """Pictures NAME.png, each with the caption in NAME.txt unless that is None."""
    for number, (name, caption) in enumerate(pictures.items()):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed=number))
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return folder


def write_tar(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, counts: Sequence[int]) -> list[Path]:
    """Shards of so many examples, keys k000, k001, ... through all of them."""
    paths, number = [], 0
    for shard, count in enumerate(counts):
        files = []
        for _ in range(count):
            said = json.dumps({"caption": f"number {number}", "name": f"n{number}"})
            files += [
                (f"k{number:03}.png", png(seed=number)),
                (f"k{number:03}.json", said.encode()),
            ]
            number += 1
        paths.append(write_tar(folder / f"part-{shard:03}.tar", files))
    return paths
