"""Draw a picture again from its recipe, and say whether it came out the same."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import SUFFIXES as WEIGHTS
from safelight.checkpoints.library import find_model
from safelight.checkpoints.shelves import addon, shelved
from safelight.embedded.carried import NAME, embedded_folder, is_embedded
from safelight.engines.placement import resolve_device
from safelight.errors import FileError, ReplayError, RequestError
from safelight.tasks.metadata.reader import Found
from safelight.tasks.named_files import NamedFile, is_picture, named_files, renamed
from safelight.tasks.picture import Distance, Picture, pixel_distance
from safelight.tasks.picture_file import open_input
from safelight.tasks.recipe import (
    Recipe,
    bare_name,
    differences,
    files_by_role,
    in_words,
    pixels_sha256,
)
from safelight.tasks.request import Request
from safelight.tasks.supplies import used_picture

ROLES = ("model", "vae")  # files of a request that have an option of their own
PARTS = frozenset({"unet", "vae", "text_encoder", "text_encoder_2"})  # of a model's folder
NO_CAUSES = frozenset({"request.model", "request.vae", "result.pixels_sha256", "result.figures"})
SUFFIXES = ("", ".safetensors", ".ckpt", ".pth")  # other programs name models without
LOSSY = "the picture is drawn again exactly, but {} keeps pixels with loss: save as PNG to compare"
THREAD_LIMIT = 256  # a forged recipe shall not ask for more
HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Verdict:
    """What a replay found."""

    identical: bool
    first_difference: str | None  # in words; None if identical
    distance: Distance | None  # None if identical, or if the sizes differ
    reproduced: bool  # whether the pixels are those that the recipe names, whatever the file holds
    drawn: Picture

    def __str__(self) -> str:
        if self.identical:
            return "identical"
        if self.distance is None:
            return f"different: {self.first_difference}"
        return (
            f"different: {self.first_difference}; pixels are up to {self.distance.largest} levels "
            f"of 255 apart, {self.distance.mean:.3f} on average, "
            f"{100 * self.distance.changed:.2f} % of values differ"
        )

    def to_json(self) -> dict[str, object]:
        """The verdict as plain values."""
        return {
            "identical": self.identical,
            "reproduced": self.reproduced,
            "first_difference": self.first_difference,
            "distance": None if self.distance is None else self.distance._asdict(),
        }


def compared(
    recipe: Recipe, pixels: NDArray[np.uint8], drawn: Picture, *, kind: str = "PNG"
) -> Verdict:
    """The verdict on a picture drawn again. Pixels decide; the recipes only explain.

    `kind` is the file's format, PNG, JPEG or WEBP. A sheet may show a picture smaller than it was
    drawn: its hash decides then.
    """
    named = recipe.result.pixels_sha256
    reproduced = drawn.recipe.result.pixels_sha256 == named
    smaller = pixels.shape != drawn.pixels.shape == _drawn_shape(recipe)
    if (smaller and reproduced) or np.array_equal(pixels, drawn.pixels):
        return Verdict(True, None, None, reproduced, drawn)
    if reproduced:
        cause = (
            "the picture is drawn again exactly, but this file's pixels are not those that its "
            "recipe names: it was edited, or saved with loss"
        )
        cause = LOSSY.format(kind) if kind == "JPEG" else cause
    else:
        cause = _cause(recipe, drawn.recipe)
        if not smaller and kind != "JPEG" and pixels_sha256(pixels) != named:
            cause += " (and the file's pixels are not those its recipe names: edited, or lossy)"
    return Verdict(False, cause, pixel_distance(pixels, drawn.pixels), reproduced, drawn)


def compared_foreign(found: Found, pixels: NDArray[np.uint8], drawn: Picture) -> Verdict:
    """The verdict on another program's picture: its settings are no full recipe."""
    if np.array_equal(pixels, drawn.pixels):
        return Verdict(True, None, None, True, drawn)
    cause = f"drawn from {found.source}'s settings, which are no full recipe"
    used, wanted = drawn.recipe.file("model"), _hash_of(found)
    if used is not None and wanted and not used.sha256.startswith(wanted):
        cause = (
            f"the file for model is another: {found.source} names hash {wanted}, and {used.name!r} "
            f"has {used.sha256[: len(wanted)]}"
        )
    distance = pixel_distance(pixels, drawn.pixels)
    if distance is None:
        cause += "; the sizes differ"
    return Verdict(False, cause, distance, False, drawn)


def runnable(request: Request) -> Request:
    """The request on a device that is here: its own if there is one, else the best.

    What of the model is in memory when changes no pixel, and is as it fits here.
    """
    request = request.replace(offload="auto")
    try:
        resolve_device(request.device)
    except RequestError:
        return request.replace(device="auto")
    return request


