"""LoRAs, learned words and hypernetworks in A1111's text: tags in the prompt, lists of hashes."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TypeVar

from safelight.tasks.addons import Hypernetwork, Lora
from safelight.tasks.recipe import Recipe, UsedFile, bare_name
from safelight.tasks.request import Request

DIGITS = 12  # of a hash, as A1111 shortens them
_SYNTAX = frozenset("<>:,")
Group = TypeVar("Group")


def in_tags(request: Request) -> Request:
    """The same drawing with a tag in the prompt for every LoRA and hypernetwork.

    Groups are left only where they say what no tag can, such as the steps in which it acts; of
    those that stay the files have no folders. Learned words stay where their word is not the file's
    name. Only A1111's dialect has tags.
    """
    if request.dialect != "a1111":
        return request
    taken = {one.tag for one in request.loras if one.tag is not None}
    taken |= {one.tag for one in request.hypernetworks if one.tag is not None}
    tags: list[str] = []
    loras: list[Lora] = []
    for lora in request.loras:
        tag = lora.tag or _free(lora.file, taken)
        if lora.tag is None:
            tags.append(f"<lora:{tag}:{_weights(lora)}>")
        plain = Lora(file=lora.file, tag=tag)
        own = lora.replace(tag=tag, weight=1.0, text_weight=None)
        if own != plain or tag != _stem(lora.file):
            loras.append(own)
    hypernetworks: list[Hypernetwork] = []
    for net in request.hypernetworks:
        tag = net.tag or _free(net.file, taken)
        if net.tag is None:
            tags.append(f"<hypernet:{tag}:{net.weight:g}>")
        bare = net.replace(tag=tag, weight=1.0)
        if bare != Hypernetwork(file=net.file, tag=tag) or tag != _stem(net.file):
            hypernetworks.append(bare)
    words = [one for one in request.embeddings if (one.word or "") not in ("", _stem(one.file))]
    return request.replace(
        prompt=" ".join([request.prompt, *tags]),
        loras=tuple(loras),
        hypernetworks=tuple(hypernetworks),
        embeddings=tuple(words),
    )


def hash_fields(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """A1111's lists of hashes: "style: 1b2c3d4e5f6a"."""
    request, files = recipe.request, recipe.files
    loras = _paired(request.loras, files, "lora")
    words = _paired(request.embeddings, files, "embedding")
    listed = {
        "Lora hashes": [
            (one.tag or _stem(one.file), used.tensors_sha256 or used.sha256) for one, used in loras
        ],
        "TI hashes": [(one.word or _stem(one.file), used.sha256) for one, used in words],
    }
    for key, hashes in listed.items():
        if hashes:
            yield key, ", ".join(f"{_bare(name)}: {digest[:DIGITS]}" for name, digest in hashes)


def _paired(
    groups: Sequence[Group], files: Sequence[UsedFile], role: str
) -> list[tuple[Group, UsedFile]]:
    """Each group with its file; none where a recipe does not hold a file for each of them."""
    used = [file for file in files if file.role == role]
    return list(zip(groups, used, strict=True)) if len(groups) == len(used) else []


def _weights(lora: Lora) -> str:
    """A tag's weight, or that of the text and then that of the U-Net."""
    if lora.text_weight is None or lora.text_weight == lora.weight:
        return f"{lora.weight:g}"
    return f"{lora.text_weight:g}:{lora.weight:g}"


def _stem(file: str) -> str:
    return PurePath(bare_name(file)).stem


def _free(file: str, taken: set[str]) -> str:
    """A name for a tag that no other has; it is added to them."""
    stem = _bare(_stem(file)) or "unnamed"
    tag, number = stem, 2
    while tag in taken:
        tag, number = f"{stem} {number}", number + 1
    taken.add(tag)
    return tag


def _bare(name: str) -> str:
    """A name without what would end it in a tag or a list."""
    return "".join(c for c in name if c not in _SYNTAX)
