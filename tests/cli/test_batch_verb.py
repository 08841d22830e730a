"""`safelight batch` draws a list whole, goes on where it stopped, and says what it could not."""

import json
from pathlib import Path

import pytest

from cli_tiny import SMALL, Cli
from safelight.bulk.manifest import read_lines

ROWS = [
    {"id": "apple", "prompt": "a red apple"},
    {"id": "wrong", "prompt": "b", "steps": 0},
    {"id": "bug", "prompt": "a bug", "seed": 9, "cfg_scale": 3},
]


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_a_list_is_drawn_with_a_manifest_and_each_picture_replays(
    safelight: Cli, model: Path, place: Path
) -> None:
    write_rows(place / "list.jsonl", ROWS)
    ran = safelight("batch", "list.jsonl", "-m", model, *SMALL)
    assert ran.code == 1
    assert "row 2 (wrong) failed: steps must be a whole number from 1" in ran.err
    assert "1 of 3 rows were not drawn" in ran.err and "--retry" in ran.err
    apple, wrong, bug = read_lines(place / "run" / "manifest.jsonl")
    assert (apple.id, apple.seed, bug.id, bug.seed) == ("apple", 5, "bug", 9)
    assert wrong.file is None and str(wrong.error).startswith("steps must be")
    for line in (apple, bug):
        assert safelight("replay", place / "run" / str(line.file), "-m", model).code == 0
    again = safelight("batch", "list.jsonl", "-m", model, *SMALL)
    assert "2 of 3 rows drawn" in again.out and "seed" not in again.out


@pytest.mark.slow
def test_a_row_of_a_run_is_the_picture_drawn_alone(
    safelight: Cli, model: Path, place: Path
) -> None:
    (place / "list.txt").write_text("a red apple\na bug\n")
    assert safelight("batch", "list.txt", "-m", model, *SMALL).code == 0
    _, bug = read_lines(place / "run" / "manifest.jsonl")
    alone = safelight("generate", "a bug", "-m", model, *SMALL[:4], "--seed", "6", "--json").json()
    assert alone[0]["pixels_sha256"] == bug.pixels_sha256


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("nowhere.txt",), "nowhere.txt"),
        (("list.txt", "--form", "zip"), "--form must be folder, webdataset, parquet; got 'zip'"),
        (("list.txt", "--replicas", "3"), "--replicas and --ray-address are for Ray; add --ray"),
        (("list.txt", "-m", "nowhere.safetensors"), "nowhere.safetensors"),
        (("list.txt", "--count", "2"), "a row is one picture"),
    ],
)
def test_what_cannot_be_asked_for_is_said_before_anything_is_drawn(
    args: tuple[str, ...], told: str, safelight: Cli, place: Path
) -> None:
    (place / "list.txt").write_text("a red apple\n")
    assert told in safelight("batch", *args).error()


def test_what_was_refused_leaves_no_folder(safelight: Cli, place: Path) -> None:
    (place / "list.txt").write_text("a red apple\n")
    safelight("batch", "list.txt", "-m", "nowhere.safetensors").error()
    assert not (place / "run").exists()


@pytest.mark.slow
def test_a_folder_of_another_run_is_refused(safelight: Cli, model: Path, place: Path) -> None:
    (place / "list.txt").write_text("a red apple\n")
    safelight("batch", "list.txt", "-m", model, *SMALL)
    told = safelight("batch", "list.txt", "-m", model, *SMALL[:4], "--seed", "6").error()
    assert "run holds a run with seed 5, and 6 is asked for" in told
