"""Reports hold what was measured, in words and in numbers, and their files are whole."""

import json
import xml.etree.ElementTree as xml
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from evaluation_scenes import disc, plain
from safelight.errors import FileError, OutputError
from safelight.evaluation.frechet import FrechetDistance
from safelight.evaluation.intervals import Estimate, Share
from safelight.evaluation.line_plot import Point, line_plot, ticks
from safelight.evaluation.report import (
    Report,
    Table,
    as_json,
    markdown,
    read_report,
    shown_cell,
    write,
)
from safelight.evaluation.sheets import sheet, to_bytes

TABLE = Table(
    "Scores",
    ("model", "floor"),
    {
        "right": (Share(3, 4), Share(0, 4)),
        "distance": (FrechetDistance(1.5, 100, 90, 64, 0.9), None),
        "mean": (Estimate(0.5, 0.25, float("nan"), 8), 2),
    },
)


def report(**changes: object) -> Report:
    base = {
        "title": "A model",
        "facts": {"seeds": "0 to 3", "hash": "ab|cd", "lost": float("inf")},
        "tables": (TABLE,),
        "prompts": (("a | b\nc", 7),),
        "pictures": {"a.png": b"png"},
        "plots": {"b.svg": "<svg/>"},
    }
    return Report(**(base | changes))  # type: ignore[arg-type]


def test_cells_say_their_counts_and_intervals() -> None:
    assert shown_cell(Share(3, 4)) == "75.0 % [30, 95] (3/4)"
    assert shown_cell(Estimate(0.5, 0.25, 0.75, 8)) == "0.5 [0.25, 0.75]"
    assert shown_cell(FrechetDistance(1.5, 100, 90, 64, 0.9)) == "1.5 (N=100/90, d=64)"
    assert (shown_cell(None), shown_cell(0.12341), shown_cell(3)) == ("-", "0.1234", "3")


def test_every_table_row_has_its_columns_whatever_the_texts_hold() -> None:
    rows = [line for line in markdown(report()).splitlines() if line.startswith("| ")]
    assert len(rows) >= 6
    for row in rows[:4]:
        assert row.replace("\\|", "").count("|") == 4
    assert "a \\| b\\\\nc" in markdown(report())


def test_json_keeps_counts_and_has_no_nan() -> None:
    values = json.loads(json.dumps(as_json(report()), allow_nan=False))
    rows = values["tables"][0]["rows"]
    assert rows["right"][0] == pytest.approx(
        {"right": 3, "of": 4, "value": 0.75, "low": 0.3006, "high": 0.9544}, abs=1e-3
    )
    assert rows["mean"][0]["high"] is None and rows["distance"][1] is None
    assert values["facts"]["lost"] is None
    assert values["prompts"] == [{"prompt": "a | b\nc", "seed": 7}]


def test_a_row_with_too_few_cells_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="row x has 1 cells"):
        Table("t", ("a", "b"), {"x": (1,)})


def test_all_files_are_written_and_shown(tmp_path: Path) -> None:
    path = write(report(), tmp_path / "deep" / "report")
    text = path.read_text()
    assert "![a](a.png)" in text and "![b](b.svg)" in text
    assert (path.parent / "a.png").read_bytes() == b"png"
    assert json.loads((path.parent / "report.json").read_text())["title"] == "A model"
    again = write(report(title="Another"), path.parent)  # replaces
    assert again == path and "# Another" in path.read_text()


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    made = report(facts={"seeds": "0 to 3", "prompts": 8, "lost": float("inf")})
    write(made, tmp_path / "r")
    again = read_report(tmp_path / "r")
    assert markdown(again) == markdown(made).replace("inf", "nan")
    assert again.tables[0].rows["right"] == [Share(3, 4), Share(0, 4)]
    assert again.pictures == made.pictures and again.plots == made.plots
    assert as_json(again) == as_json(made)


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    for text in ("{}", '{"title": "x", "facts": {}, "tables": 3}', "[]"):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(FileError, match=r"report\.json"):
            read_report(tmp_path)
    write(report(), tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileError, match=r"a\.png cannot be read"):
        read_report(tmp_path)
    values = json.loads((tmp_path / "report.json").read_text())
    values["tables"][0]["rows"]["right"][0] = {"half": 1}
    (tmp_path / "report.json").write_text(json.dumps(values))
    with pytest.raises(FileError, match="a cell with half"):
        read_report(tmp_path)


