#!/usr/bin/env python3
"""Draw the fixed sheet of 64 prompts with the embedded model, unpicked, for the docs.

    python scripts/embedded/sheet.py                 # prompts.txt to docs/pictures/embedded.png
    python scripts/embedded/sheet.py --choose --cutouts data/emoji-pairs   # writes prompts.txt

The prompts were chosen by a rule and not by eye: seven rows of things, styles, colours, counts and
places that training showed together, as `safelight evaluate` asks them (the six categories in
turn), and a last row of things in a style that training never showed them in. Picture k has seed k.
`safelight generate --prompts scripts/embedded/prompts.txt` draws the same pictures one by one.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from safelight.cli.evaluate_questions import SEEN, asked
from safelight.cli.evaluate_scenes import cutouts_at
from safelight.errors import FileError, RequestError, SafelightError
from safelight.evaluation.sheets import sheet
from safelight.printable import shown
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.tasks.prompt_lines import lines_of
from safelight.tasks.request import Request
from safelight.training.scenes.catalogue import HELDOUT_COMBO
from safelight.training.scenes.cutouts import Cutouts
from safelight.writing import make_folder, write_text, write_whole

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ROOT / "scripts/embedded/prompts.txt"
PICTURE = ROOT / "docs/pictures/embedded.png"
SEED = 1  # of the choice
ROWS, COLUMNS = 8, 8
SPECIAL = frozenset("()[]{}|<>\\:_#")  # what a dialect of prompts may read as more than a letter


def chosen(cutouts: Cutouts) -> list[str]:
    """The prompts, by the rule above: the same for the same cut-outs."""
    known = {entry.hexcode for entry in cutouts.entries} | {e.style for e in cutouts.entries}
    seen = asked(cutouts, (SEEN,), (ROWS - 1) * COLUMNS, seed=SEED, known=known)
    held_out = asked(cutouts, (HELDOUT_COMBO,), COLUMNS, seed=SEED, known=known)
    prompts = [item.question.prompt for item in (*seen, *held_out)]
    if odd := next((prompt for prompt in prompts if set(prompt) & SPECIAL), None):
        raise RequestError(f"the prompt {shown(odd)} would be read as more than words")
    return prompts


def as_lines(prompts: Sequence[str]) -> str:
    """The prompts as `safelight generate --prompts` reads them, each with its seed."""
    return "".join(
        f"--prompt {shlex.quote(prompt)} --seed {number}\n"
        for number, prompt in enumerate(prompts, start=1)
    )


def requests_of(path: Path, **settings: object) -> list[Request]:
    """A request for each line of a file of prompts, with these settings besides."""
    lines, warnings = lines_of(path)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not lines:
        raise FileError(f"{shown(path)} holds no prompt")
    return [Request.parse({**settings, **line}) for line in lines]


def drawn(requests: Sequence[Request]) -> bytes:
    """A PNG of one picture for each request, in their order, with the prompts below."""
    models, pictures = Models(), []
    for number, request in enumerate(requests, start=1):
        (picture,) = generate(models.of(request), request)
        pictures.append(torch.from_numpy(picture.pixels.copy()).movedim(-1, 0))
        if sys.stderr.isatty():
            print(f"\r{number} of {len(requests)}", end="", file=sys.stderr, flush=True)
    scaled = torch.stack(pictures).float() / 127.5 - 1
    return sheet(scaled, columns=COLUMNS, captions=[r.prompt for r in requests], lines=4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choose", action="store_true", help="write the prompts, draw nothing")
    parser.add_argument("--cutouts", type=Path, nargs="*", default=[], help="what to choose from")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="the file of prompts")
    parser.add_argument("--model", help="[the embedded one]")
    parser.add_argument("--steps", type=int, help="[the model's]")
    parser.add_argument("--out", type=Path, default=PICTURE)
    given = parser.parse_args()
    if given.choose != bool(given.cutouts):
        parser.error("--choose and --cutouts belong together")
    try:
        if given.choose:
            write_text(given.prompts, as_lines(chosen(cutouts_at(given.cutouts))))
            print(f"wrote {given.prompts}")
            return 0
        settings = {"model": given.model, "steps": given.steps}
        wanted = {name: value for name, value in settings.items() if value is not None}
        data = drawn(requests_of(given.prompts, **wanted))
        make_folder(given.out.parent)
        write_whole(given.out, data)
    except SafelightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"wrote {given.out} ({len(data)} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
