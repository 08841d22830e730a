"""What `safelight replay` does once it is asked to."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from safelight.cli.destination import destination, prepared
from safelight.cli.display import Display
from safelight.cli.missing import must_exist
from safelight.cli.telling import tell
from safelight.errors import RequestError
from safelight.tasks.generate import generate
from safelight.tasks.grid import KEY, cell_of
from safelight.tasks.loading import Models
from safelight.tasks.metadata.reader import settings_of
from safelight.tasks.named_files import named_files
from safelight.tasks.picture import Picture, open_picture
from safelight.tasks.recipe import Recipe
from safelight.tasks.replay import (
    ROLES,
    compared,
    compared_foreign,
    from_settings,
    hashes_of,
    hashes_of_recipe,
    other_files,
    runnable,
    threads_of,
    with_files,
)
from safelight.tasks.request import Request
from safelight.tasks.stated import with_stated


def replayed(
    picture: Path,
    *,
    model: Path | None,
    vae: Path | None,
    files: Sequence[str],
    cell: str | None,
    out: Path | None,
    as_json: bool,
) -> int:
    """Draw `picture` again and print the verdict; 0 if identical, 1 if not.

    Raises FileError if it is no picture or carries nothing to draw from, RequestError for a cell
    that is not there, ReplayError if its model is not here.
    """
    opened = open_picture(must_exist(picture, "picture"))
    given = {role: path for role, path in zip(ROLES, (model, vae), strict=True) if path is not None}
    given |= dict(_role_and_path(text) for text in files)
    folders = (picture.parent, Path())
    if cell is not None:
        recipe, pixels = cell_of(opened, *_place(cell))
        request = with_files(recipe, given, folders)
        _tell_others(request, hashes_of_recipe(recipe))
        drawn = _drawn(request, out, recipe)
        verdict = compared(recipe, pixels, drawn)
    elif KEY in opened.texts:
        raise RequestError(
            f"{picture} is a sheet of several pictures; name one: --cell ROW,COLUMN."
        )
    elif (found := settings_of(opened)).recipe is not None:
        request = with_files(found.recipe, given, folders)
        _tell_others(request, hashes_of(found))
        drawn = _drawn(request, out, found.recipe)
        verdict = compared(found.recipe, opened.pixels, drawn, kind=opened.kind)
    else:
        tell(found.notes)
        request = from_settings(picture, found, given, folders)
        _tell_others(request, hashes_of(found))
        stated = with_stated(request, found.hashes, _near(request))
        tell(stated.notes)
        drawn = _drawn(stated.request, out, None)
        verdict = compared_foreign(found, opened.pixels, drawn)
    print(json.dumps(verdict.to_json()) if as_json else verdict)
    return 0 if verdict.identical else 1


def _role_and_path(text: str) -> tuple[str, Path]:
    role, equals, path = text.partition("=")
    if not (role.strip() and equals and path):
        raise RequestError(f"--file must be ROLE=PATH, such as source=photo.png; got {text!r}.")
    return role.strip(), Path(path)


def _tell_others(request: Request, hashes: Mapping[str, str]) -> None:
    """Say before the drawing, which may take long, that the files are not the picture's."""
    files: dict[str, str | None] = {"vae": None}
    files |= {file.role: file.name for file in named_files(request)}
    tell(list(other_files(files, hashes)))


def _near(request: Request) -> Path | None:
    """The model's file or folder, if the request names one that is here."""
    path = None if request.model is None else Path(request.model)
    return path if path is not None and path.exists() else None


def _drawn(request: Request, out: Path | None, recipe: Recipe | None) -> Picture:
    """The picture of a request, saved if `out` names a file or folder."""
    with ExitStack() as stack:
        target = None
        if out is not None:
            target = destination(out, format=None, quality=None, metadata=True, pictures=1)
            stack.enter_context(prepared(target.folder))
        stack.enter_context(threads_of(recipe))
        picture = _alone(runnable(request))
        if target is not None:
            target.save(picture)
    return picture


def _alone(request: Request) -> Picture:
    models = Models()
    models.check(request)
    with Display([request]) as display:
        display.reading(request)
        model = models.of(request, alone=True) if request.needs_model else None
        display.drawing(request)
        (picture,) = generate(model, request, watch_steps=display.watch)
    return picture


def _place(cell: str) -> tuple[int, int]:
    parts = cell.replace("x", ",").split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() and len(part) < 9 for part in parts):
        raise RequestError(f"--cell must be ROW,COLUMN from 1, such as 2,3; got {cell!r}.")
    return int(parts[0]), int(parts[1])
