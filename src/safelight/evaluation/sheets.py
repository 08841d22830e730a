"""Sheets of pictures with a caption below each, as PNG."""

from collections.abc import Callable, Sequence
from io import BytesIO

import torch
from torch import Tensor

_GAP, _LINE = 6, 14  # pixels
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def sheet(
    pictures: Tensor,
    *,
    columns: int = 8,
    captions: Sequence[str] | None = None,
    lines: int = 1,
) -> bytes:
    """A PNG of pictures (N, 3, S, S) in [-1, 1] in rows, each with its caption below.

    A caption is wrapped to the picture's width and cut after so many lines.
    """
    from PIL import Image, ImageDraw

    count, size = len(pictures), pictures.shape[-1]
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    step = (size + _GAP, size + _GAP + (0 if captions is None else lines * _LINE))
    paper = Image.new("RGB", (columns * step[0] + _GAP, rows * step[1] + _GAP), _PAPER)
    draw = ImageDraw.Draw(paper)
    for i, pixels in enumerate(to_bytes(pictures)):
        x, y = _GAP + i % columns * step[0], _GAP + i // columns * step[1]
        paper.paste(Image.fromarray(pixels.numpy()), (x, y))
        if captions is not None:
            said = _wrapped(captions[i], size, lines, lambda text: draw.textlength(text))
            for number, line in enumerate(said):
                draw.text((x, y + size + 1 + number * _LINE), line, fill=_INK)
    file = BytesIO()
    paper.save(file, "PNG", optimize=True)
    return file.getvalue()


def to_bytes(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) in [-1, 1] as bytes (N, S, S, 3) on the CPU, rounded to nearest."""
    scaled = (pictures.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def _wrapped(text: str, width: int, lines: int, length: Callable[[str], float]) -> list[str]:
    """The text in at most so many lines of this width; the last is cut if there is more."""
    text = text.encode("latin-1", "replace").decode("latin-1")  # what the built-in font has
    said: list[str] = []
    rest = text.split()
    while rest and len(said) < lines - 1:
        fits = 1
        while fits < len(rest) and length(" ".join(rest[: fits + 1])) <= width:
            fits += 1
        said.append(_cut(" ".join(rest[:fits]), width, length))
        rest = rest[fits:]
    return [*said, _cut(" ".join(rest), width, length)] if rest else said


def _cut(text: str, width: int, length: Callable[[str], float]) -> str:
    """The text, or as much of its beginning as fits, with an ellipsis."""
    if length(text) <= width:
        return text
    while text and length(text + "...") > width:
        text = text[:-1]
    return text + "..."