def test_a_picture_outside_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no plain file name"):
        write(report(pictures={"../a.png": b""}), tmp_path / "r")
    assert not (tmp_path / "a.png").exists()


def test_a_sheet_shows_every_picture_at_its_place() -> None:
    pictures = torch.stack([plain((40 * i, 0, 255 - 40 * i), 32) for i in range(5)])
    page = Image.open(
        BytesIO(sheet(pictures, columns=3, captions=[f"number {i}" for i in range(5)]))
    )
    assert page.size == (3 * 38 + 6, 2 * 52 + 6)
    for i in range(5):
        at = (6 + i % 3 * 38 + 16, 6 + i // 3 * 52 + 16)
        assert page.getpixel(at) == (40 * i, 0, 255 - 40 * i)
    assert page.getpixel((6 + 2 * 38 + 16, 6 + 52 + 16)) == (255, 255, 255)


def test_captions_are_cut_to_their_picture_and_may_hold_anything() -> None:
    picture = plain((0, 0, 0), 64)[None].repeat(2, 1, 1, 1)
    long = sheet(picture, columns=2, captions=["a very long caption of a picture" * 3, ""])
    page = Image.open(BytesIO(long)).convert("L")
    beside = page.crop((6 + 70, 6 + 64, page.width, page.height))
    assert beside.getextrema() == (255, 255)  # nothing runs into the next column
    below = page.crop((6, 6 + 64, 6 + 64, page.height))
    assert below.getextrema()[0] < 200
    sheet(picture, captions=["\u4e2d\u6587 \N{GRINNING FACE}", "é"])


def test_captions_may_have_several_lines() -> None:
    picture = plain((0, 0, 0), 64)[None]
    words = "a small woman's sandal in the bottom right"
    one, four = (
        Image.open(BytesIO(sheet(picture, captions=[words], lines=n))).convert("L") for n in (1, 4)
    )
    assert four.height == one.height + 3 * 14
    inked = [
        four.crop((0, 70 + 14 * i, four.width, 84 + 14 * i)).getextrema()[0] < 200 for i in range(4)
    ]
    assert inked == [True] * 4
    alone = Image.open(BytesIO(sheet(picture, captions=["a cat"], lines=4))).convert("L")
    assert alone.size == four.size and alone.crop((0, 86, 76, 126)).getextrema()[0] == 255


def test_bytes_are_rounded_to_the_nearest() -> None:
    values = torch.tensor([-1.5, -1.0, 0.0, 0.999, 1.0])
    pixels = to_bytes(values.view(5, 1, 1, 1).expand(5, 3, 1, 1))
    assert pixels[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    original = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, 3, 1, 1)
    assert torch.equal(to_bytes(original.float() / 127.5 - 1).permute(0, 3, 1, 2), original)


def test_a_plot_is_sound_xml_with_its_points_inside() -> None:
    lines = {"a < b": [Point(1, 0.5, 0.4, 0.6), Point(2, 0.7)], "c & d": [Point(8, 0.1)]}
    text = line_plot(lines, title="T & t", x_label="x", y_label="y", logarithmic=True)
    root = xml.fromstring(text)
    spots = [e for e in root.iter() if e.tag.endswith("circle")]
    places = [(float(e.get("cx", "nan")), float(e.get("cy", "nan"))) for e in spots]
    assert len(places) == 3 and all(64 <= x <= 544 and 34 <= y <= 292 for x, y in places)
    x = sorted(x for x, _ in places)
    assert x[2] - x[1] == pytest.approx(2 * (x[1] - x[0]), abs=0.2)  # 1, 2, 8: ratios 2 and 4
    highest = min(places, key=lambda p: p[1])
    assert highest[0] == pytest.approx(x[1])  # 0.7 is on top


def test_numbers_that_are_not_finite_are_left_out_of_a_plot() -> None:
    nan = float("nan")
    text = line_plot({"a": [Point(1, nan), Point(2, 1, nan, 2)]}, title="", x_label="", y_label="")
    assert "nan" not in text and "<circle" not in text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 7.9), (1e-4, 3e-4), (990.0, 1010.0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 4 <= len(found) <= 12 and all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
    assert steps == {1.0}


def test_a_sheet_of_one_picture_needs_no_caption() -> None:
    picture = disc(plain((0, 0, 0), 16), 0.5, 0.5, 0.3, (255, 0, 0))[None]
    assert Image.open(BytesIO(sheet(picture))).size == (16 + 12, 16 + 12)
