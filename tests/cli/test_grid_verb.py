"""`safelight grid`: sheets whose cells are pictures that could have been drawn alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tiny import SMALL, Cli, files, pixels
from safelight.tasks.grid import cell_of, recipes_of
from safelight.tasks.picture import open_picture
from safelight.tasks.recipe import pixels_sha256


def test_every_cell_is_the_picture_drawn_alone(safelight: Cli, model: Path) -> None:
    ran = safelight(
        *("grid", "a cat", "-m", model, *SMALL, "-x", "cfg=1-7[2]"),
        *("-y", "sampler=Euler a,DPM++ 2M SDE", "-o", "sheet.png"),
    )
    assert (ran.code, ran.err, ran.out) == (0, "", "sheet.png  2 x 2 pictures\n")
    sheet = open_picture("sheet.png")
    for row, sampler in enumerate(("Euler a", "DPM++ 2M SDE"), start=1):
        for column, cfg in enumerate((1, 7), start=1):
            alone = safelight(
                *("generate", "a cat", "-m", model, *SMALL, "--cfg", cfg, "--sampler", sampler),
                "--json",
            ).json()[0]
            recipe, shown = cell_of(sheet, row, column)
            assert pixels_sha256(shown) == alone["pixels_sha256"]
            assert recipe.result.pixels_sha256 == alone["pixels_sha256"]


def test_an_axis_given_twice_is_refused(safelight: Cli, model: Path, place: Path) -> None:
    ran = safelight("grid", "a", "-m", model, *SMALL, "-x", "cfg=1,2", "-x", "steps=1,2")
    assert ran.code == 2 and ran.error().startswith("-x is given 2 times")
    assert list(place.iterdir()) == []


def test_every_cell_can_be_replayed(safelight: Cli, model: Path) -> None:
    args = ("grid", "a cat", "-m", model, "--size", "64x64", "--steps", "2")
    assert safelight(*args, "-x", "seed=1,2", "-y", "clip-skip=1,2", "-o", "s.png").code == 0
    for cell in ("1,1", "2,2", "1x2"):
        ran = safelight("replay", "s.png", "--cell", cell, "-m", model)
        assert (ran.code, ran.out) == (0, "identical\n")
    assert "name one: --cell" in safelight("replay", "s.png").error()
    assert (
        "2 rows and 2 columns; got cell 3,1"
        in safelight("replay", "s.png", "--cell", "3,1").error()
    )


def test_cells_share_one_seed_and_one_variation_unless_an_axis_says_otherwise(
    safelight: Cli, model: Path
) -> None:
    args = ("grid", "a", "-m", model, "--size", "64x64", "--steps", "2")
    ran = safelight(*args, "-x", "subseed-strength=0,0.5", "-y", "cfg=1,2", "-o", "s.png")
    assert ran.code == 0
    cells = [recipe.request for row in recipes_of(open_picture("s.png")) for recipe in row]
    assert len({request.seed for request in cells}) == 1
    assert len({request.subseed for request in cells if request.subseed_strength}) == 1


def test_a_prompt_axis_replaces_words(safelight: Cli, model: Path) -> None:
    ran = safelight(
        *("grid", "a cat, at night", "-n", "dull", "-m", model, *SMALL, "-o", "s.png"),
        *("-x", 'prompt="cat, at night",dog,"bird, big"', "-y", "negative-prompt=dull,loud"),
    )
    assert ran.code == 0
    rows = recipes_of(open_picture("s.png"))
    assert [r.request.prompt for r in rows[0]] == ["a cat, at night", "a dog", "a bird, big"]
    assert [row[0].request.negative_prompt for row in rows] == ["dull", "loud"]


def test_a_third_axis_gives_a_sheet_for_each_value(
    safelight: Cli, model: Path, place: Path
) -> None:
    args = ("grid", "a", "-m", model, *SMALL, "-x", "cfg=1,2")
    ran = safelight(*args, "-z", "steps=1,2", "-o", "s.png", "--json")
    assert [row["path"] for row in ran.json()] == ["s-1.png", "s-2.png"]
    assert files(place) == ["s-1.png", "s-2.png"]
    steps = [recipes_of(open_picture(f"s-{n}.png"))[0][0].request.steps for n in (1, 2)]
    assert steps == [1, 2]


def test_cells_are_saved_too_where_asked(safelight: Cli, model: Path, place: Path) -> None:
    args = ("grid", "a", "-m", model, *SMALL, "-x", "cfg=1,2", "-o", "s.png")
    (row,) = safelight(*args, "--cells", "cells", "--json").json()
    cells = row["cells"][0]  # type: ignore[index]
    assert files(place) == ["cells/5-a-2.png", "cells/5-a.png", "s.png"]
    for cell in cells:
        assert pixels_sha256(pixels(cell["path"])) == cell["pixels_sha256"]
    assert safelight("replay", cells[1]["path"], "-m", model).out == "identical\n"


def test_labels_leave_the_cells_alone(safelight: Cli, model: Path) -> None:
    args = ("grid", "a", "-m", model, *SMALL, "-x", "cfg=1,2", "-y", "steps=1,2", "-o", "s.png")
    assert safelight(*args).code == 0
    sheet = open_picture("s.png")
    assert sheet.pixels.shape[0] > 2 * 64 + 16 and sheet.pixels.shape[1] > 2 * 64 + 16
    _, cell = cell_of(sheet, 1, 1)
    assert cell.shape == (64, 64, 3)
    top = sheet.pixels[: 16 + 8]
    assert top.min() < 100, "there is ink above the cells"


def test_a_second_grid_gets_a_name_of_its_own(safelight: Cli, model: Path, place: Path) -> None:
    args = ("grid", "a", "-m", model, *SMALL, "-x", "cfg=1,2")
    for _ in range(2):
        assert safelight(*args).code == 0
    assert files(place) == ["out/grid-2.png", "out/grid.png"]
    ran = safelight(*args, "--out", "out/grid.png")
    assert ran.code == 2 and "exists already" in ran.error()


def test_without_metadata_a_sheet_is_a_picture_and_no_more(
    safelight: Cli, model: Path, place: Path
) -> None:
    args = ("grid", "xylophonist", "-m", model, *SMALL, "-x", "cfg=1,2", "-o", "s.png")
    assert safelight(*args, "--no-metadata", "--cells", "c").code == 0
    for name in files(place):
        assert b"xylophonist" not in (place / name).read_bytes()
    assert "leave --cell out" in safelight("replay", "s.png", "--cell", "1,1").error()


def test_choices_of_a_prompt_are_made_by_the_seed_as_in_generate(
    safelight: Cli, model: Path
) -> None:
    args = ("{a|b|c|d} cat", "-m", model, "--size", "64x64", "--steps", "2")
    assert safelight("grid", *args, "-x", "seed=1-6", "-o", "s.png").code == 0
    cells = [recipe.request.prompt for recipe in recipes_of(open_picture("s.png"))[0]]
    ran = safelight("generate", *args, "--seed", "1", "--count", "6", "--json")
    alone = [recipes["seed"] for recipes in ran.json()]
    assert alone == [1, 2, 3, 4, 5, 6] and len(set(cells)) > 1
    for row, prompt in zip(ran.json(), cells, strict=True):
        seen = safelight("inspect", row["path"], "--json").json()[0]
        assert seen["request"]["prompt"] == prompt  # type: ignore[index]


def test_models_can_be_an_axis_and_each_is_read_once(
    safelight: Cli, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safelight.tasks import placing

    read: list[str] = []
    load = placing.load

    def counted(path: Path, **options: object) -> object:
        read.append(path.name)
        return load(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(placing, "load", counted)
    names = f"model={shelf / 'sd15.safetensors'},{shelf / 'half.safetensors'}"
    ran = safelight("grid", "a", *SMALL, "-x", names, "-y", "cfg=1,2,3", "-o", "s.png")
    assert ran.code == 0, ran.err
    assert read == ["sd15.safetensors", "half.safetensors"]
    rows = recipes_of(open_picture("s.png"))
    assert [[r.request.model for r in row] for row in rows] == [
        ["sd15.safetensors", "half.safetensors"]
    ] * 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "give an axis"),
        (("-x", "stpes=1,2"), "no setting 'stpes' to vary. Did you mean steps?"),
        (("-x", "steps"), "an axis is NAME=VALUE"),
        (("-x", "steps="), "the axis steps has no values"),
        (("-x", "steps=1,x"), "steps must be a whole number from 1 to 1000; got 'x'"),
        (("-y", "sampler=Euler,Eulr"), "Did you mean Euler"),
        (("-x", "prompt=dog,cow"), "replaces 'dog', which is not in the text 'a cat'"),
        (("-x", 'prompt="cat,dog'), "quotation marks"),
        (("-x", "size=64x64,65x64"), "The nearest are 64 and 72"),
        (("-x", "count=1,2"), "cannot vary count"),
        (("-x", "cfg=1,2", "--count", "2"), "leave --count out"),
        (("-x", "cfg=9-1"), "has no values"),
        (("-x", "seed=1-60", "-y", "steps=1-60"), "may have 1000 cells; these axes make 3600"),
        (("-x", "cfg=1,2", "-o", "s.jpg"), "a sheet is a PNG file"),
        (("-x", "cfg=1,2", "-m", "nix"), "there is no model nix"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_anything_is(
    safelight: Cli, model: Path, place: Path, args: tuple[str, ...], said: str
) -> None:
    ran = safelight("grid", "a cat", "-m", model, *SMALL, *args)
    assert ran.code == 2 and said in ran.error()
    assert list(place.iterdir()) == []


def test_a_sheet_that_shows_its_cells_smaller_is_replayed_by_hash(
    safelight: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safelight.tasks import sheet

    monkeypatch.setattr(sheet, "MAX_SIDE", 100)
    args = ("grid", "a", "-m", model, *SMALL, "-x", "cfg=1,2", "-o", "s.png")
    assert safelight(*args).code == 0
    assert cell_of(open_picture("s.png"), 1, 1)[1].shape[0] < 64
    assert safelight("replay", "s.png", "--cell", "1,2", "-m", model).out == "identical\n"


def test_a_sheet_is_one_picture_of_all_cells(safelight: Cli, model: Path) -> None:
    args = ("grid", "a", "-m", model, *SMALL, "-x", "cfg=1,2", "-o", "s.png", "--cells", "c")
    assert safelight(*args).code == 0
    with Image.open("s.png") as image:
        whole = np.asarray(image.convert("RGB"))
    for column, name in enumerate(("c/5-a.png", "c/5-a-2.png"), start=1):
        _, shown = cell_of(open_picture("s.png"), 1, column)
        assert np.array_equal(shown, pixels(name)) and whole.shape[0] > 64
