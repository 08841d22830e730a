#!/usr/bin/env python3
"""Run the commands of the tour (docs/guide/tour.md) and lay what they draw on its sheets.

    python scripts/embedded/tour.py                              # all sheets; or --only NAME ...
    python scripts/embedded/tour.py --inputs data/emoji-pairs    # first the pictures to begin with

Each block of commands in the page that is followed by a picture of docs/pictures/tour makes that
picture. The commands run as they stand there, in a temporary folder that holds the tour's inputs. A
cell is a picture that a command reads (under its file's name) or writes (under the comment behind
the command; a comment with " / " names several). "2 x 2" in a comment lays the picture beside
itself. What is a sheet by itself, of `grid` or of --word-maps, is taken as it is. The commands
are kept in the sheet's file, and a test compares them with the page.
"""

import argparse
import contextlib
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from held_out import Pixels
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tour_inputs import write_inputs

from safelight.cli.main import run
from safelight.errors import RequestError, SafelightError
from safelight.evaluation.sheets import sheet
from safelight.tasks.picture_file import open_input
from safelight.writing import make_folder, write_whole

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/guide/tour.md"
PICTURES = ROOT / "docs/pictures/tour"
INPUTS = PICTURES / "inputs"
COMMANDS = "commands"  # the text in a sheet's file
PAPER, GREY = 255, 190
GAP = 8  # empty lines between rows
COLUMNS = 6
LINES = 3  # of a caption

_BLOCK = re.compile(
    r"^```\n(?P<commands>(?:(?!^```).*\n)+)^```\n\n^!\[[^\]]*\]\(\.\./pictures/tour/(?P<name>[\w-]+)\.png\)$",
    re.MULTILINE,
)
_COMMENT = re.compile(r"\s{2,}# (.*)$")


@dataclass(frozen=True, slots=True)
class Command:
    """A line of the page: its words as a shell reads them, and the comment behind it."""

    words: tuple[str, ...]
    comment: str = ""

    @property
    def arguments(self) -> list[str]:
        """What `safelight` is given."""
        return list(self.words[1:])

    @property
    def draws_sheet(self) -> bool:
        """Whether it writes a sheet besides or instead of a picture."""
        return self.words[1] == "grid" or "--word-maps" in self.words or "--words" in self.words


@dataclass(frozen=True, slots=True)
class Stop:
    """A block of commands of the page, and the name of the sheet that it makes."""

    name: str
    text: str
    commands: tuple[Command, ...]


@dataclass(frozen=True, eq=False)
class Cell:
    """A picture (H, W, 3) of a sheet and what stands below it."""

    pixels: Pixels
    caption: str


def stops_of(page: str) -> list[Stop]:
    """The blocks of a page that make a sheet, in order.

    Raises RequestError for a line that is no safelight command, or two blocks of one name.
    """
    stops = [
        Stop(found["name"], found["commands"], tuple(commands_of(found["commands"])))
        for found in _BLOCK.finditer(page)
    ]
    names = [stop.name for stop in stops]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"two blocks of the tour make {twice}.png; give one another name.")
    return stops


def commands_of(text: str) -> Iterator[Command]:
    """The commands of a block, those over several lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        found = _COMMENT.search(line)
        words = tuple(shlex.split(line[: found.start()] if found else line))
        if words[:1] != ("safelight",) or len(words) < 2:
            raise RequestError(f"the tour's line {line!r} is no safelight command.")
        yield Command(words, found[1].strip() if found else "")


def made(stop: Stop, inputs: Path) -> bytes:
    """The PNG of a stop's sheet. Raises RequestError if a command fails or writes nothing."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for path in sorted(inputs.glob("*.png")):
            (folder / path.name).write_bytes(path.read_bytes())
        given = {path.name for path in folder.iterdir()}
        cells: list[Cell] = []
        for command in stop.commands:
            cells += _inputs(command, folder, given, {cell.caption for cell in cells})
            written = _run(command, folder)
            if command.draws_sheet:
                return _with_commands(_sheet_among(written, command), stop.text)
            cells += _outputs(command, written)
    return _with_commands(_laid(cells), stop.text)


def named(command: Command, files: set[str]) -> list[str]:
    """The files that a command's words name, in their order: alone, or as one of several parts."""
    parts = (part for word in command.arguments for part in re.split(r"[,:=]", word))
    return list(dict.fromkeys(part for part in parts if part in files))


def _inputs(command: Command, folder: Path, given: set[str], shown: set[str]) -> list[Cell]:
    return [
        Cell(_on_paper(folder / name), name) for name in named(command, given) if name not in shown
    ]


