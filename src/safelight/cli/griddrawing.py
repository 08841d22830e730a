"""Draws and saves what `safelight grid` asks for."""

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from safelight.cli.axes import ONE_A_CELL, Axis, axis, laid_on
from safelight.cli.destination import prepared, taken
from safelight.cli.display import Display
from safelight.cli.leaving_out import LeftOut, leaving_out, moved
from safelight.cli.telling import Told
from safelight.cli.wishes import Wishes, Wording, base_settings, wording_of
from safelight.errors import OutputError, RequestError
from safelight.tasks.generate import generate
from safelight.tasks.grid import Drawn, Grid, check_count, check_recipes_fit, drawn
from safelight.tasks.loading import Models
from safelight.tasks.picture import Picture
from safelight.tasks.request import RANDOM_SEED_LIMIT, Request

NO_AXIS = Axis("", ("",))


def draw_grid(
    wishes: Wishes,
    axes: Sequence[str | None],
    *,
    out: Path,
    cells: Path | None,
    metadata: bool,
    as_json: bool,
    leave_out: bool = False,
) -> None:
    """Draw the grid and write its sheets, each when it is finished.

    `axes` are x, y and z, None where not given; with `leave_out` x is the prompt's phrases. Raises
    RequestError, FileError or OutputError before anything is drawn, where that can be seen.
    """
    if leave_out:
        _check_free(axes)
    elif not any(axes):
        raise RequestError("give an axis, such as -x steps=10,20,30.")
    for name in ONE_A_CELL:
        if name in wishes.settings:
            raise RequestError(
                f"every cell is one picture: leave --{name} out, or use -x seed=1-4."
            )
    chosen = [NO_AXIS if text is None else axis(text) for text in axes]
    base = {"prompt": "", **base_settings(wishes, varied=[axis.name for axis in chosen])}
    wording, left_out = wording_of(wishes), None
    if leave_out:
        base, left_out = leaving_out(base, wording)
        chosen[0], wording = left_out, Wording(dynamic=False)
    grid = grid_of(base, chosen[0], chosen[1], chosen[2], wording)
    paths = sheet_paths(out, len(grid.requests))
    requests = [request for page in grid.requests for row in page for request in row]
    if metadata:
        check_recipes_fit(grid)
    models, told = Models(), Told()
    for request in requests:
        models.check(request)
    saved: dict[int, Path] = {}  # a cell's picture -> its file
    with ExitStack() as stack:
        for folder in {paths[0].parent, cells or paths[0].parent}:
            stack.enter_context(prepared(folder))
        display = stack.enter_context(Display(requests))

        def draw(request: Request) -> Picture:
            display.reading(request)
            model = models.of(request) if request.needs_model else None
            if models.choice is not None and not as_json:
                with display.paused():
                    told.note(str(models.choice))
            display.drawing(request)
            (picture,) = generate(model, request, watch_steps=display.watch)
            if not as_json:
                with display.paused():
                    told.of(picture)
            if cells is not None:
                saved[id(picture)] = picture.save_new(cells, metadata=metadata)
            return picture

        columns = None if left_out is None else left_out.told
        pages = drawn(grid, draw, title=str(base["prompt"]), columns=columns)
        for path, page in zip(paths, pages, strict=True):
            try:
                page.save(path, metadata=metadata)
            except FileExistsError:
                raise OutputError(f"{taken(path)}.") from None
            with display.paused():
                _report(path, page, saved, left_out, as_json=as_json)


def the_only(given: Sequence[str] | None, flag: str) -> str | None:
    """The axis of a flag, None where not given. Raises RequestError for several."""
    if given and len(given) > 1:
        raise RequestError(
            f"{flag} is given {len(given)} times, and a sheet has one axis each way; "
            "use -x for columns, -y for rows and -z for sheets."
        )
    return given[0] if given else None


