"""The models on this machine: what lies in the known folders, and where a name leads.

Looking for names opens no file; `described` opens one and reads its header.
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Literal

import torch

from safelight.checkpoints.diffusers_folder import is_diffusers_folder
from safelight.checkpoints.files import open_shards
from safelight.checkpoints.folders import PICKLED_STEMS, find_weights
from safelight.checkpoints.hashes import known_sha256
from safelight.checkpoints.keymap import Shape
from safelight.checkpoints.kinds import kind_of, made_for
from safelight.checkpoints.load import open_checkpoint
from safelight.embedded.carried import (
    COMPANIONS,
    NAME,
    NAMES,
    companion,
    embedded_folder,
    is_embedded,
)
from safelight.errors import FileError, RequestError, SafelightError
from safelight.printable import shown

Layout = Literal["file", "folder"]
What = Literal["model", "autoencoder", "file"]

SUFFIXES = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin"})
STEMS = ("diffusion_pytorch_model", "model")  # of Diffusers' and of Transformers' parts
MAX_DEPTH = 6
MAX_ENTRIES = 20_000


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that holds models, and how to call it."""

    label: str
    path: Path
    hub: bool = False  # laid out as the Hugging Face cache
    name: str = ""  # of the model that the folder itself is


@dataclass(frozen=True, slots=True)
class Entry:
    """A weights file, or a folder of parts, by the name that `--model` takes."""

    name: str
    path: Path
    layout: Layout
    place: str


@dataclass(frozen=True, slots=True)
class Description:
    """An entry opened. fault: why it could not be read; then size alone is known."""

    entry: Entry
    size: int  # bytes of its weights on disk
    dtype: str  # of most of its bytes: "fp16", "bf16", ...
    what: str  # the family of a model; else the kind, such as "lora for SD 1.x"
    sha256: str | None  # of a file, if it is remembered
    fault: str | None


def models_folder() -> Path:
    """Where `safelight download` puts models: $SAFELIGHT_HOME/models, or the user's data folder."""
    if chosen := os.environ.get("SAFELIGHT_HOME"):
        return Path(chosen) / "models"
    home = _home()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "safelight" / "models"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home) / "safelight" / "models"
    data = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
    return Path(data) / "safelight" / "models"


