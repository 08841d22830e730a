"""The files that requests may name, listed at start: names are looked up here and nowhere else.

No name from a request ever becomes a path: what is not listed does not exist.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from safelight.checkpoints.hashes import known_sha256
from safelight.checkpoints.kinds import Kind
from safelight.checkpoints.library import SUFFIXES, Entry, Layout, described, entries, places
from safelight.checkpoints.shelves import ADDONS, Addon, shelved
from safelight.embedded.carried import COMPANIONS, NAME, companion
from safelight.printable import shown
from safelight.server.logs import log
from safelight.server.refusals import NotAllowed, Unknown

Shelf = Literal[
    "model", "vae", "lora", "embedding", "hypernetwork", "control", "upscaler", "adapter", "encoder"
]
LABELS: Mapping[Shelf, str] = MappingProxyType(
    {
        "model": "model",
        "vae": "autoencoder",
        "lora": "LoRA",
        "embedding": "textual inversion",
        "hypernetwork": "hypernetwork",
        "control": "control network",
        "upscaler": "upscaler",
        "adapter": "image adapter",
        "encoder": "image encoder",
    }
)
# Which shelf a file of a request lies on, by its role
ROLES: Mapping[str, Shelf] = MappingProxyType(
    {
        "model": "model",
        "refiner": "model",
        "vae": "vae",
        "lora": "lora",
        "embedding": "embedding",
        "hypernetwork": "hypernetwork",
        "control": "control",
        "upscaler": "upscaler",
        "image adapter": "adapter",
        "image encoder": "encoder",
        "clip": "encoder",
    }
)
# What goes with the embedded model, by the folder it lies in there
_CARRIED: Mapping[str, Shelf] = MappingProxyType(
    {"controls": "control", "loras": "lora", "decoders": "vae"}
)
_KINDS: Mapping[Kind, Shelf] = MappingProxyType(
    {
        "model": "model",
        "vae": "vae",
        "taesd": "vae",
        "lora": "lora",
        "textual inversion": "embedding",
        "hypernetwork": "hypernetwork",
        "controlnet": "control",
        "controlnet lllite": "control",
        "t2i adapter": "control",
        "ip adapter": "adapter",
        "upscaler": "upscaler",
        "vision encoder": "encoder",
        "text encoder": "encoder",
    }
)
_LISTED = 12
_FOREIGN = (".gguf",)  # is told to be none of ours, where it lies among the models
OURS = ("/api/", "/sdapi/", "/v1/", "/controlnet/", "/internal/")  # paths of the server's own URLs


@dataclass(frozen=True, slots=True)
class Listed:
    """A file or folder that requests may name.

    name: what it is called, with forward slashes, without its suffix; unique on its shelf.
    what: its family or what it is for, such as "SD 1.x". sha256: if it was computed before.
    """

    name: str
    path: Path = field(repr=False)
    shelf: Shelf
    what: str = ""
    layout: Layout = "file"
    size: int = 0  # bytes
    dtype: str = ""

    @property
    def stem(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of a file if it is remembered; never computed here."""
        return known_sha256(self.path) if self.layout == "file" else None

    def to_json(self) -> dict[str, object]:
        """What clients are told: no path."""
        return {
            "name": self.name,
            "what": self.what,
            "bytes": self.size,
            "dtype": self.dtype,
            "sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True)
class Faulty:
    """A file among the models that cannot be read: damaged, or made to do harm.

    name: as `Listed.name`, with its suffix. why: one line without folders.
    """

    name: str
    path: Path = field(repr=False)
    why: str

    def to_json(self) -> dict[str, object]:
        """What clients are told: no path, no character that a terminal would obey."""
        return {"name": shown(self.name), "why": self.why}


class Registry:
    """Everything that lies on the shelves; a value: `listed` makes a new one.

    refused: what lies there and cannot be read. No request can name it.
    """

    def __init__(self, items: Iterable[Listed], refused: Iterable[Faulty] = ()) -> None:
        self._shelves: dict[Shelf, dict[str, Listed]] = {shelf: {} for shelf in LABELS}
        for item in items:
            self._shelves[item.shelf].setdefault(item.name, item)
        self.refused = tuple(sorted(refused, key=lambda item: item.name.lower()))

    def on(self, shelf: Shelf) -> list[Listed]:
        """Everything on a shelf, by name."""
        found = self._shelves[shelf].values()
        return sorted(found, key=lambda item: (item.name != NAME, item.name.lower()))

    def find(self, shelf: Shelf, name: str) -> Listed:
        """What a name stands for: its name, its last part, either with its suffix, in any case.

        Raises Unknown if nothing is called so, naming what is like it, NotAllowed if several are.
        """
        wanted = name.strip().replace("\\", "/")
        plain = _plain(wanted)
        items = list(self._shelves[shelf].values())
        for fits in (
            [i for i in items if wanted in (i.name, f"{i.name}{i.path.suffix}")],
            [i for i in items if plain == _plain(i.name)],
            [i for i in items if plain == _plain(i.stem)],
        ):
            if len(fits) == 1:
                return fits[0]
            if fits:
                which = " or ".join(shown(item.name) for item in fits[:4])
                raise NotAllowed(f"the {LABELS[shelf]} {shown(name, 80)} may be {which}.")
        raise Unknown(self._missing(shelf, name))

    def has(self, shelf: Shelf, name: str) -> bool:
        """Whether a name stands for something on a shelf."""
        try:
            self.find(shelf, name)
        except (Unknown, NotAllowed):
            return False
        return True

    def without_paths(self, text: str) -> str:
        """A message in which files go by their names here, and no folder is told."""
        for item in sorted(self._all(), key=lambda i: -len(str(i.path))):
            text = text.replace(str(item.path), item.name)
        return without_folders(text)

    def _all(self) -> list[Listed]:
        return [item for shelf in self._shelves.values() for item in shelf.values()]

    def _missing(self, shelf: Shelf, name: str) -> str:
        known = [item.name for item in self.on(shelf)]
        told = f"there is no {LABELS[shelf]} called {shown(name, 80)}"
        plain = _plain(name.strip())
        for item in self.refused:
            called = _plain(item.name)
            bare = called.removesuffix(next((s for s in _FOREIGN if called.endswith(s)), ""))
            if plain in {n for one in (called, bare) for n in (one, one.rpartition("/")[2])}:
                return f"{told}: its file was refused: {item.why}"
        if not known:
            return f"{told}; this server has none."
        near = get_close_matches(_plain(name)[:200], [_plain(k) for k in known], n=1, cutoff=0.6)
        if near:
            (first, *_) = [k for k in known if _plain(k) == near[0]]
            return f"{told}; did you mean {shown(first)}?"
        more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
        return f"{told}; there are {', '.join(shown(k) for k in known[:_LISTED])}{more}."


def listed(folders: Sequence[Path] = (), model: Path | None = None) -> Registry:
    """What lies in the known places and in these folders, by reading headers alone.

    model: the file or folder of a model to list besides, by its own name. Files that cannot be read
    are `refused`.
    """
    once: dict[tuple[Shelf, str], Listed] = {}  # the first name of a file counts
    found, refused = _found(folders)
    faulty = {item.path for item in refused}
    shelved = (item for item in _on_shelves(folders) if item.path not in faulty)
    for item in (*_given(model), *_carried(), *shelved, *found):
        once.setdefault((item.shelf, os.path.realpath(item.path)), item)
    return Registry(once.values(), refused)


def _given(model: Path | None) -> list[Listed]:
    if model is None:
        return []
    layout: Layout = "folder" if model.is_dir() else "file"
    name = model.name if layout == "folder" else model.stem
    found = described(Entry(name, model, layout, ""))
    return [Listed(name, model, "model", found.what, layout, found.size, found.dtype)]


def _carried() -> list[Listed]:
    """What goes with the embedded model."""
    items: list[Listed] = []
    for name in COMPANIONS:
        if (path := companion(name)) is None:
            continue
        layout: Layout = "folder" if path.is_dir() else "file"
        found = described(Entry(name, path, layout, ""))
        shelf = _CARRIED[COMPANIONS[name].partition("/")[0]]
        items.append(Listed(name, path, shelf, found.what, layout, found.size, found.dtype))
    return items


def _on_shelves(folders: Sequence[Path]) -> list[Listed]:
    """Add-ons under the names that prompts give them: from their own folder on."""
    items: list[Listed] = []
    for kind in ADDONS:
        for near in folders:
            items += [
                Listed(one.name, one.path, _shelf_of(kind), size=one.path.stat().st_size)
                for one in shelved(kind, near / "models" if (near / "models").is_dir() else near)
            ]
    return items


def _shelf_of(kind: Addon) -> Shelf:
    return kind


def _found(folders: Sequence[Path]) -> tuple[list[Listed], list[Faulty]]:
    """What is on the shelves by its headers, and what cannot be read."""
    items: list[Listed] = []
    refused: list[Faulty] = []
    for entry in entries(places(folders), also=_FOREIGN):
        try:
            found = described(entry)
        except Exception as error:  # one file must not end the list of all
            log.exception("a file could not be looked at", extra={"file": shown(entry.name)})
            why = f"reading its headers failed ({type(error).__name__})"
            refused.append(Faulty(entry.name, entry.path, why))
            continue
        if found.fault is not None:
            why = shown(without_folders(found.fault), 400)
            refused.append(Faulty(entry.name, entry.path, why))
            continue
        shelf = _shelf(entry, found.what)
        if shelf is None:
            continue
        name = entry.name
        if entry.layout == "file" and Path(name).suffix.lower() in SUFFIXES:
            name = name[: -len(Path(name).suffix)]
        items.append(
            Listed(name, entry.path, shelf, found.what, entry.layout, found.size, found.dtype)
        )
    return items, refused


def _shelf(entry: Entry, what: str) -> Shelf | None:
    """Where a thing belongs by what its headers say: its family if it is a model."""
    for kind, shelf in sorted(_KINDS.items(), key=lambda pair: -len(pair[0])):
        if kind != "model" and (what == kind or what.startswith(f"{kind} ")):
            return shelf
    known = ("unet", "motion module", "other model", "unknown")
    if not what or any(what == kind or what.startswith(f"{kind} ") for kind in known):
        return None
    return "model"


def without_folders(text: str) -> str:
    """A message in which every absolute path is its last part alone."""
    return " ".join(_last(word) for word in text.split(" "))


def _last(word: str) -> str:
    """A word of a message without the folders of a path in it: "(/a/b/c.pt:" is "(c.pt:"."""
    start = next((i for i, c in enumerate(word) if c.isalnum() or c in "/\\~."), 0)
    lead, rest = word[:start], word[start:]
    if rest.startswith(OURS):
        return word
    drive = len(rest) > 2 and rest[0].isalpha() and rest[1] == ":" and rest[2] in "\\/"
    if not (drive or rest.startswith(("/", "~/", "\\\\")) or "=/" in rest):
        return word
    cut = rest.rstrip("/\\")
    return lead + cut.replace("\\", "/").rpartition("/")[2]


def _plain(name: str) -> str:
    lower = name.lower().replace("\\", "/")
    suffix = next((s for s in SUFFIXES if lower.endswith(s)), "")
    return lower[: len(lower) - len(suffix)]