def grid_of(base: Mapping[str, object], x: Axis, y: Axis, z: Axis, wording: Wording) -> Grid:
    """Every combination of the axes; all cells share one seed unless an axis gives others.

    Raises RequestError for a value that its setting cannot have.
    """
    for name in ONE_A_CELL:
        if name in base and str(base[name]) != "1":
            raise RequestError(
                f"a cell of a grid is one picture: leave --{name} out, or use -x seed."
            )
    check_count(len(x.values) * len(y.values) * len(z.values))
    seeded = Request.parse(base)
    shared = laid_on(base, {"seed": seeded.resolved().seed})
    if seeded.subseed in (None, -1):
        shared["subseed"] = secrets.randbelow(RANDOM_SEED_LIMIT)

    def settings(first: str, second: str, third: str) -> Request:
        laid = dict(shared)
        for chosen, value in ((z, third), (y, second), (x, first)):
            if chosen is not NO_AXIS:
                laid = chosen.applied(laid, value)
        (request,) = wording.applied(Request.parse(laid))
        return request

    return Grid(
        tuple(
            tuple(tuple(settings(a, b, c) for a in x.values) for b in y.values) for c in z.values
        ),
        columns=() if x is NO_AXIS else x.labels,
        rows=() if y is NO_AXIS else y.labels,
        pages=() if z is NO_AXIS else z.labels,
    )


def sheet_paths(out: Path, pages: int) -> list[Path]:
    """The files of the sheets: `out` itself, or grid.png in the folder `out`; none exists yet.

    Several pages are numbered: sheet-1.png, sheet-2.png. Raises RequestError for a file of another
    kind, or one that exists.
    """
    if out.suffix and out.suffix.lower() != ".png" and not out.is_dir():
        raise RequestError(f"a sheet is a PNG file; --out {out} is none. Name one, or a folder.")
    if out.suffix and not out.is_dir():
        paths = _numbered(out, pages)
        for path in paths:
            if path.exists():
                raise RequestError(f"--out {taken(path)}, or a folder.")
        return paths
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file, but no PNG file; name one, or a folder.")
    for number in count(1):
        paths = _numbered(out / f"grid{f'-{number}' * (number > 1)}.png", pages)
        if not any(path.exists() for path in paths):
            break
    return paths


def _numbered(path: Path, pages: int) -> list[Path]:
    if pages < 2:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, pages + 1)]


def _check_free(axes: Sequence[str | None]) -> None:
    """Raise RequestError for axes that cannot stand beside --leave-out."""
    if axes[0] is not None:
        raise RequestError("--leave-out makes the columns; use -y or -z for another axis.")
    for text in axes:
        if text is not None and axis(text).name == "prompt":
            raise RequestError("--leave-out changes the prompt itself; leave the axis prompt out.")


def _report(
    path: Path,
    page: Drawn,
    saved: Mapping[int, Path],
    left_out: LeftOut | None,
    *,
    as_json: bool,
) -> None:
    rows, columns = len(page.pictures), max(len(row) for row in page.pictures)
    if not as_json:
        print(f"{path}  {rows} x {columns} pictures", flush=True)
        return
    cells = [
        [
            {
                "path": str(saved[id(picture)]) if id(picture) in saved else None,
                "seed": picture.recipe.request.seed,
                "pixels_sha256": picture.recipe.result.pixels_sha256,
                "warnings": list(picture.warnings),
                "facts": list(picture.facts),
                **_lacks(left_out, row, column),
            }
            for column, picture in enumerate(row)
        ]
        for row in page.pictures
    ]
    print(json.dumps({"path": str(path), "cells": cells}), flush=True)


def _lacks(left_out: LeftOut | None, row: Sequence[Picture], column: int) -> dict[str, object]:
    """What a cell of --leave-out lacks, and how far that moved it."""
    if left_out is None:
        return {}
    far = round(moved(row[0], row[column]), 3)
    return {"without": left_out.phrases[column] or None, "moved": far}