def hub_cache() -> Path:
    """The cache of the Hugging Face libraries, wherever their variables put it."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen)
    if home := os.environ.get("HF_HOME"):
        return Path(home) / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or _home() / ".cache"
    return Path(cache) / "huggingface" / "hub"


def places(folders: Iterable[Path] = ()) -> list[Place]:
    """Where to look: the package, our models, the Hugging Face cache, and the folders given.

    A folder may be the root of AUTOMATIC1111's or ComfyUI's program, their `models` folder, or any
    other; only what lies under `models` and `embeddings` of a program's root is looked at.
    """
    carried = embedded_folder()
    found = [] if carried is None else [Place("this installation", carried, name=NAME)]
    beside = (path.parent for name in COMPANIONS if (path := companion(name)) is not None)
    found += [Place("this installation", folder) for folder in dict.fromkeys(beside)]
    found += [Place("Safelight", models_folder()), Place("Hugging Face", hub_cache(), hub=True)]
    for folder in folders:
        inner = [folder / name for name in ("models", "embeddings") if (folder / name).is_dir()]
        roots = inner if folder / "models" in inner else [folder]
        found += [Place(shown(folder), root) for root in roots]
    return found


def entries(where: Sequence[Place], *, also: Collection[str] = ()) -> Iterator[Entry]:
    """Every model in these places, sorted within each; places that do not exist hold none.

    also: suffixes of files besides `SUFFIXES`, for whoever wants to say why those are none.
    """
    for place in where:
        if place.hub:
            found = _hub(place)
        else:
            found = _below(place, place.path, place.name, set(), SUFFIXES.union(also))
        yield from islice(found, MAX_ENTRIES)


def find_model(name: str, folders: Iterable[Path] = (), *, what: What = "model") -> Path:
    """The file or folder that a name stands for: a path, or the name of a model in `places`.

    "embedded" is the model that the package carries, and `carried.COMPANIONS` what goes with it.

    A name may leave out the suffix and folders before it, and its case does not matter. Of models
    with the same full name the first place wins. Raises RequestError if the name fits models of
    several names, FileError if it fits none, suggesting the nearest that can be `what`: "model" if
    it is to be drawn with, "autoencoder" if it is for another model, "file" if anything will do.
    """
    path = Path(name).expanduser()
    if _exists(path):
        return path
    if (own := companion(name)) is not None:
        return own
    known = list(entries(places(folders)))
    for fits in (_is, _ends, _ends_without_suffix):
        found = [entry for entry in known if fits(_plain(entry.name), _plain(name))]
        if len({_plain(entry.name) for entry in found}) > 1:
            which = " or ".join(shown(entry.name) for entry in found[:4])
            raise RequestError(f"the {what} {shown(name)} may be {which}; say which")
        if found:
            return found[0].path
    raise FileError(_unknown(name, path, known, what))


def described(entry: Entry) -> Description:
    """What the headers of an entry's weights say; a damaged one gives its fault, not an error."""
    size = 0
    types: Counter[torch.dtype] = Counter()
    shapes: dict[str, Shape] = {}
    try:
        for paths in _files(entry):
            size += sum(path.stat().st_size for path in paths)
            with open_shards(paths) as weights:
                for name, info in weights.header.items():
                    types[info.dtype] += info.nbytes
                    shapes[name] = info.shape
        what = _what(entry, shapes)
    except (SafelightError, OSError) as error:
        return Description(entry, size, "", "", None, str(error))
    dtype = short_name(types.most_common(1)[0][0]) if types else ""
    digest = known_sha256(entry.path) if entry.layout == "file" else None
    return Description(entry, size, dtype, what, digest, None)


def _what(entry: Entry, shapes: Mapping[str, Shape]) -> str:
    """The family of a model, or the kind of any other file and what it is for."""
    found = kind_of(shapes)
    if is_diffusers_folder(entry.path) or (entry.layout == "file" and found.kind == "model"):
        with open_checkpoint(entry.path) as checkpoint:
            return checkpoint.family.label
    return f"{found.kind} {_made_for(entry, shapes)}".strip()


def _made_for(entry: Entry, shapes: Mapping[str, Shape]) -> str:
    """What a file of changes is for; of what the package carries, the model beside it."""
    folder = embedded_folder()
    if folder is None or not is_embedded(entry.path):
        return made_for(shapes)
    with open_checkpoint(folder) as checkpoint:
        return f"for {checkpoint.family.label}"


def short_name(dtype: torch.dtype) -> str:
    """A type as `--dtype` takes it: fp16, bf16, fp32, fp8; others by torch's name."""
    name = str(dtype).removeprefix("torch.")
    if name.startswith("float8"):
        return "fp8"
    return name.replace("bfloat", "bf") if name[0] == "b" else name.replace("float", "fp")


def _home() -> Path:
    return Path(os.environ.get("HOME") or os.environ.get("USERPROFILE") or tempfile.gettempdir())


# -- names -----------------------------------------------------------------------------------------


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _plain(name: str) -> str:
    return name.replace("\\", "/").lower()


def _is(known: str, wanted: str) -> bool:
    return known == wanted


def _ends(known: str, wanted: str) -> bool:
    return known.endswith(f"/{wanted}")


def _ends_without_suffix(known: str, wanted: str) -> bool:
    stem, dot, suffix = known.rpartition(".")
    bare = stem if dot + suffix in SUFFIXES else known
    return bare == wanted or bare.endswith(f"/{wanted}")


