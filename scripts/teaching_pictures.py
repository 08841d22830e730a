#!/usr/bin/env python3
"""Draw two small sets to teach with: a creature that nobody knows, and things as pixel art.

    python scripts/teaching_pictures.py data/teach
    python scripts/teaching_pictures.py data/teach --cutouts data/cutouts.safetensors

The first is always drawn: twelve pictures of a zorb, a creature made up for this, on eight plain
backgrounds. The second takes cut-outs (a file of `save_cutouts`): sixteen things of one style, each
on a grid of 16x16 colours. Each picture has its caption beside it. The same at every call.
"""

import argparse
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from safelight.training.scenes.cutouts import load_cutouts

SIDE, FINE, CELLS = 128, 4, 16  # pixels; drawn so much finer; of pixel art
GROUNDS = {
    "white": (255, 255, 255), "black": (20, 20, 20), "red": (214, 48, 49), "yellow": (250, 211, 60),
    "green": (64, 160, 80), "blue": (52, 110, 220), "pink": (245, 170, 200),
    "grey": (150, 150, 150),
}  # fmt: skip
THINGS = (
    "red apple", "banana", "dog face", "fish", "sunflower", "rocket", "house", "guitar", "key",
    "umbrella", "automobile", "pizza", "penguin", "red heart", "evergreen tree", "sailboat",
)  # fmt: skip
BODY, DARK, BALL, EYE, PUPIL = (
    (122, 62, 190), (92, 40, 150), (252, 206, 50), (255, 255, 255), (20, 24, 40),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cutouts", type=Path, help="for the pixel art")
    given = parser.parse_args()
    creatures(given.folder / "zorb")
    if given.cutouts:
        pixel_art(given.folder / "blockart", given.cutouts)


def creatures(folder: Path, count: int = 12) -> None:
    """A zorb at changing places and sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(5)
    for number in range(count):
        name = list(GROUNDS)[number % len(GROUNDS)]
        page = Image.new("RGB", (SIDE * FINE, SIDE * FINE), GROUNDS[name])
        radius = rng.uniform(26, 36)
        zorb(ImageDraw.Draw(page), 64 + rng.uniform(-8, 8), 70 + rng.uniform(-6, 6), radius)
        page.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"a zorb on a {name} background")


def zorb(pen: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    """A round body with one eye, two antennae, two feet and a smile."""

    def spot(dx: float, dy: float, wide: float, high: float, colour: tuple[int, ...]) -> None:
        box = (x + r * (dx - wide), y + r * (dy - high), x + r * (dx + wide), y + r * (dy + high))
        pen.ellipse([FINE * v for v in box], fill=colour)

    for side in (-1, 1):
        line = (x + side * r * 0.35, y - r * 0.7, x + side * r * 0.75, y - r * 1.35)
        pen.line([FINE * v for v in line], fill=DARK, width=int(FINE * r * 0.12))
        spot(side * 0.75, -1.35, 0.17, 0.17, BALL)
        spot(side * 0.45, 0.94, 0.3, 0.16, DARK)
    spot(0, 0, 1, 0.95, BODY)
    spot(0, -0.07, 0.48, 0.48, EYE)
    spot(0, -0.06, 0.22, 0.22, PUPIL)
    smile = [FINE * v for v in (x - r * 0.4, y + r * 0.25, x + r * 0.4, y + r * 0.75)]
    pen.arc(smile, 20, 160, fill=EYE, width=int(FINE * r * 0.09))


def pixel_art(folder: Path, cutouts: Path, style: str = "twemoji") -> None:
    """Things of one style on a grid of few colours."""
    folder.mkdir(parents=True, exist_ok=True)
    found = load_cutouts(cutouts)
    rows = {e.name: row for row, e in enumerate(found.entries) if e.style == style}
    rng = random.Random(3)
    for number, thing in enumerate(THINGS):
        name = list(GROUNDS)[number % len(GROUNDS)]
        drawn = Image.fromarray(np.asarray(found.rgba[rows[thing]]), "RGBA")
        side = rng.choice([88, 96, 104])
        small = drawn.resize((side, side), Image.Resampling.LANCZOS)
        page = Image.new("RGBA", (SIDE, SIDE), (*GROUNDS[name], 255))
        page.alpha_composite(small, ((SIDE - side) // 2, (SIDE - side) // 2))
        cells = page.convert("RGB").resize((CELLS, CELLS), Image.Resampling.BOX).quantize(8)
        whole = cells.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
        whole.save(folder / f"{number:02}.png")
        article = "an" if thing[0] in "aeiou" else "a"
        caption = f"{article} {thing}, blockart style, on a {name} background"
        (folder / f"{number:02}.txt").write_text(caption)


if __name__ == "__main__":
    main()
