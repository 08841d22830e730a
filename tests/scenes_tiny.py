"""A handful of cut-outs drawn from code: eight things in three styles of two families."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from safelight.training.scenes.catalogue import CutoutEntry
from safelight.training.scenes.cutouts import SIDE, Cutouts, cutouts_of

THINGS: Mapping[str, tuple[str, str, tuple[int, int, int]]] = {
    "1F34E": ("red apple", "food-drink", (220, 30, 40)),
    "1F436": ("dog", "animals-nature", (150, 100, 60)),
    "1F431": ("cat", "animals-nature", (240, 190, 60)),
    "1F355": ("pizza", "food-drink", (230, 170, 70)),
    "1F42D": ("mouse", "animals-nature", (160, 160, 165)),
    "1F437": ("pig", "animals-nature", (250, 170, 190)),
    "1F4D8": ("blue book", "objects", (30, 90, 200)),
    "1F32B": ("fog", "travel-places", (200, 205, 210)),
    "1F347": ("grapes", "food-drink", (120, 60, 150)),
    "1F418": ("elephant", "animals-nature", (110, 120, 130)),
    "1F68C": ("bus", "travel-places", (250, 200, 40)),
    "1F511": ("key", "objects", (240, 200, 60)),
}
STYLES = {
    "fluent-3d": ("3d", "fluent"),
    "noto": ("noto", "noto"),
    "twemoji": ("twemoji", "twemoji"),
}


def entry(hexcode: str, style: str, split: str = "train") -> CutoutEntry:
    name, group, _ = THINGS[hexcode]
    word, family = STYLES[style]
    return CutoutEntry(
        key=f"{style}_{hexcode.lower()}",
        name=name,
        keywords=("food", "animal", name),
        group=group,
        subgroup="any",
        core=True,
        style=style,
        style_words=(word,),
        family=family,
        hexcode=hexcode,
        split=split,
        source="drawn by code",
        licence="MIT",
        credit="nobody",
    )


def disc(rgb: Sequence[int], radius: float = 0.42, clear: Sequence[int] = (0, 0, 0)) -> Tensor:
    """A smooth disc (128, 128, 4) uint8; clear pixels have the colour `clear`."""
    at = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    away = (at[:, None] ** 2 + at**2).sqrt()
    alpha = ((radius - away) * SIDE + 0.5).clamp(0, 1)
    inside = (alpha > 0)[..., None]
    colour = torch.where(inside, torch.tensor(rgb), torch.tensor(clear))
    return torch.cat([colour, (alpha * 255).round()[..., None].long()], -1).to(torch.uint8)


def square(rgb: Sequence[int], alpha: int = 255) -> Tensor:
    """A frame filled with one colour and opacity."""
    return torch.tensor([*rgb, alpha], dtype=torch.uint8).expand(SIDE, SIDE, 4).clone()


def cutouts() -> Cutouts:
    """Every thing in every style; the dog's and the cat's twemoji drawings are held out."""
    entries, pictures = [], []
    for number, style in enumerate(STYLES):
        for hexcode, (_, _, rgb) in THINGS.items():
            lost = style == "twemoji" and hexcode in ("1F436", "1F431")
            entries.append(entry(hexcode, style, "heldout_combo" if lost else "train"))
            pictures.append(disc(rgb, 0.3 + 0.06 * number))
    return cutouts_of(torch.stack(pictures), entries)


def of_one(picture: Tensor) -> Cutouts:
    """A single cut-out with these pixels."""
    return cutouts_of(picture[None], [entry("1F34E", "noto")])


def encoded(picture: Tensor, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture.numpy(), "RGBA").save(stream, form, lossless=True)
    return stream.getvalue()


def words(one: CutoutEntry) -> bytes:
    values = asdict(replace(one, key=""))
    del values["key"]
    return json.dumps({**values, "emoji": "x", "source_name": "y"}).encode()


def write_tar(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_shard(path: Path, chosen: Cutouts, form: str = "PNG") -> Path:
    files = []
    for one, picture in zip(chosen.entries, chosen.rgba, strict=True):
        files += [
            (f"{one.key}.{form.lower()}", encoded(picture, form)),
            (f"{one.key}.json", words(one)),
        ]
    return write_tar(path, files)