def _unknown(name: str, path: Path, known: Sequence[Entry], what: What) -> str:
    beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    spellings: dict[str, str] = {}
    paths = {whole: Path(whole) for whole in beside} | {entry.name: entry.path for entry in known}
    for whole in paths:
        last = _plain(whole).rpartition("/")[2]
        spellings |= {Path(last).stem: whole, last: whole, _plain(whole): whole}
    wanted = _plain(name)
    if wanted in NAMES and wanted not in spellings:
        kind = "model" if wanted == NAME else "file"
        return f"this installation carries no {wanted} {kind}; give a file or a Diffusers folder"
    near = get_close_matches(wanted, spellings, n=3, cutoff=0.6)
    near += get_close_matches(wanted.rpartition("/")[2], spellings, n=3, cutoff=0.6)
    found = dict.fromkeys(spellings[spelling] for spelling in near)
    if what == "autoencoder":
        found = dict.fromkeys(whole for whole in found if _is_autoencoder(paths[whole]))
    unique = [shown(whole) for whole in found]
    hint = f"did you mean {' or '.join(unique[:3])}? Give" if unique else "give"
    ways = {
        "model": "a file, a Diffusers folder",
        "autoencoder": "the file or folder of an autoencoder (VAE)",
        "file": "a weights file, a Diffusers folder, a picture",
    }[what]
    return (
        f"there is no {what} {shown(name)}; {hint} {ways}, or a name that `safelight models` lists"
    )


def _is_autoencoder(path: Path) -> bool:
    """Whether a file or folder holds an autoencoder and nothing else, by its header."""
    try:
        paths = find_weights(path, STEMS[0]) if path.is_dir() else [path]
        with open_shards(paths) as weights:
            shapes = {name: info.shape for name, info in weights.header.items()}
    except (SafelightError, OSError):
        return False
    return kind_of(shapes).kind in ("vae", "taesd")


# -- folders ---------------------------------------------------------------------------------------


def _below(
    place: Place,
    folder: Path,
    prefix: str,
    seen: set[Path],
    suffixes: Collection[str] = SUFFIXES,
) -> Iterator[Entry]:
    """The models below a folder; `seen` ends loops of links."""
    real = Path(os.path.realpath(folder))
    if real in seen or prefix.count("/") >= MAX_DEPTH:
        return
    seen.add(real)
    items = _listed(folder)
    if _is_parts({item.name for item in items}):
        yield Entry(prefix or real.name, folder, "folder", place.label)
        return
    for item in items:
        name = f"{prefix}/{item.name}" if prefix else item.name
        if item.is_dir():
            yield from _below(place, item, name, seen, suffixes)
        elif item.suffix.lower() in suffixes and item.is_file():
            yield Entry(name, item, "file", place.label)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    except OSError:
        return []


def _is_parts(names: set[str]) -> bool:
    """Whether a folder with these names is a Diffusers model or one part of one."""
    return "model_index.json" in names or ("config.json" in names and bool(_stems(names)))


def _stems(names: Iterable[str]) -> list[str]:
    """Which weights a folder holds, by the stem that `find_weights` takes."""
    names = list(names)
    heads = {name.partition(".")[0].partition("-0")[0] for name in names}
    heads |= {stem for stem, pickled in PICKLED_STEMS.items() if pickled in heads}
    weights = any(Path(name).suffix in SUFFIXES for name in names)
    return [stem for stem in STEMS if stem in heads] if weights else []


def _hub(place: Place) -> Iterator[Entry]:
    """The models of a Hugging Face cache: the snapshot that `main` names, or the newest."""
    for repository in _listed(place.path):
        kind, _, name = repository.name.partition("--")
        snapshot = _snapshot(repository) if kind == "models" else None
        if snapshot is not None:
            yield from _below(place, snapshot, name.replace("--", "/"), set())


def _snapshot(repository: Path) -> Path | None:
    snapshots = _listed(repository / "snapshots")
    try:
        main = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        main = ""
    named = [path for path in snapshots if path.name == main]
    return max(named or snapshots, key=lambda path: path.stat().st_mtime, default=None)


def _files(entry: Entry) -> Iterator[list[Path]]:
    """The sets of shards that loading an entry would read."""
    if entry.layout == "file":
        yield [entry.path]
        return
    for folder in [entry.path, *(item for item in _listed(entry.path) if item.is_dir())]:
        for stem in _stems(item.name for item in _listed(folder)):
            yield find_weights(folder, stem)
