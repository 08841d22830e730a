"""Draws and saves what `safelight grid` asks for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safelight.cli.axes import Axis, axis, laid_on
from safelight.cli.drawing import Wishes, base_settings, steps_shown
from safelight.cli.telling import tell
from safelight.errors import RequestError
from safelight.tasks.generate import generate
from safelight.tasks.grid import Grid, drawn
from safelight.tasks.loading import Models
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request

NO_AXIS = Axis("", ("",))


def draw_grid(
    prompt: str,
    axes: Sequence[str | None],
    settings: Mapping[str, object],
    *,
    out: Path,
    cells: Path | None,
    metadata: bool,
    like: Path | None,
    as_json: bool,
) -> None:
    """Draw the grid and write its sheets; `axes` are x, y and z, None where not given."""
    if out.suffix.lower() != ".png":
        raise RequestError(f"a sheet is a PNG file; --out is {out}.")
    if not any(axes):
        raise RequestError("give an axis, such as -x steps=10,20,30.")
    chosen = [NO_AXIS if text is None else axis(text) for text in axes]
    base = {"prompt": "", **base_settings(Wishes(prompt, settings, like=like))}
    grid = grid_of(base, chosen[0], chosen[1], chosen[2])
    models = Models()

    def draw(request: Request) -> Picture:
        model = models.of(request)
        with steps_shown(request, model) as (watch, _):
            (picture,) = generate(model, request, watch_steps=watch)
        tell(picture.warnings)
        if cells is not None:
            picture.save_new(cells, metadata=metadata)
        return picture

    title = str(base["prompt"])
    for number, page in enumerate(drawn(grid, draw, title=title), start=1):
        path = out if len(grid.pages) < 2 else out.with_name(f"{out.stem}-{number}{out.suffix}")
        page.save(path, metadata=metadata)
        shape = f"{len(page.recipes)} x {max(len(row) for row in page.recipes)} pictures"
        if as_json:
            print(json.dumps({"path": str(path), "cells": _told(page.recipes)}), flush=True)
        else:
            print(f"{path}  {shape}", flush=True)


def grid_of(base: Mapping[str, object], x: Axis, y: Axis, z: Axis) -> Grid:
    """Every combination of the axes; all cells share one seed unless an axis gives others."""
    seeded = Request.parse(base).resolved()
    shared = laid_on(base, {"seed": seeded.seed, "subseed": seeded.subseed, "count": 1})

    def settings(first: str, second: str, third: str) -> Request:
        laid = dict(shared)
        for chosen, value in ((z, third), (y, second), (x, first)):
            if chosen is not NO_AXIS:
                laid = chosen.applied(laid, value)
        return Request.parse(laid)

    return Grid(
        tuple(
            tuple(tuple(settings(a, b, c) for a in x.values) for b in y.values) for c in z.values
        ),
        columns=() if x is NO_AXIS else x.labels,
        rows=() if y is NO_AXIS else y.labels,
        pages=() if z is NO_AXIS else z.labels,
    )


def _told(recipes: Sequence[Sequence[object]]) -> list[list[str]]:
    from safelight.tasks.recipe import Recipe

    return [[r.result.pixels_sha256 for r in row if isinstance(r, Recipe)] for row in recipes]
