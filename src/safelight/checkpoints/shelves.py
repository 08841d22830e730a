"""Where LoRAs, learned words and hypernetworks lie, and which file a name stands for.

They are looked for in folders of the names that A1111 and ComfyUI give them (`loras`, `embeddings`,
`hypernetworks`): beside the model and up to two folders above it, in the current folder, and among
the models of Safelight; then among the files of the current folder, and in the library.
Looking for names opens no file but to tell apart those that share a name.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.kinds import Kind, kind_of
from safelight.checkpoints.library import MAX_ENTRIES, SUFFIXES, entries, models_folder, places
from safelight.embedded.carried import companion
from safelight.errors import FileError, RequestError, SafelightError
from safelight.printable import shown

Addon = Literal["lora", "embedding", "hypernetwork"]
ADDONS: tuple[Addon, ...] = get_args(Addon)

FOLDERS: dict[Addon, tuple[str, ...]] = {
    "lora": ("loras", "lora", "Lora", "LoRA", "LyCORIS", "lycoris"),
    "embedding": ("embeddings", "textual_inversion"),
    "hypernetwork": ("hypernetworks",),
}
LABELS: dict[Addon, str] = {
    "lora": "LoRA",
    "embedding": "textual inversion",
    "hypernetwork": "hypernetwork",
}
_KINDS: dict[Addon, Kind] = {
    "lora": "lora",
    "embedding": "textual inversion",
    "hypernetwork": "hypernetwork",
}
_OPTIONS: dict[Addon, str] = {
    "lora": "--lora FILE",
    "embedding": "--embedding FILE",
    "hypernetwork": "--hypernetwork FILE",
}
_ABOVE = 2  # folders above the model's own that may hold the shelves
_DEPTH = 6
_LISTED = 12
# Names that hubs give to every file: the folder tells them apart
_EVERYWHERE = frozenset({"pytorch_lora_weights", "adapter_model", "learned_embeds"})


def addon(role: str) -> Addon | None:
    """The kind that a file of this role is; None if it is something else."""
    return next((kind for kind in ADDONS if kind == role), None)


@dataclass(frozen=True, slots=True)
class Shelved:
    """A file, and its name: the path from its shelf without the suffix, with forward slashes."""

    name: str
    path: Path

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def names(self) -> tuple[str, ...]:
        """All that it may be called."""
        folder, _, stem = self.name.rpartition("/")
        several = {self.name, stem, f"{self.name}{self.path.suffix}", self.path.name}
        if folder and stem in _EVERYWHERE:
            several |= {folder, folder.rpartition("/")[2]}
        return tuple(several)


def shelf_folders(kind: Addon, near: Path | None = None) -> list[Path]:
    """The folders of a kind that are there, each once, the nearest first.

    near: the model's file or folder.
    """
    bases = [Path()]
    if near is not None:
        own = near if near.is_dir() else near.parent
        bases = [own, *list(own.absolute().parents)[:_ABOVE], Path()]
    bases.append(models_folder())
    found: dict[str, Path] = {}
    for base in bases:
        for name in FOLDERS[kind]:
            if (folder := base / name).is_dir():
                found.setdefault(os.path.realpath(folder), folder)
    return list(found.values())


def shelved(kind: Addon, near: Path | None = None) -> list[Shelved]:
    """The files on the shelves of a kind, sorted within each; one that is on two is told once."""
    found: dict[str, Shelved] = {}
    for folder in shelf_folders(kind, near):
        for one in islice(_below(folder, "", set()), MAX_ENTRIES):
            found.setdefault(os.path.realpath(one.path), one)
    return list(found.values())


def find_addon(kind: Addon, name: str, near: Path | None = None) -> Path:
    """The file that a name stands for: a path, or a name on a shelf or in the library.

    A folder, as hubs have one for each LoRA, stands for the weights in it. A name of
    `carried.COMPANIONS` is that of a LoRA for the embedded model.

    A name may leave out the suffix and the folders before it; its case matters only between names
    that differ in nothing else. A LoRA may also be called as its file says it is (ss_output_name).
    Raises RequestError if the name fits several files of different content, FileError, which lists
    what is there, if it fits none.
    """
    path = Path(name).expanduser()
    if _is_file(path):
        return path
    inside = [item for item in _listed(path) if item.stem in _EVERYWHERE and _is_weights(item)]
    if inside:
        return inside[0]
    if kind == "lora" and (own := companion(name)) is not None and _is_file(own):
        return own
    on_shelves = shelved(kind, near)
    for candidates in (on_shelves, _here(), _in_library(kind)):
        found = _called(name, candidates)
        if found and candidates is not on_shelves:
            found = [one for one in found if _is_kind(kind, one.path)]
        if found:
            return only(kind, name, found)
    if kind == "lora":
        titled = [one for one in on_shelves if _title(one.path) == name]
        if titled:
            return only(kind, name, titled)
    raise FileError(_unknown(kind, name, on_shelves, near))


def _called(name: str, candidates: Sequence[Shelved]) -> list[Shelved]:
    wanted = name.replace("\\", "/")
    exact = [one for one in candidates if wanted in one.names]
    plain = wanted.lower()
    return exact or [one for one in candidates if plain in map(str.lower, one.names)]


def only(kind: Addon, name: str, found: Sequence[Shelved]) -> Path:
    """The one file of those that fit a name. Raises RequestError if their contents differ."""
    if len(found) > 1 and len({sha256(one.path) for one in found}) > 1:
        which = " or ".join(shown(one.path) for one in found[:4])
        raise RequestError(
            f"the {LABELS[kind]} {shown(name)} may be {which}; give one a name of its own, or say "
            f"which with {_OPTIONS[kind]}"
        )
    return found[0].path


def _unknown(kind: Addon, name: str, known: Sequence[Shelved], near: Path | None) -> str:
    folders = ", ".join(shown(folder) for folder in shelf_folders(kind, near))
    missing = f"there is no {LABELS[kind]} called {shown(name)}"
    if not known:
        where = f"nothing is in {folders}" if folders else f"there is no folder {FOLDERS[kind][0]}"
        return (
            f"{missing}: {where}; put its file into a folder {FOLDERS[kind][0]} beside the model "
            f"or here, or give it with {_OPTIONS[kind]}"
        )
    before, colon, behind = name.rpartition(":")
    if colon and any(_stem(before) == _stem(one.name) for one in known):
        return f"{missing}; there is {shown(before)}, and {shown(behind)!r} is no weight"
    nearest = _nearest_first(name, known) if len(known) > _LISTED else known
    names = [shown(one.name) for one in nearest[:_LISTED]]
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return (
        f"{missing} in {folders}; there are {', '.join(names)}{more}. Or give its file with "
        f"{_OPTIONS[kind]}"
    )


def _stem(name: str) -> str:
    return Path(name).stem.lower()


def _nearest_first(name: str, known: Sequence[Shelved]) -> list[Shelved]:
    """What somebody who wrote this name may have meant, before the rest."""
    wanted = _stem(name)
    return sorted(known, key=lambda one: -SequenceMatcher(None, wanted, _stem(one.name)).ratio())


def _below(folder: Path, prefix: str, seen: set[str]) -> Iterator[Shelved]:
    real = os.path.realpath(folder)
    if real in seen or prefix.count("/") >= _DEPTH:
        return
    seen.add(real)
    for item in _listed(folder):
        if item.is_dir():
            yield from _below(item, f"{prefix}{item.name}/", seen)
        elif _is_weights(item):
            yield Shelved(f"{prefix}{item.stem}", item)


def _here() -> list[Shelved]:
    """The weights files of the current folder itself."""
    return [Shelved(item.stem, item) for item in _listed(Path()) if _is_weights(item)]


def _in_library(kind: Addon) -> list[Shelved]:
    """What the library has, but for the shelves in it, which were looked at."""
    names = tuple(f"{folder}/" for folder in FOLDERS[kind])
    return [
        Shelved(entry.name.removesuffix(entry.path.suffix), entry.path)
        for entry in entries(places())
        if entry.layout == "file" and not entry.name.startswith(names)
    ]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    except (OSError, ValueError):
        return []


def _is_weights(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_kind(kind: Addon, path: Path) -> bool:
    try:
        with open_weights(path) as file:
            return kind_of({n: info.shape for n, info in file.header.items()}).kind == _KINDS[kind]
    except (SafelightError, OSError):
        return False


def _title(path: Path) -> str | None:
    """What a LoRA's file says it is called: A1111's tags may use it."""
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        with open_weights(path) as file:
            return file.metadata.get("ss_output_name")
    except (SafelightError, OSError):
        return None
