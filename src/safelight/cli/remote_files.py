"""Which files of a repository are worth fetching: pure functions on their names and sizes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from safelight.errors import FileError, RequestError
from safelight.printable import shown

SAFE = frozenset({".safetensors"})
PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
TEXTS = frozenset({".json", ".txt", ".model", ".yaml", ".yml", ".md"})
TEXT_NAMES = ("LICENSE", "LICENCE", "NOTICE")
# Parts that Safelight never reads; --include fetches them all the same.
UNUSED_PARTS = frozenset({"safety_checker", "onnx", "openvino", "flax"})
MAX_TEXT = 64 * 2**20  # a larger "text" is weights under a wrong name
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
INDEX = re.compile(r"(.*?)\.(safetensors|bin)\.index(?:\.(.+))?\.json")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of a repository. digest: "sha256:..." of large files, "git:..." of small ones."""

    name: str
    size: int
    digest: str

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name)

    @property
    def safe(self) -> bool:
        return self.path.suffix.lower() in SAFE

    @property
    def pickle(self) -> bool:
        return self.path.suffix.lower() in PICKLES

    @property
    def part(self) -> str:
        """The first folder it lies in; "" for the top."""
        return self.name.rpartition("/")[0].partition("/")[0]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which files to fetch, and what to tell about the others."""

    files: tuple[Remote, ...]
    remarks: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def chosen(files: Iterable[Remote], include: Sequence[str] = ()) -> Choice:
    """The files worth fetching: of each part the best weights, and all settings and texts.

    Safetensors come before pickles; of variants (fp16, ...) the plain one, or all if there is no
    plain one. include: patterns that replace this choice; what kinds of files may be fetched at
    all, and that pickles are only taken where a folder has no safetensors, holds for them too.
    Raises RequestError if no weights are left, FileError if a name leads outside the folder.
    """
    allowed = [file for file in files if _allowed(file)]
    remarks: list[str] = []
    usable = _without_pickles(allowed, remarks)
    if include:
        picked = [f for f in usable if any(fnmatchcase(f.name, p) for p in include)]
        if not picked:
            there = ", ".join(shown(f.name, 80) for f in usable[:12]) or "nothing of use"
            asked = ", ".join(map(shown, include))
            raise RequestError(f"no file to fetch matches {asked}; there is {there}")
    else:
        picked = _best(usable, remarks)
        if not any(f.safe or f.pickle for f in picked):
            raise RequestError("the repository holds no weights that Safelight can read")
    pickles = ", ".join(shown(f.name) for f in picked if f.pickle)
    if pickles:
        remarks.append(
            f"there are no safetensors of {pickles}; these pickles are taken instead, and "
            "Safelight reads them without running anything"
        )
    return Choice(tuple(sorted(picked, key=lambda f: f.name)), tuple(remarks))


def _allowed(file: Remote) -> bool:
    path = file.path
    if path.is_absolute() or ".." in path.parts or not file.name or set("\\\0:") & set(file.name):
        raise FileError(f"the repository names a file outside of it: {shown(file.name)}; refused")
    if any(part.startswith(".") for part in path.parts):
        return False
    text = path.suffix.lower() in TEXTS or path.stem.upper().startswith(TEXT_NAMES)
    return file.safe or file.pickle or (text and file.size <= MAX_TEXT)


def _without_pickles(files: Sequence[Remote], remarks: list[str]) -> list[Remote]:
    """All but the pickles in folders that have safetensors."""
    safe = {f.path.parent for f in files if f.safe}
    dropped = {f for f in files if f.pickle and f.path.parent in safe}
    if dropped:
        remarks.append(f"left out {len(dropped)} pickles: there are safetensors beside them")
    return [f for f in files if f not in dropped]


def _best(files: Sequence[Remote], remarks: list[str]) -> list[Remote]:
    """What a plain download takes; what it leaves is told in `remarks`."""
    unused = sorted({f.part for f in files} & UNUSED_PARTS)
    if unused:
        remarks.append(f"left out what is not needed: {', '.join(unused)}")
    files = [f for f in files if f.part not in UNUSED_PARTS]
    weights = [f for f in files if f.safe or f.pickle]
    if any(f.name == "model_index.json" for f in files):
        # Single files beside a folder of parts are the same model once more.
        parts = [f for f in weights if "/" in f.name]
        beside = ", ".join(shown(f.name) for f in weights if "/" not in f.name)
        if parts and beside:
            remarks.append(f"left out the same model as single files: {beside}")
            weights = parts
    taken, variants = _one_of_each(weights)
    if variants:
        remarks.append(f"left out variants: {', '.join(variants)}; --include fetches them")
    texts = [f for f in files if not (f.safe or f.pickle)]
    return [f for f in texts if _index_wanted(f, taken)] + taken


def _one_of_each(weights: Sequence[Remote]) -> tuple[list[Remote], list[str]]:
    """Of all weights with one name the plain variant, and the names of the variants left out."""
    groups: dict[tuple[str, str], dict[str, list[Remote]]] = {}
    for file in weights:
        stem, _, variant = SHARD.sub("", file.path.stem).partition(".")
        key = (str(file.path.parent), stem)
        groups.setdefault(key, {}).setdefault(variant, []).append(file)
    taken: list[Remote] = []
    left: dict[str, None] = {}
    for variants in groups.values():
        # A dot in the name of a single file ("xl_1.0") means no variant: then none is plain.
        wanted = {"": variants[""]} if "" in variants else variants
        taken += [file for group in wanted.values() for file in _whole(group)]
        left |= dict.fromkeys(v for v in variants if v not in wanted)
    return taken, [shown(variant) for variant in left]


def _whole(group: Sequence[Remote]) -> list[Remote]:
    """A whole file rather than the same in shards, as loading does."""
    whole = [f for f in group if not SHARD.search(f.path.stem)]
    return whole or list(group)


def _index_wanted(text: Remote, taken: Sequence[Remote]) -> bool:
    """Whether a text is no index of shards, or the index of shards that are taken."""
    index = INDEX.fullmatch(text.name)
    if not index:
        return True
    head = f"{index[1]}.{index[3]}-" if index[3] else f"{index[1]}-"
    return any(f.name.startswith(head) and f.name.endswith(index[2]) for f in taken)
