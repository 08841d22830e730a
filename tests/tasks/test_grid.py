"""A grid: every request at its place, every recipe in the sheet, hostile sheets refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from recipes import recipe
from safelight.errors import FileError, OutputError, RequestError
from safelight.tasks import grid as module
from safelight.tasks.grid import KEY, Grid, cell_of, check_recipes_fit, drawn, recipes_of
from safelight.tasks.picture import OpenedPicture, Picture, open_picture
from safelight.tasks.recipe import pixels_sha256
from safelight.tasks.request import Request


def request(seed: int, **changes: object) -> Request:
    base = Request(prompt="a cat", seed=seed, width=64, height=64, model="a.safetensors")
    return base.replace(**changes)


def draw(asked: Request) -> Picture:
    """A picture of one colour that tells its seed."""
    pixels = np.full((64, 64, 3), asked.seed, dtype=np.uint8)
    made = recipe(asked)
    return Picture(
        pixels, made.replace(result=made.result.replace(pixels_sha256=pixels_sha256(pixels)))
    )


def grid_of(rows: Sequence[Sequence[Request]], **labels: tuple[str, ...]) -> Grid:
    return Grid((tuple(tuple(row) for row in rows),), **labels)


def sheet_with(tmp_path: Path, text: str) -> OpenedPicture:
    chunks = PngInfo()
    chunks.add_text(KEY, text)
    Image.new("RGB", (80, 80)).save(tmp_path / "forged.png", pnginfo=chunks)
    return open_picture(tmp_path / "forged.png")


def test_each_cell_lies_where_its_request_stood(tmp_path: Path) -> None:
    grid = grid_of([[request(1), request(2)], [request(3), request(4)]], columns=("a", "b"))
    (page,) = drawn(grid, draw, title="title")
    page.save(tmp_path / "s.png")
    sheet = open_picture(tmp_path / "s.png")
    for seed, (row, column) in enumerate(((1, 1), (1, 2), (2, 1), (2, 2)), start=1):
        found, pixels = cell_of(sheet, row, column)
        assert found.request.seed == seed and (pixels == seed).all()
    assert [[r.request.seed for r in row] for row in recipes_of(sheet)] == [[1, 2], [3, 4]]


def test_pages_come_one_by_one() -> None:
    asked = []

    def counted(one: Request) -> Picture:
        asked.append(one.seed)
        return draw(one)

    pages = drawn(Grid((((request(1),),), ((request(2),),))), counted)
    next(pages)
    assert asked == [1]


def test_cells_of_one_model_follow_each_other() -> None:
    asked = []

    def counted(one: Request) -> Picture:
        asked.append((one.model, one.seed))
        return draw(one)

    rows = [[request(n, model="a"), request(n, model="b", vae="v")] for n in (1, 2)]
    (page,) = drawn(grid_of(rows), counted)
    assert asked == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert [[p.recipe.request.model for p in row] for row in page.pictures] == [["a", "b"]] * 2


def test_a_sheet_replaces_nothing_and_hides_folders(tmp_path: Path) -> None:
    (page,) = drawn(grid_of([[request(1, model="/home/ann/a.safetensors")]]), draw)
    page.save(tmp_path / "s.png")
    assert b"/home/ann" not in (tmp_path / "s.png").read_bytes()
    with pytest.raises(FileExistsError):
        page.save(tmp_path / "s.png")


def test_without_metadata_a_sheet_has_no_texts(tmp_path: Path) -> None:
    (page,) = drawn(grid_of([[request(1)]]), draw)
    page.save(tmp_path / "s.png", metadata=False)
    assert open_picture(tmp_path / "s.png").texts == {}


def test_recipes_too_long_for_a_sheet_are_refused_before_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of([[request(1, prompt="x" * 9000)]])
    check_recipes_fit(grid)
    (page,) = drawn(grid, draw)
    monkeypatch.setattr(module, "JSON_LIMIT", 9000)
    with pytest.raises(RequestError, match="make the grid smaller"):
        check_recipes_fit(grid)
    with pytest.raises(OutputError, match="make the grid smaller"):
        page.save(tmp_path / "s.png")
    assert list(tmp_path.iterdir()) == []


def test_the_room_kept_for_a_recipe_is_enough(tmp_path: Path) -> None:
    grid = grid_of([[request(1)]])
    asked = len(json.dumps(grid.requests[0][0][0].model_dump(mode="json")))
    (page,) = drawn(grid, draw)
    page.save(tmp_path / "s.png")
    stored = len(open_picture(tmp_path / "s.png").texts[KEY])
    assert stored < asked + module.RECIPE_ROOM


def test_a_grid_has_a_limit() -> None:
    with pytest.raises(RequestError, match="may have 1000 cells; these axes make 1001"):
        grid_of([[request(1)] * 1001])


@pytest.mark.parametrize("place", [(0, 1), (1, 0), (2, 1), (1, 2), (-1, 1)])
def test_a_cell_that_is_not_there_is_refused(tmp_path: Path, place: tuple[int, int]) -> None:
    (page,) = drawn(grid_of([[request(1)]]), draw)
    page.save(tmp_path / "s.png")
    with pytest.raises(RequestError, match="the sheet has 1 rows and 1 columns"):
        cell_of(open_picture(tmp_path / "s.png"), *place)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "{}",
        '{"cells": 3}',
        '{"cells": [3]}',
        '{"cells": [[3]]}',
        '{"cells": [[{}]]}',
        '{"cells": [[{"box": [0, 0, 9, 9]}]]}',
        '{"cells": [[{"box": [0, 0, 9, 9], "recipe": {}}]]}',
        "[" * 100_000,
    ],
)
def test_a_forged_sheet_is_a_file_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileError):
        cell_of(sheet_with(tmp_path, text), 1, 1)
    with pytest.raises(FileError):
        recipes_of(sheet_with(tmp_path, text))


@pytest.mark.parametrize(
    "box",
    [
        *([0, 0, 999, 9], [-5, 0, 9, 9], [9, 9, 9, 9], [9, 0, 3, 9], [0, 0, 9.5, 9]),
        *([True, 0, 9, 9], [0, 0, 9], ["0", 0, 9, 9], None, {"a": 1}),
    ],
)
def test_a_cell_beyond_the_sheet_is_a_file_error(tmp_path: Path, box: object) -> None:
    text = json.dumps({"cells": [[{"box": box, "recipe": json.loads(recipe().to_json())}]]})
    with pytest.raises(FileError, match="place"):
        cell_of(sheet_with(tmp_path, text), 1, 1)