@contextmanager
def threads_of(recipe: Recipe | None) -> Iterator[None]:
    """Let torch work with as many threads as the recipe names: the CPU's last bits hang on it."""
    before = torch.get_num_threads()
    if recipe is not None and recipe.software.threads <= THREAD_LIMIT:
        torch.set_num_threads(recipe.software.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_files(recipe: Recipe, given: Mapping[str, Path], folders: Iterable[Path]) -> Request:
    """The recipe's request with real paths for its files.

    Raises ReplayError for a file that is not found, or if no model is named.
    """
    request = recipe.request
    if request.needs_model and request.model is None and "model" not in given:
        raise ReplayError(
            "the picture's recipe does not say which model drew it; give it with --model PATH."
        )
    parts = frozenset(f.sha256 for f in recipe.files if _is_own_part(f.role, request.vae))
    # The files of names in its prompts are in the recipe; names are not looked up anew
    request = request.replace(look_up=False)
    return _located(request, given, folders, hashes_of_recipe(recipe), parts)


def from_settings(
    picture: Path, found: Found, given: Mapping[str, Path], folders: Iterable[Path]
) -> Request:
    """The request that another program's settings describe, with real paths for its files.

    Raises FileError if there are no settings, ReplayError for a file that is not found, or a
    picture that does not say which.
    """
    if found.request is None:
        raise FileError(f"{picture} carries no recipe and no settings of a known program.")
    request = found.request.spelled_out().replace(count=1)
    if request.model is None and "model" not in given:
        raise ReplayError(f"{picture} does not say which model drew it; give it with --model PATH.")
    return _located(request, given, folders, hashes_of(found))


def hashes_of_recipe(recipe: Recipe) -> dict[str, str]:
    """The SHA-256 of the files that a recipe names, by role; the second of a role is "role 2"."""
    return {role: file.sha256 for role, file in files_by_role(recipe).items()}


def hashes_of(found: Found) -> dict[str, str]:
    """The SHA-256, or its beginning, of the files that a picture names, as far as it tells."""
    if found.recipe is not None:
        return hashes_of_recipe(found.recipe)
    wanted = _hash_of(found)
    known = {"model": wanted} if wanted else {}
    stated = {(one.role, one.name): one.digest for one in found.hashes}
    for file in [] if found.request is None else named_files(found.request):
        digest = stated.get((file.role.rstrip(" 0123456789"), bare_name(file.name)))
        if digest is not None:
            known[file.role] = digest
    return known


def other_files(files: Mapping[str, str | None], hashes: Mapping[str, str]) -> Iterator[str]:
    """What to say of the files, by role, that are others than those with these hashes."""
    for role, name in files.items():
        if role == "model" and name is not None and is_embedded(Path(name)):
            yield from _replaced(Path(name), files.get("vae"), hashes)
        wanted = hashes.get(role)
        if name is None or wanted is None:
            continue
        if role.startswith("control") and Path(name).is_dir():
            if wanted not in _hashes_below(Path(name)):
                yield (
                    f"the file for {role} is another: the picture names sha256 {wanted[:12]}..., "
                    f"which is not in {name}; drawing with what is."
                )
            continue
        if not Path(name).is_file():
            continue
        if not (own := content_sha256(role, Path(name))).startswith(wanted):
            yield (
                f"the file for {role} is another: the picture names sha256 {wanted[:12]}..., and "
                f"{name} has {own[:12]}...; drawing with it."
            )


def located(
    role: str,
    name: str,
    wanted: str | None,
    folders: Iterable[Path],
    parts: frozenset[str] = frozenset(),
    near: Path | None = None,
) -> Path:
    """The file or folder that a picture names, looked for by name in `folders` and the library.

    LoRAs, learned words and hypernetworks also lie on shelves (`checkpoints.shelves`), some of them
    `near` the model.

    Of several the one whose SHA-256 begins with `wanted` is taken, or the folder that holds all
    files with the hashes `parts`; if none does, the first: the replay then names it as the first
    difference. Raises ReplayError if there is none of that name.
    """
    candidates = list(dict.fromkeys((*_candidates(name, folders), *_on_shelves(role, name, near))))
    for path in candidates if len(candidates) > 1 else ():
        if path.is_dir():
            own = parts or (frozenset() if wanted is None else {wanted})
            if own and own <= _hashes_below(path):
                return path
        elif wanted is not None and content_sha256(role, path).startswith(wanted):
            return path
    if candidates:
        return candidates[0]
    if name == NAME:
        raise ReplayError(
            "the picture was drawn with the model that Safelight carries, and this installation "
            f"carries none; give it with --{role} PATH."
        )
    told = "" if wanted is None else f" (sha256 {wanted[:12]}...)"
    raise ReplayError(
        f"the picture was drawn with the {role} {name!r}{told}, which is not here; "
        f"give it with {_option(role)}."
    )


def content_sha256(role: str, path: Path) -> str:
    """The hash by which a recipe knows a file of this role: of a picture its pixels."""
    if is_picture(role):
        with suppress(FileError):
            return used_picture(role, path.name, open_input(path)).sha256
    return sha256(path)


def _option(role: str) -> str:
    return f"--{role} PATH" if role in ROLES else f'--file "{role}=PATH"'


def _located(
    request: Request,
    given: Mapping[str, Path],
    folders: Iterable[Path],
    hashes: Mapping[str, str],
    parts: frozenset[str] = frozenset(),
) -> Request:
    folders = list(folders)
    none = frozenset[str]()
    files = named_files(request)
    roles = {file.role for file in files}
    for role in given:
        if role not in roles and role not in ROLES:
            known = ", ".join(sorted(roles)) or "none"
            raise ReplayError(f"the picture was drawn with no {role!r}; its files are: {known}.")

    found: dict[str, Path] = {}

    def place(file: NamedFile) -> str:
        path = given.get(file.role)
        if path is None:
            own = parts if file.role == "model" else none
            near, wanted = found.get("model", given.get("model")), hashes.get(file.role)
            path = located(file.role, file.name, wanted, folders, own, near)
        found[file.role] = path
        return str(path)

    missing = {role: str(path) for role, path in given.items() if role not in roles}
    return renamed(request, place).replace(**missing)


def _is_own_part(role: str, vae: str | None) -> bool:
    """Whether a file of this role, such as "unet 2", is of a model's own folder.

    Another autoencoder, if one is given, is not.
    """
    part = role.partition(" ")[0]
    return part in PARTS and not (part == "vae" and vae is not None)


def _hashes_below(folder: Path) -> set[str]:
    """The SHA-256 of every weights file below a folder."""
    found = (path for path in sorted(folder.rglob("*")) if path.suffix in WEIGHTS)
    return {sha256(path) for path in found if path.is_file()}


def _replaced(folder: Path, vae: str | None, hashes: Mapping[str, str]) -> Iterator[str]:
    """What to say if the embedded model is not the one that a picture names."""
    here = _hashes_below(folder)
    other = [role for role in hashes if _is_own_part(role, vae) and hashes[role] not in here]
    if other:
        yield (
            f"the embedded model was replaced since: the picture names another "
            f"{', '.join(other)} (sha256 {hashes[other[0]][:12]}...); drawing with the one that "
            "this Safelight carries. For the same picture take the release that drew it, which "
            "`safelight inspect` names, or give the old model with --model PATH."
        )


def _candidates(name: str, folders: Iterable[Path]) -> Iterator[Path]:
    if name == NAME and (carried := embedded_folder()) is not None:
        yield carried
    for folder in folders:
        for suffix in SUFFIXES:
            with suppress(OSError, ValueError):  # a name that no file can have
                if (path := folder / f"{name}{suffix}").exists():
                    yield path
    with suppress(FileError, RequestError):
        yield find_model(name)


def _on_shelves(role: str, name: str, near: Path | None) -> Iterator[Path]:
    kind = addon(role.rstrip(" 0123456789"))
    if kind is not None:
        yield from (one.path for one in shelved(kind, near) if bare_name(name) in one.names)


def _cause(was: Recipe, now: Recipe) -> str:
    """The first difference that can explain other pixels, in words."""
    embedded = was.request.model == now.request.model == NAME
    # Names are explained by the hashes of their files; the pixels are what is to be explained.
    no_causes = NO_CAUSES | {f"request.{file.place}" for file in named_files(was.request)}
    for difference in differences(was.without_folders(), now.without_folders()):
        if difference.field not in no_causes:
            words = in_words(difference)
            part = difference.field.removeprefix("files.")
            if embedded and _is_own_part(part, was.request.vae):
                then, today = was.software.safelight, now.software.safelight
                return f"the embedded model was replaced (safelight {then} to {today}): {words}"
            return words
    return (
        "files, settings and versions are the same, but the computation is not: the processor's "
        "kernels may differ"
    )


def _drawn_shape(recipe: Recipe) -> tuple[int, ...]:
    width, height = recipe.result.size or (recipe.request.width or 0, recipe.request.height or 0)
    return (height, width, 3)


def _hash_of(found: Found) -> str | None:
    """The start of the model's SHA-256, where the program tells such: 10 digits or more."""
    text = (found.model_hash or "").lower().removeprefix("0x").removeprefix("sha256:")
    return text if 10 <= len(text) <= 64 and set(text) <= HEX else None
