"""Draw a picture again from its recipe, and say whether it came out the same."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import find_model
from safelight.errors import FileError, ReplayError, RequestError
from safelight.tasks.picture import Distance, Picture, pixel_distance
from safelight.tasks.recipe import Recipe, UsedFile, differences, in_words, pixels_sha256
from safelight.tasks.request import Request

ROLES = ("model", "vae")  # files that a request names


@dataclass(frozen=True)
class Verdict:
    """What a replay found."""

    identical: bool
    first_difference: str | None  # in words; None if identical
    distance: Distance | None  # None if identical, or if the sizes differ
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


def compared(recipe: Recipe, pixels: NDArray[np.uint8], drawn: Picture) -> Verdict:
    """The verdict on a picture drawn again. Pixels decide; the recipes only explain."""
    if drawn.pixels.shape == pixels.shape and (drawn.pixels == pixels).all():
        return Verdict(True, None, None, drawn)
    if drawn.recipe.result.pixels_sha256 == recipe.result.pixels_sha256:
        cause = (
            "the picture is drawn again exactly, but this file's pixels are not those that its "
            "recipe names: it was edited, or saved with loss"
        )
    else:
        own = recipe.without_folders(), drawn.recipe.without_folders()
        causes = [d for d in differences(*own) if d.field != "result.pixels_sha256"]
        cause = (
            in_words(causes[0])
            if causes
            else (
                "files, settings and versions are the same, but the computation is not: the "
                "processor's kernels may differ"
            )
        )
        if pixels_sha256(pixels) != recipe.result.pixels_sha256:
            cause += " (and the file's pixels are not those its recipe names: edited, or lossy)"
    return Verdict(False, cause, pixel_distance(pixels, drawn.pixels), drawn)


def with_files(recipe: Recipe, given: dict[str, Path], folders: Iterable[Path]) -> Request:
    """The recipe's request with real paths for its files.

    Raises ReplayError for a file that is not found.
    """
    folders = list(folders)
    changes: dict[str, str] = {}
    for role in ROLES:
        name = getattr(recipe.request, role)
        if role in given:
            changes[role] = str(given[role])
        elif name is not None:
            changes[role] = str(located(role, name, recipe.file(role), folders))
    return recipe.request.replace(**changes)


def located(role: str, name: str, used: UsedFile | None, folders: Iterable[Path]) -> Path:
    """The file or folder that a recipe names, looked for by name in `folders` and the library.

    Of several the one with the recipe's hash is taken; if none has it, the first: the replay then
    names it as the first difference. A folder's files are compared after the drawing.
    Raises ReplayError if there is none of that name.
    """
    candidates = [path for folder in folders if (path := folder / name).exists()]
    with suppress(FileError, RequestError):
        candidates.append(find_model(name))
    for path in candidates:
        if used is not None and path.is_file() and sha256(path) == used.sha256:
            return path
    if candidates:
        return candidates[0]
    told = "" if used is None else f" (sha256 {used.sha256[:12]}...)"
    raise ReplayError(
        f"the picture was drawn with the {role} {name!r}{told}, which is not here; "
        f"give it with --{role} PATH."
    )
