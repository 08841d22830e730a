"""`--word-maps`: a sheet beside each picture, which stays as it is; and `grid --leave-out`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tiny import SMALL, Cli, files, pixels
from safelight.cli.leaving_out import LeftOut
from safelight.tasks.grid import cell_of, recipes_of
from safelight.tasks.picture import Picture, open_picture, pixel_distance
from safelight.tasks.recipe import pixels_sha256


def test_a_sheet_lies_beside_the_picture_which_is_as_without(
    safelight: Cli, model: Path, place: Path
) -> None:
    args = ("generate", "a red apple", "-m", model, *SMALL)
    assert safelight(*args, "-o", "bare").code == 0
    ran = safelight(*args, "--word-maps")
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[0].startswith("out/5-a-red-apple.png  seed 5")
    assert ran.lines[1:] == ["out/5-a-red-apple-words.png  3 word maps"]
    assert files(place / "out") == ["5-a-red-apple-words.png", "5-a-red-apple.png"]
    ours, bare = place / "out" / "5-a-red-apple.png", place / "bare" / "5-a-red-apple.png"
    assert np.array_equal(pixels(ours), pixels(bare))
    assert open_picture(ours).texts["parameters"] == open_picture(bare).texts["parameters"]
    sheet = place / "out" / "5-a-red-apple-words.png"
    assert pixels(sheet).shape[1] > 4 * 64
    with Image.open(sheet) as image:
        assert image.info == {}, "a sheet carries no recipe"
    assert safelight("replay", ours, "-m", model).out == "identical\n"


def test_each_picture_of_a_batch_and_each_text_has_its_sheet(
    safelight: Cli, model: Path, place: Path
) -> None:
    args = ("generate", "cat AND dog", "-m", model, *SMALL, "--count", "2", "--batch", "2")
    rows = safelight(*args, "--no-exact", "--word-maps", "--json").json()
    assert [row["path"] for row in rows] == ["out/5-cat-and-dog.png", "out/6-cat-and-dog.png"]
    for row in rows:
        stem = str(row["path"]).removesuffix(".png")
        sheets = row["word_maps"]
        assert [s["path"] for s in sheets] == [f"{stem}-words.png", f"{stem}-words-2.png"]
        assert [s["text"].strip() for s in sheets] == ["cat", "dog"]
        assert all(s["words"][0]["share"] == pytest.approx(1, abs=1e-4) for s in sheets)
    assert len(files(place / "out")) == 6
    first, second = (pixels(f"out/{seed}-cat-and-dog-words.png") for seed in (5, 6))
    assert not np.array_equal(first, second)


def test_chosen_words_alone_are_mapped(safelight: Cli, model: Path, place: Path) -> None:
    args = ("generate", "a red apple, on a table", "-m", model, *SMALL, "-o", "x.jpg", "--json")
    (row,) = safelight(*args, "--words", "red  apple, table").json()
    (sheet,) = row["word_maps"]  # type: ignore[misc]
    assert [word["word"] for word in sheet["words"]] == ["red apple", "table"]
    assert files(place) == ["x-words.png", "x.jpg"]


def test_nothing_is_replaced_by_a_sheet(safelight: Cli, model: Path, place: Path) -> None:
    (place / "x-words.png").write_bytes(b"mine")
    ran = safelight("generate", "cat", "-m", model, *SMALL, "--word-maps", "-o", "x.png")
    assert ran.lines[1] == "x-words-2.png  1 word map"
    assert (place / "x-words.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("green hat", "the prompt has no 'green hat' in it; its words are a, red, apple"),
        ("red,,apple", "--words must be words or phrases of the prompt"),
        ("", "--words must be words or phrases of the prompt"),
        ('"red', "--words must be words or phrases of the prompt"),
    ],
)
def test_words_that_are_not_there_are_refused_and_nothing_is_written(
    safelight: Cli, model: Path, place: Path, words: str, why: str
) -> None:
    ran = safelight("generate", "a red apple", "-m", model, *SMALL, "--words", words)
    assert ran.code == 2 and ran.error().startswith(why)
    assert list(place.iterdir()) == []


def test_a_prompt_without_words_has_no_maps(safelight: Cli, model: Path, place: Path) -> None:
    ran = safelight("generate", "", "-m", model, *SMALL, "--word-maps")
    assert ran.code == 2 and "the prompt has no words" in ran.error()
    assert list(place.iterdir()) == []


def test_an_edited_picture_has_maps_too(
    safelight: Cli, model: Path, drawn: Path, place: Path
) -> None:
    args = ("edit", drawn, "a hat", "-m", model, "--steps", "4", "--seed", "1")
    assert safelight(*args, "-o", "bare.png").code == 0
    ran = safelight(*args, "-o", "hat.png", "--word-maps")
    assert ran.lines[1:] == ["hat-words.png  2 word maps"]
    assert np.array_equal(pixels("hat.png"), pixels("bare.png"))


def test_a_growing_picture_is_refused_by_name(
    safelight: Cli, model: Path, drawn: Path, place: Path
) -> None:
    args = ("edit", drawn, "a hat", "-m", model, "--extend", "left=8", "-o", "x.png")
    ran = safelight(*args, "--word-maps")
    assert ran.code == 2 and "extend draws it part by part" in ran.error()
    assert not (place / "x.png").exists()


def test_where_nothing_is_drawn_the_picture_is_saved_and_that_is_said(
    safelight: Cli, model: Path, drawn: Path, place: Path
) -> None:
    args = ("edit", drawn, "a hat", "-m", model, "--strength", "0", "-o", "same.png")
    ran = safelight(*args, "--word-maps")
    assert ran.code == 0 and "no word maps: nothing was drawn" in ran.err
    assert len(ran.lines) == 1 and not (place / "same-words.png").exists()


# -- grid --leave-out ----------------------------------------------------------------------------

PROMPT = "a red apple on a blue table, at night"
LACKING = [
    PROMPT,
    "on a blue table, at night",
    "a red apple, at night",
    "a red apple on a blue table",
]


def test_leaving_out_draws_the_prompt_whole_and_without_each_phrase(
    safelight: Cli, model: Path
) -> None:
    args = ("grid", PROMPT, "-m", model, *SMALL, "--leave-out", "-o", "strip.png", "--json")
    (row,) = safelight(*args).json()
    (cells,) = row["cells"]  # type: ignore[misc]
    assert [cell["without"] for cell in cells] == [
        *(None, "a red apple", "on a blue table", "at night"),
    ]
    sheet = open_picture("strip.png")
    (recipes,) = recipes_of(sheet)
    assert [recipe.request.prompt for recipe in recipes] == LACKING
    assert {recipe.request.seed for recipe in recipes} == {5}
    shown = [cell_of(sheet, 1, column)[1] for column in (1, 2, 3, 4)]
    for cell, picture in zip(cells, shown, strict=True):
        far = pixel_distance(shown[0], picture)
        assert far is not None and cell["moved"] == pytest.approx(far.mean, abs=1e-3)
        assert cell["pixels_sha256"] == pixels_sha256(picture)
    assert cells[0]["moved"] == 0 and all(cell["moved"] > 0 for cell in cells[1:])
    for column in (1, 3):
        ran = safelight("replay", "strip.png", "--cell", f"1,{column}", "-m", model)
        assert ran.out == "identical\n"


def test_the_whole_prompt_s_cell_is_the_picture_drawn_alone(safelight: Cli, model: Path) -> None:
    assert safelight("grid", PROMPT, "-m", model, *SMALL, "--leave-out", "-o", "s.png").code == 0
    (alone,) = safelight("generate", PROMPT, "-m", model, *SMALL, "--json").json()
    _, cell = cell_of(open_picture("s.png"), 1, 1)
    assert pixels_sha256(cell) == alone["pixels_sha256"]


def test_phrases_are_left_out_under_several_seeds(safelight: Cli, model: Path) -> None:
    args = ("grid", "a cat, at night", "-m", model, "--size", "64x64", "--steps", "2")
    ran = safelight(*args, "--leave-out", "-y", "seed=1-2", "-o", "s.png")
    assert (ran.code, ran.out) == (0, "s.png  2 x 3 pictures\n")
    rows = recipes_of(open_picture("s.png"))
    assert [[r.request.seed for r in row] for row in rows] == [[1] * 3, [2] * 3]
    assert [r.request.prompt for r in rows[1]] == ["a cat, at night", "at night", "a cat"]


def test_choices_and_styles_are_made_once_and_then_left_out(
    safelight: Cli, model: Path, place: Path
) -> None:
    (place / "styles.csv").write_text("name,prompt,negative_prompt\nnight,at night,noise\n")
    args = ("grid", "a {cat|dog|bird|fish}, small", "-m", model, *SMALL, "--style", "night")
    assert safelight(*args, "--leave-out", "-o", "s.png").code == 0
    (row,) = recipes_of(open_picture("s.png"))
    whole, *others = [recipe.request.prompt for recipe in row]
    animal = whole.removeprefix("a ").removesuffix(", small, at night")
    assert animal in ("cat", "dog", "bird", "fish")
    assert others == ["small, at night", f"a {animal}, at night", f"a {animal}, small"]
    assert {recipe.request.negative_prompt for recipe in row} == {"noise"}


def test_the_label_of_a_column_says_its_mean_distance_from_the_whole_prompt() -> None:
    axis = LeftOut("leave-out", ("0", "1", "2"), ("", "a hat", "at night"), ("", "", ""))
    levels = ((10, 15, 10), (100, 100, 130))
    rows = [
        [Picture(np.full((2, 2, 3), level, np.uint8), None) for level in row]  # type: ignore[arg-type]
        for row in levels
    ]
    assert axis.told(rows) == (
        "the whole prompt",
        "moved 2.5 without “a hat”",
        "moved 15.0 without “at night”",
    )


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("a cat", "-x", "steps=1,2"), "--leave-out makes the columns"),
        (("a cat", "-y", "prompt=cat,dog"), "--leave-out changes the prompt itself"),
        (("",), "--leave-out needs a prompt with words"),
    ],
)
def test_what_cannot_be_left_out_is_refused(
    safelight: Cli, model: Path, place: Path, args: tuple[str, ...], why: str
) -> None:
    ran = safelight("grid", *args, "-m", model, *SMALL, "--leave-out")
    assert ran.code == 2 and ran.error().startswith(why)
    assert list(place.iterdir()) == []
