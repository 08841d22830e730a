"""The contact sheet of `safelight data sheet`."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from textwrap import wrap

import torch
from PIL import Image, ImageDraw, ImageFont

from safelight.cli.destination import prepared, taken
from safelight.cli.telling import tell
from safelight.errors import FileError, OutputError, RequestError
from safelight.printable import shown
from safelight.tasks.sheet import INK, PAPER, sheet
from safelight.training.buckets import Rule, place
from safelight.training.draw import stream
from safelight.training.pictures import cropped, decoded
from safelight.training.sources.example import Example
from safelight.training.sources.opening import open_source
from safelight.writing import write_whole

TEXT_WIDTH = 160  # pixels, at least, for the words below a picture
LINES = 4
GROUND = (225, 225, 222)  # around a picture that is smaller than its cell


def draw(
    path: str,
    out: Path,
    rule: Rule,
    *,
    columns: Mapping[str, str | None],
    count: int,
    across: int,
    seed: int,
) -> Path:
    """Write a sheet of `count` pictures chosen by the seed, and give its path.

    Pictures that cannot be read are named as warnings. Raises RequestError for a count below 1 or
    a name that is no PNG's, OutputError if the file exists or cannot be written, FileError if the
    set has no picture that can be read.
    """
    if count < 1 or across < 1:
        raise RequestError(f"--count and --columns must be 1 or more; got {count} and {across}.")
    if out.suffix.lower() != ".png":
        raise RequestError(f"--out must name a .png; got {out}.")
    if out.exists():
        raise OutputError(f"{taken(out)}.")
    source = open_source(path, **columns)
    order = torch.randperm(len(source), generator=stream(seed, "sheet")).tolist()
    tell([str(problem) for problem in source.problems[:20]])
    cells: list[Image.Image] = []
    for index in order:
        if len(cells) == count:
            break
        try:
            cells.append(_cell(source.example(index), rule))
        except FileError as error:
            tell([str(error)])
    if not cells:
        raise FileError(f"there is no picture that can be read in {shown(source.name)}")
    title = f"{shown(source.name, 60)}: {len(cells)} of {len(source)} pictures, seed {seed}"
    rows = [cells[i : i + across] for i in range(0, len(cells), across)]
    page, _ = sheet(_level(rows), title=title)
    file = BytesIO()
    page.save(file, "PNG")
    with prepared(out.parent):
        try:
            write_whole(out, file.getvalue(), replace=False)
        except FileExistsError:
            raise OutputError(f"{taken(out)}.") from None
    return out


def _cell(example: Example, rule: Rule) -> Image.Image:
    """A picture in its bucket's crop, with its size and its first caption below."""
    image = decoded(example.read(), example.id)
    placement = place(image.size, rule)
    pixels = cropped(image, placement.resized, placement.corner(), placement.bucket)
    said = example.captions[0] if example.captions else "(no caption)"
    size = "{}x{}".format(*placement.bucket)
    return _with_text(Image.fromarray(pixels), f"[{size}] {shown(said, 160)}")


def _with_text(image: Image.Image, text: str) -> Image.Image:
    width = max(TEXT_WIDTH, image.width)
    font = ImageFont.load_default(size=12)
    letters = max(8, int(width / font.getlength("n")))
    lines = wrap(text, letters, max_lines=LINES, placeholder=" …")
    words = "\n".join(lines)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    height = int(pen.multiline_textbbox((0, 0), words, font=font)[3]) + 6
    cell = Image.new("RGB", (width, image.height + height), PAPER)
    cell.paste(GROUND, (0, 0, width, image.height))
    cell.paste(image, ((width - image.width) // 2, 0))
    ImageDraw.Draw(cell).multiline_text((2, image.height + 2), words, fill=INK, font=font)
    return cell


def _level(rows: list[list[Image.Image]]) -> list[list[Image.Image | None]]:
    """Rows of one length."""
    longest = max(map(len, rows))
    return [[*row, *[None] * (longest - len(row))] for row in rows]
