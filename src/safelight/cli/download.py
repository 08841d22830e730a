"""`safelight download`: fetch a model from the Hugging Face hub. Nothing else uses the network."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer
from rich.console import Console
from rich.filesize import decimal

from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import models_folder
from safelight.cli.remote_files import Choice, Remote, chosen
from safelight.errors import FileError, OutputError, RequestError, SafelightError
from safelight.printable import shown

HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Source:
    """A repository on the hub. within: a folder or file of it that was asked for; "" is all."""

    repository: str
    revision: str | None = None
    within: str = ""

    def holds(self, name: str) -> bool:
        """Whether a file of the repository was asked for."""
        return not self.within or name == self.within or name.startswith(f"{self.within}/")


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
    folder = to or models_folder() / wanted.repository
    commit, files = listed(wanted.repository, revision or wanted.revision)
    choice = chosen([file for file in files if wanted.holds(file.name)], include or ())
    told = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for remark in choice.remarks:
        told.print(f"note: {remark}")
    check_space(folder, choice)
    count = len(choice.files)
    told.print(f"{wanted.repository}: {count} files, {decimal(choice.size)}, to {shown(folder)}")
    for file in choice.files:
        fetch(wanted.repository, commit, file, folder)
    typer.echo(str(folder))


def parse_source(text: str) -> Source:
    """The repository that a name or URL of the Hugging Face hub stands for.

    A URL may name a revision and a folder (`/tree/REV/FOLDER`) or a file (`/blob/REV/FILE`).
    Raises RequestError for anything else.
    """
    said = shown(text)
    path = text.strip()
    if "://" in path:
        url = urlsplit(path)
        hosts = HOSTS | {urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc} - {""}
        if url.scheme != "https" or url.netloc not in hosts:
            raise RequestError(
                f"{said} is not on the Hugging Face hub; expected owner/name or https://"
                "huggingface.co/owner/name (fetch other files yourself and give their path)"
            )
        path = unquote(url.path).strip("/")
    owner_and_name, rest = "/".join(path.split("/")[:2]), path.split("/")[2:]
    if not REPOSITORY.fullmatch(owner_and_name) or re.search(r"\.\.|--", owner_and_name):
        raise RequestError(f"{said} names no repository; expected owner/name")
    if not rest:
        return Source(owner_and_name)
    if rest[0] not in ("tree", "blob", "resolve", "raw") or len(rest) < 2:
        raise RequestError(f"{said} is neither a repository nor a file of one; expected owner/name")
    return Source(owner_and_name, rest[1], "/".join(rest[2:]))


def listed(repository: str, revision: str | None) -> tuple[str, list[Remote]]:
    """The commit that a revision stands for now, and the files in it.

    Raises SafelightError if huggingface_hub is missing or the hub cannot be reached, RequestError
    if there is no such repository or revision.
    """
    hub = _hub()
    with in_words(repository):
        info = hub.HfApi(library_name="safelight").model_info(
            repository, revision=revision, files_metadata=True
        )
    files = []
    for sibling in info.siblings or ():
        digest = f"sha256:{sibling.lfs.sha256}" if sibling.lfs else f"git:{sibling.blob_id}"
        files.append(Remote(sibling.rfilename, sibling.size or 0, digest))
    return str(info.sha), files


def fetch(repository: str, commit: str, file: Remote, folder: Path) -> Path:
    """Fetch one file into the folder, unless it is there, and check its hash.

    It appears under its name only when it is whole. Raises OutputError if it cannot be written,
    FileError if its hash is wrong (it is then deleted), SafelightError if the network fails.
    """
    hub = _hub()
    with in_words(repository):
        path = Path(hub.hf_hub_download(repository, file.name, revision=commit, local_dir=folder))
    if digest_of(path, file.digest) != file.digest:
        path.unlink()
        raise FileError(f"{shown(path)} arrived damaged (wrong hash) and was deleted; try again")
    return path


def check_space(folder: Path, choice: Choice) -> None:
    """Raise OutputError if what is still to come does not fit on the disk."""
    missing = sum(file.size for file in choice.files if not _there(folder / file.name, file.size))
    base = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(base).free
    if missing > free:
        raise OutputError(
            f"{shown(folder)} needs {decimal(missing)} more, but its disk has {decimal(free)} "
            "free; make room or give another folder with --to"
        )


def _there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def digest_of(path: Path, expected: str) -> str:
    """A file's digest of the expected kind: SHA-256, or git's SHA-1 of a small file."""
    if expected.startswith("sha256:"):
        return f"sha256:{sha256(path)}"
    content = path.read_bytes()
    head = f"blob {len(content)}\0".encode()
    return f"git:{hashlib.sha1(head + content, usedforsecurity=False).hexdigest()}"


def _hub() -> ModuleType:
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


@contextmanager
def in_words(repository: str) -> Iterator[None]:
    """Turns the errors of huggingface_hub into ours, with what to do about them."""
    try:
        yield
    except SafelightError:
        raise
    except Exception as error:
        raise _said(repository, error) from error


def _said(name: str, error: Exception) -> SafelightError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return RequestError(
            f"{name} asks you to accept its terms: do so at https://huggingface.co/{name}, "
            "then log in with `hf auth login`"
        )
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return RequestError(
            f"the hub has no model {name}, or it is private: then log in with `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return RequestError(f"{name} has no such revision; its page on the hub lists them")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return SafelightError("the variable HF_HUB_OFFLINE forbids downloads; unset it")
    if isinstance(error, OSError) and error.filename is not None:
        return OutputError(f"{shown(error.filename)} cannot be written: {error.strerror}")
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SafelightError(
        f"{name} could not be downloaded: {shown(first)}. What has arrived is kept; run the same "
        "command again to go on"
    )
