"""Sheets of pictures with a line below each, as PNG."""

from collections.abc import Callable, Sequence
from io import BytesIO

import torch
from torch import Tensor

_GAP, _LINE = 6, 14  # pixels
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def sheet(pictures: Tensor, *, columns: int = 8, captions: Sequence[str] | None = None) -> bytes:
    """A PNG of pictures (N, 3, S, S) in [-1, 1] in rows, each with its caption cut to its width."""
    from PIL import Image, ImageDraw

    count, size = len(pictures), pictures.shape[-1]
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    step = (size + _GAP, size + _GAP + (0 if captions is None else _LINE))
    paper = Image.new("RGB", (columns * step[0] + _GAP, rows * step[1] + _GAP), _PAPER)
    draw = ImageDraw.Draw(paper)
    for i, pixels in enumerate(to_bytes(pictures)):
        x, y = _GAP + i % columns * step[0], _GAP + i // columns * step[1]
        paper.paste(Image.fromarray(pixels.numpy()), (x, y))
        if captions is not None:
            words = _cut(captions[i], size, lambda text: draw.textlength(text))
            draw.text((x, y + size + 1), words, fill=_INK)
    file = BytesIO()
    paper.save(file, "PNG")
    return file.getvalue()


def to_bytes(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) in [-1, 1] as bytes (N, S, S, 3) on the CPU, rounded to nearest."""
    scaled = (pictures.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def _cut(text: str, width: int, length: Callable[[str], float]) -> str:
    """The text, or as much of its beginning as fits, with an ellipsis."""
    text = text.encode("latin-1", "replace").decode("latin-1")  # what the built-in font has
    if length(text) <= width:
        return text
    while text and length(text + "...") > width:
        text = text[:-1]
    return text + "..."
