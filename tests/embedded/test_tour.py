"""The tour's page, its commands and its sheets belong together, and every command could run."""

import contextlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedded_tiny import script
from own_model import model_of, small_family
from safelight.checkpoints.save import save
from safelight.cli.main import run
from safelight.errors import RequestError
from safelight.tasks.picture_file import open_input

tour = script("tour")
PAGE = tour.PAGE.read_text(encoding="utf-8")
STOPS = tour.stops_of(PAGE)
LARGEST = 1_500_000  # bytes of all pictures of the tour together


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands are read and checked to the last setting, and nothing is drawn."""
    ran: list[str] = []
    for place in ("drawing.draw_as", "griddrawing.draw_grid"):
        name = place.split(".")[1]
        monkeypatch.setattr(f"safelight.cli.{place}", lambda *_, n=name, **__: ran.append(n))
    return ran


def page_of(commands: str, name: str = "some") -> str:
    return f"Words.\n\n```\n{commands}\n```\n\n![A sheet](../pictures/tour/{name}.png)\n"


def test_every_block_of_the_page_makes_a_sheet() -> None:
    assert len(STOPS) >= 15
    assert PAGE.count("](../pictures/tour/") == len(STOPS), "a picture without its commands"


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_its_commands_are_taken_by_the_command_line(stop: object, idle: list[str]) -> None:
    with contextlib.chdir(tour.INPUTS):
        for command in stop.commands:
            assert run(command.arguments) == 0, command.words
    assert len(idle) == len(stop.commands)


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_its_sheet_was_made_by_these_commands(stop: object) -> None:
    with Image.open(tour.PICTURES / f"{stop.name}.png") as sheet:
        assert sheet.text == {tour.COMMANDS: stop.text}, "run scripts/embedded/tour.py --only"


def test_there_is_no_sheet_besides_and_all_are_small() -> None:
    sheets = sorted(tour.PICTURES.glob("*.png"))
    assert sorted(path.stem for path in sheets) == sorted(stop.name for stop in STOPS)
    assert sum(path.stat().st_size for path in (*sheets, *tour.INPUTS.iterdir())) < LARGEST


def test_every_input_is_used_and_told_of() -> None:
    files = {path.name for path in tour.INPUTS.iterdir()}
    used = {name for stop in STOPS for c in stop.commands for name in tour.named(c, files)}
    assert used == files
    assert all(f"`{name}`" in PAGE for name in files)


def test_a_command_ends_where_its_comment_begins() -> None:
    text = 'safelight edit a.png "b # c" \\\n    --strength 1   # all new\nsafelight generate d\n'
    first, second = tour.commands_of(text)
    assert first.words == ("safelight", "edit", "a.png", "b # c", "--strength", "1")
    assert (first.comment, second.comment) == ("all new", "")


@pytest.mark.parametrize("line", ["rm -rf x", "safelight", "echo safelight edit"])
def test_other_programs_are_not_run(line: str) -> None:
    with pytest.raises(RequestError, match="is no safelight command"):
        tour.stops_of(page_of(line))


def test_two_blocks_of_one_name_are_refused() -> None:
    page = page_of("safelight generate a") + "\n" + page_of("safelight generate b")
    with pytest.raises(RequestError, match="two blocks"):
        tour.stops_of(page)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one input, and a tiny model that is the embedded one."""
    save(model_of(small_family()), tmp_path / "emoji")
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: tmp_path / "emoji")
    (tmp_path / "inputs").mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "inputs" / "cat.png")
    return tmp_path / "inputs"


def cell(data: bytes, column: int, side: int, size: int) -> np.ndarray[tuple[int, ...]]:
    with Image.open(BytesIO(data)) as page:
        x, bottom = 6 + column * (side + 6), 6 + side
        return np.asarray(page.crop((x, bottom - size, x + size, bottom)))


def test_a_sheet_holds_what_was_read_and_what_was_written(inputs: Path) -> None:
    text = 'safelight edit cat.png "a" --strength 0 --steps 1 -o same.png   # as it was, 2 x 2\n'
    (stop,) = tour.stops_of(page_of(text.rstrip("\n")))
    data = tour.made(stop, inputs)
    own = open_input(inputs / "cat.png").pixels
    assert np.array_equal(cell(data, 0, 128, 64), own), "smaller pictures stand at the bottom"
    assert np.array_equal(cell(data, 1, 128, 128), np.tile(own, (2, 2, 1)))
    with Image.open(BytesIO(data)) as page:
        assert page.text == {"commands": text}
    assert [path.name for path in inputs.iterdir()] == ["cat.png"], "it works on copies"


def test_a_failing_command_fails_the_tour(
    inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = inputs.parent / "tour.md"
    page.write_text(page_of("safelight edit dog.png a"))
    monkeypatch.setattr(tour, "INPUTS", inputs)
    args = ["tour.py", "--page", str(page), "--out", str(inputs.parent / "out")]
    monkeypatch.setattr("sys.argv", args)
    assert tour.main() == 2
    assert "this command of the tour failed: safelight edit dog.png a" in capsys.readouterr().err
    assert list((inputs.parent / "out").iterdir()) == []
