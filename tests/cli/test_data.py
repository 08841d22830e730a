"""`safelight data` as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tiny import Cli, files, pixels
from safelight.cli.main import VERBS


@pytest.fixture
def pictures(place: Path) -> Path:
    """Four sound pictures of three shapes, a broken one and a caption of none."""
    folder = place / "set"
    folder.mkdir()
    for number, size in enumerate([(64, 64), (32, 32), (120, 60), (40, 200)]):
        Image.new("RGB", size, (50 * number, 9, 200)).save(folder / f"p{number}.png")
        words = "a picture, " + ("much too long, " * 40 if number == 3 else "fine")
        (folder / f"p{number}.txt").write_text(words)
    (folder / "p0.txt").write_text("one\ntwo")
    (folder / "bad.png").write_bytes(b"broken")
    (folder / "bad.txt").write_text("broken")
    (folder / "gh\x1bost.txt").write_text("nobody")
    return folder


def test_check_counts_problems_sizes_buckets_and_lengths(safelight: Cli, pictures: Path) -> None:
    ran = safelight("data", "check", pictures, "--size", 64)
    assert ran.code == 0
    for said in (
        "4 pictures in",
        "1 left out: broken picture",
        "bad: broken picture",
        "gh\\x1bost.txt: missing picture",
        "1 with several captions",
        "64 x 64",
        "80 x 48",
        "5 captions of 1 to ",
        "longer than 75, so cut: 1 (p3)",
    ):
        assert said in ran.out, said
    assert "\x1b" not in ran.out + ran.err
    assert "2 of 4 pictures are enlarged: p1, p3" in ran.err
    assert "longer than 2 to 1 and lose their ends: p3" in ran.err


def test_check_prints_json_with_all_of_it(safelight: Cli, pictures: Path) -> None:
    ran = safelight("data", "check", pictures, "--size", 64, "--json")
    found = json.loads(ran.out)
    assert found["pictures"] == 4 and found["several_captions"] == 1
    assert found["problems"] == {"broken picture": 1, "missing picture": 1}
    assert {Path(p["where"]).name for p in found["found"]} == {"bad", "gh\x1bost.txt"}
    assert found["shorter_side"] == {"below 64": 3, "64 to 127": 1}
    assert found["buckets"] == {"64x64": 2, "48x80": 1, "80x48": 1}
    lengths = found["caption_tokens"]
    assert (lengths["captions"], lengths["least"], lengths["cut"]) == (5, 1, ["p3"])


def test_check_without_enlarging_warns_of_none(safelight: Cli, pictures: Path) -> None:
    ran = safelight("data", "check", pictures, "--size", 64, "--no-upscale", "--json")
    assert not any("enlarged" in said for said in json.loads(ran.out)["warnings"])
    buckets = {"32x32": 1, "40x80": 1, "64x64": 1, "80x48": 1}
    assert json.loads(ran.out)["buckets"] == buckets


def test_check_names_what_is_less_than_a_batch(safelight: Cli, pictures: Path) -> None:
    ran = safelight("data", "check", pictures, "--size", 64, "--batch", 2)
    assert "the bucket 80x48 has fewer pictures (1) than a batch (2)" in ran.err
    assert "64x64" not in ran.err
    assert safelight("data", "check", pictures, "--batch", 0).code == 2


def test_problems_stop_if_asked_with_one_line_and_2(safelight: Cli, pictures: Path) -> None:
    ran = safelight("data", "check", pictures, "--on-problem", "stop")
    assert ran.code == 2
    assert "1 broken picture (bad); " in ran.error() and "gh\\x1bost.txt" in ran.error()


def test_an_empty_folder_is_told(safelight: Cli, place: Path) -> None:
    (place / "empty").mkdir()
    ran = safelight("data", "check", "empty")
    assert ran.code == 2
    assert ran.error() == ("there is nothing to train on in empty; expected pictures with captions")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("check", "nowhere"), "nowhere does not exist; expected a folder of pictures"),
        (("check", "set", "--size", 100), "multiple of 8; got 100"),
        (("check", "set", "--on-problem", "ask"), "--on-problem must be stop or skip; got 'ask'"),
        (("check", "set", "--tokenizer", "set"), "holds no tokenizer"),
        (("sheet", "set", "-o", "x.jpg"), "must name a .png; got x.jpg"),
        (("sheet", "set", "-o", "x.png", "-n", 0), "must be 1 or more; got 0 and 8"),
        (("sheet", "set", "-o", "set/p0.png"), "exists already, and nothing is ever replaced"),
        (("pack", "set", "set", "--on-problem", "skip"), "set exists and is not empty"),
        (("pack", "set", "new"), "1 broken picture (bad)"),
        (("look", "set"), "No such command 'look'"),
        ((), "Missing command"),
    ],
)
def test_wrong_input_is_one_line_and_2_or_says_what_failed(
    safelight: Cli, pictures: Path, args: tuple[object, ...], said: str
) -> None:
    before = files(pictures.parent)
    ran = safelight("data", *args)
    assert ran.code in (1, 2) and said in ran.err.splitlines()[-1], ran.err
    assert "Traceback" not in ran.err and "unexpected" not in ran.err
    assert files(pictures.parent) == before


def test_a_sheet_shows_every_sound_picture_as_it_is_cropped(safelight: Cli, pictures: Path) -> None:
    ran = safelight("data", "sheet", pictures, "--size", 64, "-o", "out/sheet.png")
    assert ran.code == 0 and ran.out.strip() == "out/sheet.png"
    assert "bad is not a PNG" in ran.err
    page = pixels(pictures.parent / "out" / "sheet.png")
    for number, count in enumerate((64 * 64, 64 * 64, 80 * 48, 48 * 80)):
        shown = (page == np.array([50 * number, 9, 200])).all(-1).sum()
        assert shown == count, number


def test_a_sheet_of_fewer_is_chosen_by_the_seed(safelight: Cli, pictures: Path) -> None:
    sheets = []
    for seed in (0, 0, 1, 2, 3):
        out = f"{len(sheets)}.png"
        assert safelight("data", "sheet", pictures, "-n", 2, "--seed", seed, "-o", out).code == 0
        sheets.append(Path(out).read_bytes())
    assert sheets[0] == sheets[1] and len(set(sheets)) > 2


def test_a_packed_set_is_the_same_set(safelight: Cli, pictures: Path) -> None:
    ran = safelight("data", "pack", pictures, "shards", "--per-shard", 3, "--on-problem", "skip")
    assert ran.code == 0 and ran.lines == ["shards/shard-00000.tar", "shards/shard-00001.tar"]
    assert "warning: left out: 1 broken picture (bad); 1 missing picture" in ran.err
    one, two = (
        json.loads(safelight("data", "check", path, "--size", 64, "--json").out)
        for path in (pictures, "shards")
    )
    for name in ("pictures", "several_captions", "shorter_side", "buckets", "caption_tokens"):
        assert one[name] == two[name]
    assert two["found"] == []


def test_help_of_the_group_and_its_parts_imports_no_torch() -> None:
    parts = [["data", "--help"], *(["data", p, "--help"] for p in ("check", "sheet", "pack"))]
    code = (
        "import sys; from safelight.cli.main import run\n"
        f"assert [run(a) for a in {parts}] == [0] * 4\n"
        "assert not {'torch', 'PIL', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert VERBS["data"] and all(
        f"Usage: safelight data {p}" in done.stdout for p in ("check", "pack")
    )
