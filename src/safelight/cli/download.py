"""`safelight download`: fetch a model from the Hugging Face hub. Nothing else uses the network."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer
from rich.console import Console
from rich.filesize import decimal

from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import models_folder
from safelight.checkpoints.printable import shown
from safelight.errors import FileError, OutputError, RequestError, SafelightError

HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
SAFE = frozenset({".safetensors"})
PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
TEXTS = frozenset({".json", ".txt", ".model", ".yaml", ".yml", ".md"})
TEXT_NAMES = ("LICENSE", "LICENCE", "NOTICE")
# Parts that Safelight never reads; --include fetches them all the same.
UNUSED_PARTS = frozenset({"safety_checker", "onnx", "openvino", "flax"})
MAX_TEXT = 64 * 2**20  # a larger "text" is weights under a wrong name
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True, slots=True)
class Source:
    """A repository on the hub, a revision of it, and which of its files are wanted."""

    repository: str
    revision: str | None = None
    include: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on the hub. digest: "sha256:..." of large files, "git:..." of small ones."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Which files to fetch, and what to tell about the others."""

    files: tuple[Remote, ...]
    remarks: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def download(
    source: Annotated[str, typer.Argument(metavar="REPO_OR_URL", help="owner/name or a hub URL.")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit [the URL's, else main].")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Only files that match, such as 'unet/*' or '*.fp16.*'; repeatable."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder to write to [one for the model, in the library].")
    ] = None,
) -> None:
    """Fetch a model: only weights, settings, tokenizers and texts, each checked by its hash.

    An interrupted download goes on where it stopped. Nothing that is fetched is run; pickled
    weights are taken only where there are no safetensors.
    """
    wanted = parse_source(source)
    wanted = replace(
        wanted,
        revision=revision or wanted.revision,
        include=(*wanted.include, *(include or ())),
    )
    folder = to or models_folder() / wanted.repository
    console = Console(stderr=True, highlight=False, markup=False)
    commit, files = listed(wanted)
    choice = chosen(files, wanted.include)
    for remark in choice.remarks:
        console.print(f"note: {remark}")
    check_space(folder, choice)
    count = len(choice.files)
    console.print(f"{wanted.repository}: {count} files, {decimal(choice.size)}, to {shown(folder)}")
    for file in choice.files:
        fetch(wanted.repository, commit, file, folder)
    print(folder)


def parse_source(text: str) -> Source:
    """The repository that a name or URL of the Hugging Face hub stands for.

    A URL may name a revision (`/tree/REV`), a folder below it, or one file (`/blob/REV/FILE`).
    Raises RequestError for anything else.
    """
    parts = [text.strip()]
    if "://" in text:
        url = urlsplit(text.strip())
        known = HOSTS | {urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc}
        if url.scheme == "hf":
            parts = ["/".join(filter(None, (url.netloc, url.path.strip("/"))))]
        elif url.scheme != "https" or url.netloc not in known:
            raise RequestError(
                f"{shown(text)} is not on the Hugging Face hub; expected owner/name or "
                "https://huggingface.co/owner/name (download other files yourself and give the path)"
            )
        else:
            parts = unquote(url.path).strip("/").split("/")
            parts = ["/".join(parts[:2]), *parts[2:]]
    repository, rest = parts[0], parts[1:]
    if not REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise RequestError(f"{shown(text)} is no repository; expected owner/name")
    if not rest:
        return Source(repository)
    if rest[0] not in ("tree", "blob", "resolve", "raw") or len(rest) < 2:
        raise RequestError(f"{shown(text)} is a page, not a repository; expected owner/name")
    below = "/".join(rest[2:])
    pattern = f"{below}/*" if rest[0] == "tree" else below
    return Source(repository, rest[1], (pattern,) if below else ())


def chosen(files: Iterable[Remote], include: Sequence[str] = ()) -> Choice:
    """The files worth fetching: of each part the best weights, and all settings and texts.

    Safetensors come before pickles; of variants (fp16, ...) the plain one, or the only one.
    include: patterns that replace this choice, though never what kinds of files are taken.
    Raises RequestError if nothing is left, FileError if the hub names a file outside the folder.
    """
    allowed = [file for file in files if _allowed(file)]
    if include:
        picked = [f for f in allowed if any(fnmatchcase(f.name, p) for p in include)]
        remarks: list[str] = []
        if not picked:
            there = ", ".join(shown(f.name, 80) for f in allowed[:12]) or "nothing of use"
            raise RequestError(
                f"no file matches {', '.join(map(shown, include))}; there is {there}"
            )
        picked = [f for f in picked if not _is_pickle(f) or not _has_safe_twin(f, allowed)]
        if not picked:
            raise RequestError("only pickles match, but there are safetensors of the same weights")
    else:
        picked, remarks = _best(allowed)
    if not any(_suffix(file) in SAFE | PICKLES for file in picked) and not include:
        raise RequestError("the repository holds no weights that Safelight can read")
    pickles = [file.name for file in picked if _is_pickle(file)]
    if pickles:
        remarks.append(
            f"no safetensors of {', '.join(shown(p) for p in pickles)}; these pickles are taken "
            "instead, and Safelight reads them without running anything"
        )
    return Choice(tuple(sorted(picked, key=lambda f: f.name)), tuple(remarks))


def listed(source: Source) -> tuple[str, list[Remote]]:
    """The commit that a revision stands for now, and the files in it.

    Raises SafelightError if huggingface_hub is missing or the hub cannot be reached, RequestError
    if there is no such repository or revision.
    """
    hub = _hub()
    with _Words(source.repository):
        info = hub.HfApi(library_name="safelight").model_info(
            source.repository, revision=source.revision, files_metadata=True
        )
    files = []
    for sibling in info.siblings or ():
        digest = f"sha256:{sibling.lfs.sha256}" if sibling.lfs else f"git:{sibling.blob_id}"
        files.append(Remote(sibling.rfilename, sibling.size or 0, digest))
    return str(info.sha), files


def fetch(repository: str, commit: str, file: Remote, folder: Path) -> Path:
    """Fetch one file into the folder, unless it is there, and check its hash.

    It appears under its name only when it is whole. Raises OutputError if it cannot be written,
    FileError if its hash is wrong (it is then deleted).
    """
    with _Words(repository):
        path = Path(
            _hub().hf_hub_download(repository, file.name, revision=commit, local_dir=folder)
        )
    if _digest(path, file.digest) != file.digest:
        path.unlink()
        raise FileError(f"{shown(path)} arrived damaged (wrong hash) and was deleted; try again")
    return path


def check_space(folder: Path, choice: Choice) -> None:
    """Raise OutputError if what is still to come does not fit on the disk."""
    missing = sum(
        file.size
        for file in choice.files
        if not (there := folder / file.name).is_file() or there.stat().st_size != file.size
    )
    base = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(base).free
    if missing > free:
        raise OutputError(
            f"{shown(folder)} needs {decimal(missing)} more, but its disk has {decimal(free)} free; "
            "make room or give another folder with --to"
        )


# -- which files -----------------------------------------------------------------------------------


def _suffix(file: Remote) -> str:
    return PurePosixPath(file.name).suffix.lower()


def _is_pickle(file: Remote) -> bool:
    return _suffix(file) in PICKLES


def _allowed(file: Remote) -> bool:
    path = PurePosixPath(file.name)
    if path.is_absolute() or ".." in path.parts or "\\" in file.name or "\0" in file.name:
        raise FileError(f"the hub names a file outside the folder: {shown(file.name)}; refused")
    if any(part.startswith(".") for part in path.parts):
        return False
    text = path.suffix.lower() in TEXTS or path.stem.upper().startswith(TEXT_NAMES)
    return path.suffix.lower() in SAFE | PICKLES or (text and file.size <= MAX_TEXT)


def _group(file: Remote) -> tuple[str, str, str]:
    """Folder, stem and variant of a weights file: the shards and twins of one share all three."""
    path = PurePosixPath(file.name)
    label = SHARD.sub("", path.stem)
    stem, _, variant = label.partition(".")
    stem = "model" if stem == "pytorch_model" else stem
    return str(path.parent), stem, variant


def _has_safe_twin(pickle: Remote, files: Iterable[Remote]) -> bool:
    """Whether the same weights are there as safetensors."""
    return any(_suffix(f) in SAFE and _group(f) == _group(pickle) for f in files)


def _best(files: Sequence[Remote]) -> tuple[list[Remote], list[str]]:
    """What a plain download takes, and remarks on what it leaves."""
    top = {part for f in files if (part := _part(f)) in UNUSED_PARTS}
    used = [f for f in files if _part(f) not in top]
    weights = [f for f in used if _suffix(f) in SAFE | PICKLES]
    remarks = [f"left out (not needed): {', '.join(sorted(top))}"] if top else []
    folder = any(f.name == "model_index.json" for f in files)
    if folder:
        # Single files beside a folder of parts are the same model once more.
        beside = [f for f in weights if "/" not in f.name]
        weights = [f for f in weights if "/" in f.name]
        if beside and weights:
            names = ", ".join(shown(f.name) for f in beside)
            remarks.append(
                f"left out (the parts are the same model; --include fetches it): {names}"
            )
        weights = weights or beside
    taken, variants = _one_of_each(weights)
    if variants:
        remarks.append(f"left out variants (--include fetches them): {', '.join(variants)}")
    texts = [f for f in used if _suffix(f) not in SAFE | PICKLES]
    return [f for f in texts if _index_wanted(f, taken)] + taken, remarks


def _part(file: Remote) -> str:
    return file.name.partition("/")[0] if "/" in file.name else ""


def _one_of_each(weights: Sequence[Remote]) -> tuple[list[Remote], list[str]]:
    """Of each part's weights one variant and one container."""
    groups: dict[tuple[str, str], dict[str, list[Remote]]] = {}
    for file in weights:
        folder, stem, variant = _group(file)
        groups.setdefault((folder, stem), {}).setdefault(variant, []).append(file)
    taken: list[Remote] = []
    left: dict[str, None] = {}
    for variants in groups.values():
        safe = {v: kept for v, g in variants.items() if (kept := [f for f in g if _is_safe(f)])}
        usable = safe or variants
        # A single file's name may hold dots that mean no variant: then there is no plain one.
        plain = "" if "" in usable else None
        for variant, group in usable.items():
            if plain is None or variant == plain:
                taken += _one_container(group)
            else:
                left[variant] = None
    return taken, [shown(variant) for variant in left]


def _is_safe(file: Remote) -> bool:
    return _suffix(file) in SAFE


def _one_container(group: Sequence[Remote]) -> list[Remote]:
    """A whole file rather than the same in shards, as loading does."""
    whole = [f for f in group if not SHARD.search(PurePosixPath(f.name).stem)]
    return whole or list(group)


def _index_wanted(text: Remote, taken: Sequence[Remote]) -> bool:
    """Whether a text is no index of shards, or the index of shards that are taken."""
    match = re.fullmatch(r"(.*?)\.(safetensors|bin)\.index(?:\.(.+))?\.json", text.name)
    if not match:
        return True
    head = f"{match[1]}.{match[3]}-" if match[3] else f"{match[1]}-"
    return any(f.name.startswith(head) and f.name.endswith(match[2]) for f in taken)


# -- the hub ---------------------------------------------------------------------------------------


def _hub():  # type: ignore[no-untyped-def]
    """The library that talks to the hub, told to send nothing about its user."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
    except ImportError:
        raise SafelightError(
            "download needs huggingface_hub, which is not installed; "
            "install it with: pip install 'safelight[download]'"
        ) from None
    return huggingface_hub


class _Words:
    """Puts the hub's errors in words, on leaving the block."""

    def __init__(self, repository: str) -> None:
        self.repository = repository

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise self.said(error) from error

    def said(self, error: Exception) -> SafelightError:
        from huggingface_hub import errors

        name = self.repository
        match error:
            case SafelightError():
                return error
            case errors.GatedRepoError():
                return RequestError(
                    f"{name} asks you to accept its terms: do so at https://huggingface.co/{name}, "
                    "then log in with `hf auth login`"
                )
            case errors.RepositoryNotFoundError() | errors.HFValidationError():
                return RequestError(
                    f"the hub has no model {name} (or it is private: log in with `hf auth login`)"
                )
            case errors.RevisionNotFoundError():
                return RequestError(f"{name} has no such revision; see its branches on the hub")
            case errors.EntryNotFoundError() if not isinstance(
                error, errors.LocalEntryNotFoundError
            ):
                return RequestError(f"{name} has no such file: {shown(str(error))}")
            case errors.OfflineModeIsEnabled():
                return SafelightError("the variable HF_HUB_OFFLINE forbids downloads; unset it")
            case OSError() if error.filename is not None:
                return OutputError(f"{shown(error.filename)} cannot be written: {error.strerror}")
            case _:
                first = shown((str(error) or type(error).__name__).splitlines()[0])
                return SafelightError(
                    f"{name} could not be downloaded: {first}. What has arrived is kept; "
                    "run the same command again to go on"
                )


def _digest(path: Path, expected: str) -> str:
    """The file's digest of the expected kind: SHA-256, or git's SHA-1 of a small file."""
    if expected.startswith("sha256:"):
        return f"sha256:{sha256(path)}"
    content = path.read_bytes()
    head = f"blob {len(content)}\0".encode()
    return f"git:{hashlib.sha1(head + content, usedforsecurity=False).hexdigest()}"
