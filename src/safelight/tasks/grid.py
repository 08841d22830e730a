"""X/Y/Z grids: every combination of some settings on one labelled sheet whose cells are recipes."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from safelight.errors import FileError, OutputError, RequestError
from safelight.tasks.bounded_json import Json, as_object, parse_json
from safelight.tasks.picture import Picture
from safelight.tasks.picture_file import TEXT_LIMIT, OpenedPicture
from safelight.tasks.recipe import Recipe
from safelight.tasks.request import Request
from safelight.tasks.sheet import sheet
from safelight.writing import write_whole

KEY = "safelight-grid"  # the PNG text chunk of a sheet
CELL_LIMIT = 1000
JSON_LIMIT = TEXT_LIMIT - 1000
Pictures = tuple[tuple[Picture, ...], ...]  # by row and column
RECIPE_ROOM = 3000  # characters of a recipe besides its request, at most: files, versions, result


@dataclass(frozen=True)
class Grid:
    """The requests of a sheet: pages (z) of rows (y) of columns (x), and the labels of each."""

    requests: tuple[tuple[tuple[Request, ...], ...], ...]
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_count(sum(len(row) for page in self.requests for row in page))


@dataclass(frozen=True)
class Drawn:
    """One sheet with the picture and the place of every cell, by row and column."""

    image: Image.Image
    pictures: Pictures
    boxes: tuple[tuple[tuple[int, int, int, int], ...], ...]

    def save(self, path: Path, *, metadata: bool = True) -> None:
        """Write the sheet as a PNG that carries the recipe of every cell.

        Raises FileExistsError if the file exists, OutputError if it cannot be written or the
        recipes are too long.
        """
        chunks = PngInfo()
        if metadata:
            cells = [
                [
                    {"recipe": p.recipe.without_folders().model_dump(mode="json"), "box": list(box)}
                    for p, box in zip(pictures, boxes, strict=True)
                ]
                for pictures, boxes in zip(self.pictures, self.boxes, strict=True)
            ]
            text = json.dumps({"version": 1, "cells": cells}, separators=(",", ":"))
            if len(text) > JSON_LIMIT:
                raise OutputError(too_long(len(text)))
            chunks.add_text(KEY, text)
        buffer = BytesIO()
        self.image.save(buffer, "PNG", pnginfo=chunks)
        write_whole(path, buffer.getvalue(), replace=False)


def check_count(cells: int) -> None:
    """Raise RequestError for more cells than anybody would wait for."""
    if cells > CELL_LIMIT:
        raise RequestError(f"a grid may have {CELL_LIMIT} cells; these axes make {cells}.")


def check_recipes_fit(grid: Grid) -> None:
    """Raise RequestError if a sheet could not hold the recipes of all its cells."""
    for page in grid.requests:
        length = sum(
            len(json.dumps(request.model_dump(mode="json"))) + RECIPE_ROOM
            for row in page
            for request in row
        )
        if length > JSON_LIMIT:
            raise RequestError(too_long(length))


def too_long(length: int) -> str:
    return (
        f"the recipes of these cells take {length} characters and a sheet holds {JSON_LIMIT}; "
        "make the grid smaller or the prompt shorter, or leave the recipes out with --no-metadata."
    )


def drawn(
    grid: Grid,
    draw: Callable[[Request], Picture],
    *,
    title: str = "",
    columns: Callable[[Pictures], Sequence[str]] | None = None,
) -> Iterator[Drawn]:
    """The sheets of a grid, one a page, each as soon as it is finished.

    `draw` makes the picture of one cell. Within a page the cells of one model follow each other.
    `columns` makes the columns' labels from a page's pictures, in place of the grid's own.
    """
    for number, page in enumerate(grid.requests):
        places = [(y, x) for y, row in enumerate(page) for x in range(len(row))]
        loads = list(dict.fromkeys(_loads(page[y][x]) for y, x in places))
        places.sort(key=lambda place: loads.index(_loads(page[place[0]][place[1]])))
        made = {(y, x): draw(page[y][x]) for y, x in places}
        pictures = tuple(tuple(made[y, x] for x in range(len(row))) for y, row in enumerate(page))
        label = grid.pages[number] if grid.pages else ""
        image, cells = sheet(
            [[picture.image() for picture in row] for row in pictures],
            column_labels=grid.columns if columns is None else columns(pictures),
            row_labels=grid.rows,
            title=" · ".join(text for text in (title, label) if text),
        )
        yield Drawn(image, pictures, cells.boxes)


def _loads(request: Request) -> tuple[object, ...]:
    """What a model is loaded by."""
    return (
        request.model,
        request.vae,
        request.ema,
        request.prediction,
        request.zero_terminal_snr,
        request.dtype,
        request.device,
    )


def recipes_of(picture: OpenedPicture) -> list[list[Recipe]]:
    """The recipe of every cell of a sheet, by row and column. Raises FileError if it is none."""
    return [[_recipe(cell) for cell in line] for line in _cells(picture)]


def cell_of(picture: OpenedPicture, row: int, column: int) -> tuple[Recipe, NDArray[np.uint8]]:
    """The recipe and the pixels (H, W, 3) of one cell of a sheet; row and column from 1.

    Raises FileError if the picture is no sheet, RequestError if it has no such cell.
    """
    lines = _cells(picture)
    width = max((len(line) for line in lines), default=0)
    if not (1 <= row <= len(lines) and 1 <= column <= len(lines[row - 1])):
        raise RequestError(
            f"the sheet has {len(lines)} rows and {width} columns; got cell {row},{column}."
        )
    cell = lines[row - 1][column - 1]
    box = as_object(cell, what="the cell").get("box")
    if not isinstance(box, list) or len(box) != 4:
        raise FileError("the cell's place on the sheet cannot be read.")
    left, top, right, bottom = (n if type(n) is int else -1 for n in box)
    height, length, _ = picture.pixels.shape
    if not (0 <= left < right <= length and 0 <= top < bottom <= height):
        raise FileError(f"the cell's place {box} does not lie on the sheet.")
    return _recipe(cell), picture.pixels[top:bottom, left:right]


def _cells(picture: OpenedPicture) -> list[list[Json]]:
    text = picture.texts.get(KEY)
    if text is None:
        raise FileError(
            f"{picture.path} is no sheet of `safelight grid`, or has lost its recipes; leave "
            "--cell out."
        )
    value = as_object(parse_json(text, what="the sheet", limit=JSON_LIMIT), what="the sheet")
    cells = value.get("cells")
    if not isinstance(cells, list) or not all(isinstance(line, list) for line in cells):
        raise FileError("the sheet's list of cells cannot be read.")
    return [line for line in cells if isinstance(line, list)]


def _recipe(cell: Json) -> Recipe:
    return Recipe.from_json(json.dumps(as_object(cell, what="the cell").get("recipe")))
