"""A contact sheet: pictures in rows and columns under labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

INK = (32, 32, 32)
PAPER = (250, 250, 248)
GAP = 8  # pixels between pictures
MAX_SIDE = 8000  # pixels; beyond it the cells are made smaller


@dataclass(frozen=True)
class Cells:
    """Where each picture of a sheet lies: (left, top, right, bottom) by row and column."""

    boxes: tuple[tuple[tuple[int, int, int, int], ...], ...]


def sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    *,
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    title: str = "",
) -> tuple[Image.Image, Cells]:
    """One picture of all cells, labelled, and the place of each cell.

    Cells are as large as the largest picture; a None is left blank. Long labels are wrapped.
    """
    width = max(p.width for row in rows for p in row if p is not None)
    height = max(p.height for row in rows for p in row if p is not None)
    columns = max(len(row) for row in rows)
    scale = min(1.0, MAX_SIDE / (columns * (width + GAP)), MAX_SIDE / (len(rows) * (height + GAP)))
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    font = ImageFont.load_default(size=max(11, min(22, width // 14)))

    margin = _text_width(row_labels, font, limit=max(width // 2, 120)) if any(row_labels) else 0
    heads = [_fit(label, font, width) for label in column_labels]
    sides = [_fit(label, font, margin) for label in row_labels]
    caption = _fit(title, font, margin + columns * (width + GAP)) if title else ""
    top = GAP + _text_height(caption, font)
    head = top + max((_text_height(text, font) for text in heads), default=0)
    left = GAP + (margin + GAP if margin else 0)

    size = (left + columns * (width + GAP), head + len(rows) * (height + GAP))
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    if caption:
        pen.multiline_text((GAP, GAP // 2), caption, fill=INK, font=font)
    for column, text in enumerate(heads):
        middle = left + column * (width + GAP) + width // 2
        pen.multiline_text(
            (middle, head - GAP // 2), text, fill=INK, font=font, anchor="md", align="center"
        )
    for line, text in enumerate(sides):
        middle = head + line * (height + GAP) + height // 2
        pen.multiline_text(
            (left - GAP, middle), text, fill=INK, font=font, anchor="rm", align="right"
        )
    boxes = []
    for y, row in enumerate(rows):
        places = []
        for x, picture in enumerate(row):
            corner = (left + x * (width + GAP), head + y * (height + GAP))
            if picture is not None:
                shown = picture if scale == 1.0 else picture.resize((width, height))
                page.paste(shown, corner)
                places.append((*corner, corner[0] + shown.width, corner[1] + shown.height))
            else:
                places.append((*corner, corner[0], corner[1]))
        boxes.append(tuple(places))
    return page, Cells(tuple(boxes))


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _fit(text: str, font: Font, width: int) -> str:
    """The text, wrapped to a width in pixels; at most four lines."""
    letters = max(8, int(width / max(1.0, font.getlength("n"))))
    lines = wrap(text, letters, max_lines=4, placeholder=" …") or [""]
    return "\n".join(lines)


def _text_width(labels: Sequence[str], font: Font, *, limit: int) -> int:
    return min(limit, int(max(font.getlength(label) for label in labels)) + 1)


def _text_height(text: str, font: Font) -> int:
    if not text:
        return 0
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    box = pen.multiline_textbbox((0, 0), text, font=font)
    return int(box[3]) + GAP
