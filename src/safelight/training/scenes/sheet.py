"""A contact sheet of scenes: pictures with their captions below, to be looked at."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from safelight.training.scenes.cutouts import Cutouts
from safelight.training.scenes.render import render
from safelight.training.scenes.scene import Scene

GAP = 6
LINE = 12
LINES = 4


def contact_sheet(
    scenes: Sequence[Scene], cutouts: Cutouts, columns: int = 8, size: int = 128
) -> Image.Image:
    """The scenes in rows, each picture `size` pixels wide, with its caption in small print."""
    pictures = render(scenes, cutouts, size).movedim(1, -1).cpu().numpy()
    width, height = size + GAP, size + LINES * LINE + GAP
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(10)
    for number, (scene, picture) in enumerate(zip(scenes, pictures, strict=True)):
        x, y = GAP + number % columns * width, GAP + number // columns * height
        sheet.paste(Image.fromarray(picture), (x, y))
        lines = textwrap.wrap(scene.caption, max(8, size // 5))[:LINES]
        pen.multiline_text(
            (x, y + size + 1), "\n".join(lines), fill=(0, 0, 0), font=font, spacing=1
        )
    return sheet
