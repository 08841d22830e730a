"""The LoRAs and learned words that another program's picture names with their hashes.

A1111 names a LoRA by the hash of its tensors and a learned word by that of its file; a file of the
right hash is taken even if it is called otherwise, as A1111 does.
"""

from collections.abc import Sequence
from pathlib import Path

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.hashes import content_sha256, sha256
from safelight.checkpoints.shelves import LABELS, Addon, addon, shelved
from safelight.errors import SafelightError
from safelight.printable import shown
from safelight.tasks.addons import Embedding, Lora
from safelight.tasks.lookup import LookedUp, tag_names
from safelight.tasks.metadata.reading import StatedHash
from safelight.tasks.request import Request


def with_stated(
    request: Request, hashes: Sequence[StatedHash], near: Path | None = None
) -> LookedUp:
    """The request with the files that have these hashes, as far as they are on the shelves.

    A name whose file has another hash is left to be looked up, and a note says so; one without any
    file, too. Names that the request gives files already, or that no prompt says, are passed by.
    """
    loras, words = list(request.loras), list(request.embeddings)
    tags = tag_names(request)
    named = {one.tag for one in loras} | {one.word for one in words}
    notes = []
    for stated in hashes:
        kind = addon(stated.role)
        idle = kind == "lora" and stated.name not in tags
        if kind is None or idle or stated.name in named:
            continue
        found, other = _found(kind, stated, near)
        if found is not None and kind == "lora":
            loras.append(Lora(file=str(found), tag=stated.name))
        elif found is not None:
            words.append(Embedding(file=str(found), word=stated.name))
        elif other is not None:
            own = digests(other)[-1][: len(stated.digest)]
            notes.append(
                f"the {LABELS[kind]} {shown(stated.name)} is another: the picture names the hash "
                f"{stated.digest}, and {shown(other)} has {own}; drawing with it."
            )
    return LookedUp(request.replace(loras=tuple(loras), embeddings=tuple(words)), tuple(notes))


def digests(path: Path) -> list[str]:
    """The hashes by which programs know a file: of all of it, and of its tensors alone."""
    found = [sha256(path)]
    if path.suffix.lower() == ".safetensors":
        found.append(content_sha256(path))
    return found


def _found(kind: Addon, stated: StatedHash, near: Path | None) -> tuple[Path | None, Path | None]:
    """The file with the hash; and one that only has the name."""
    known = shelved(kind, near)
    called = [one.path for one in known if stated.name in one.names]
    for path in called:
        if any(own.startswith(stated.digest) for own in digests(path)):
            return path, None
    for one in known if kind == "lora" else ():
        if _trainers_hash(one.path).startswith(stated.digest):
            return one.path, None
    return None, called[0] if called else None


def _trainers_hash(path: Path) -> str:
    """The hash of the tensors as the trainer wrote it into the file; empty if it did not."""
    if path.suffix.lower() != ".safetensors":
        return ""
    try:
        with open_weights(path) as file:
            return file.metadata.get("sshs_model_hash", "")
    except (SafelightError, OSError):
        return ""