def _run(command: Command, folder: Path) -> list[Path]:
    """The pictures that a command writes, in the order of their writing."""
    before = set(folder.rglob("*.png"))
    print(f"$ {shlex.join(command.words)}", flush=True)
    with contextlib.chdir(folder):
        code = run(command.arguments)
    if code:
        raise RequestError(f"this command of the tour failed: {shlex.join(command.words)}")
    written = sorted(set(folder.rglob("*.png")) - before, key=lambda path: path.stat().st_mtime_ns)
    if not written:
        raise RequestError(f"this command of the tour wrote nothing: {shlex.join(command.words)}")
    return written


def _outputs(command: Command, written: Sequence[Path]) -> list[Cell]:
    captions = command.comment.split(" / ")
    if len(captions) != len(written):
        captions = [command.comment] * len(written)
    side = 2 if "2 x 2" in command.comment else 1
    return [
        Cell(np.tile(_on_paper(path), (side, side, 1)), caption)
        for path, caption in zip(written, captions, strict=True)
    ]


def _on_paper(path: Path) -> Pixels:
    """A picture's pixels (H, W, 3) to be seen; where it is transparent, a chequer shows."""
    opened = open_input(path)
    if opened.alpha is None:
        return _framed(opened.pixels)
    y, x = np.indices(opened.alpha.shape) // 8
    chequer = np.where((x + y) % 2, 255, 204)[..., None]
    share = opened.alpha[..., None] / 255
    return (opened.pixels * share + chequer * (1 - share)).round().astype(np.uint8)


def _framed(pixels: Pixels) -> Pixels:
    """A mask with a grey edge, which sets it off from the paper; other pictures as they are."""
    if (pixels != pixels[..., :1]).any():
        return pixels
    framed = np.full_like(pixels, GREY)
    framed[1:-1, 1:-1] = pixels[1:-1, 1:-1]
    return framed


def _sheet_among(written: Sequence[Path], command: Command) -> bytes:
    sheets = [path for path in written if command.words[1] == "grid" or "-words" in path.stem]
    if len(sheets) != 1:
        raise RequestError(f"one sheet was expected of {shlex.join(command.words)}")
    return sheets[0].read_bytes()


def _laid(cells: Sequence[Cell]) -> bytes:
    """The cells as a sheet; smaller ones stand at the bottom of their place, above the caption."""
    side = max(max(cell.pixels.shape[:2]) for cell in cells)
    places = np.full((len(cells), side, side, 3), PAPER, np.uint8)
    for place, cell in zip(places, cells, strict=True):
        height, width = cell.pixels.shape[:2]
        place[side - height :, :width] = cell.pixels
    pictures = torch.from_numpy(places).movedim(-1, 1).float() / 127.5 - 1
    rows = -(-len(cells) // max(2, COLUMNS * 128 // side))
    columns = -(-len(cells) // rows)
    captions = [cell.caption for cell in cells]
    return _closed_up(sheet(pictures, columns=columns, captions=captions, lines=LINES))


def _closed_up(png: bytes) -> bytes:
    """The sheet with at most GAP empty lines in a row: a wide picture leaves much of its place."""
    file = BytesIO()
    with Image.open(BytesIO(png)) as image:
        pixels = np.asarray(image)
    empty = (pixels == PAPER).all(axis=(1, 2))
    # How many empty lines end here: counted up, and begun anew behind every line with ink.
    before = np.arange(len(empty)) - np.maximum.accumulate(
        np.where(empty, -1, np.arange(len(empty)))
    )
    Image.fromarray(pixels[before <= GAP]).save(file, "PNG")
    return file.getvalue()


def _with_commands(png: bytes, text: str) -> bytes:
    """The PNG with the commands as its only text."""
    chunks, file = PngInfo(), BytesIO()
    chunks.add_text(COMMANDS, text)
    with Image.open(BytesIO(png)) as image:
        image.convert("RGB").save(file, "PNG", optimize=True, pnginfo=chunks)
    return file.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=Path, nargs="+", help="the cut-outs: write the inputs")
    parser.add_argument("--only", nargs="+", help="names of sheets, without .png [all]")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--out", type=Path, default=PICTURES)
    given = parser.parse_args()
    try:
        if given.inputs:
            for path in write_inputs(given.inputs, INPUTS):
                print(f"wrote {path}")
            return 0
        stops = stops_of(given.page.read_text(encoding="utf-8"))
        names = [stop.name for stop in stops]
        for name in given.only or ():
            if name not in names:
                raise RequestError(f"the tour has no sheet {name}; it has {', '.join(names)}.")
        make_folder(given.out)
        for stop in stops:
            if given.only is None or stop.name in given.only:
                data = made(stop, INPUTS)
                write_whole(given.out / f"{stop.name}.png", data)
                print(f"wrote {given.out / stop.name}.png ({len(data)} bytes)", flush=True)
    except SafelightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
