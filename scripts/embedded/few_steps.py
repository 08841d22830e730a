#!/usr/bin/env python3
"""What a LoRA for few steps keeps of a model's quality, against the model with few steps alone.

    python scripts/embedded/few_steps.py --cutouts data/emoji-pairs --lora embedded-lcm

Captions as training had them are drawn by the model with its own settings, by the model with fewer
steps, and with the LoRA as it was made to be used; each with the same seed. The evaluator names
what it sees. What was drawn is kept in --out; a run that was stopped goes on, and one with another
LoRA goes on as well.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from held_out import (
    Bench,
    Job,
    Pixels,
    arguments,
    as_batch,
    begin,
    bench,
    draw,
    pixels_of,
    reported,
    shown_rows,
    weights_of,
)

from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.shelves import find_addon
from safelight.cli.evaluate_questions import SEEN, Asked
from safelight.diffusion.samplers import resolve_sampler
from safelight.errors import FileError, RequestError
from safelight.evaluation.composition import Answer, Composition, judged, score
from safelight.evaluation.report import Table, table_lines
from safelight.printable import shown
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.request import Request
from safelight.writing import write_whole

CHECKS = ("concept", "concept top 5", "style", "background", "count")
REAL = "real pictures"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to draw: what rows and sheets call it, what files do, and what a request says."""

    name: str
    mark: str
    settings: Mapping[str, object]


def ways_of(
    own: Mapping[str, object], fewer: Sequence[int], lora: Path | None, lora_steps: Sequence[int]
) -> list[Way]:
    """The model with its own settings, with fewer steps, and with the LoRA."""
    ways = [Way("as it is made to be drawn with", "own", own)]
    ways += [Way(f"{n} steps", f"{n}", {"steps": n}) for n in fewer]
    if lora is not None:
        digest = sha256(lora)[:8]
        ways += [
            Way(
                f"{n} steps with the LoRA",
                f"lora-{digest}-{n}",
                {"steps": n, "sampler": "lcm", "cfg_scale": 1.0, "loras": [{"file": str(lora)}]},
            )
            for n in lora_steps
        ]
    return ways


def jobs_of(items: Sequence[Asked], out: Path, seed: int, ways: Sequence[Way]) -> list[Job]:
    """Each caption drawn in every way, by one seed."""
    return [
        Job(
            file_of(out, number, way),
            Request.parse(
                {
                    **way.settings,
                    "prompt": item.question.prompt,
                    "seed": seed + number,
                    "dialect": "plain",
                }
            ),
        )
        for way in ways
        for number, item in enumerate(items)
    ]


def file_of(out: Path, number: int, way: Way) -> Path:
    """The file of one drawing."""
    return out / f"{number:04}-{way.mark}.png"


def answers_of(
    desk: Bench, items: Sequence[Asked], pictures: Sequence[Pixels]
) -> tuple[Answer, ...]:
    """What the evaluator finds in pictures, in the order of their captions."""
    questions = [item.question for item in items]
    return judged(as_batch(pictures), questions, desk.judge.evaluator, desk.judge.labels)


def calls_of(path: Path) -> int:
    """How often the U-Net was asked for a drawing: with guidance twice in each step."""
    recipe = read_settings(path).recipe
    if recipe is None:
        raise FileError(f"{shown(path)} carries no recipe; remove it, and it is drawn again.")
    sampler = resolve_sampler(recipe.request.sampler)
    return recipe.result.steps * sampler.calls_per_step * (1 + (recipe.request.cfg_scale != 1))


def table_of(told: Mapping[str, Composition], calls: Mapping[str, int], count: int) -> Table:
    """The shares of what is right for every way, and how often each asks the U-Net."""
    rows = {
        name: [
            *(str(found.checks.get(check, "")) for check in CHECKS),
            f"{100 * found.overall:.1f} %",
            str(calls.get(name, "")),
        ]
        for name, found in told.items()
    }
    columns = (*CHECKS, "composition", "calls of the U-Net")
    return Table(f"{count} captions", columns, rows)


def measured(given: argparse.Namespace) -> str:
    """Measure and draw what is asked for; the table."""
    if given.count < 1:
        raise RequestError(f"--count must be 1 or more; got {given.count}.")
    own = {} if given.steps is None else {"steps": given.steps}
    lora = None if given.lora is None else find_addon("lora", given.lora)
    desk = bench(given.cutouts, given.model)
    how = {"count": given.count, "seed": given.seed, **own}
    begin(given.out, {**how, **weights_of(desk.model)})
    items = desk.asked([SEEN], given.count, seed=given.seed)
    ways = ways_of(own, given.fewer, lora, given.lora_steps)
    draw(desk.model, jobs_of(items, given.out, given.seed, ways))
    files = {way.name: [file_of(given.out, n, way) for n in range(len(items))] for way in ways}
    made = {name: [pixels_of(path) for path in paths] for name, paths in files.items()}
    told = {
        name: score(answers_of(desk, items, pictures))
        for name, pictures in {REAL: desk.real(items), **made}.items()
    }
    calls = {name: calls_of(paths[0]) for name, paths in files.items()}
    write_whole(given.out / "sheet.png", shown_rows(items, made))
    lines = table_lines(table_of(told, calls, len(items)))
    if lora is not None:
        lines += ["", f"The LoRA has the SHA-256 {sha256(lora)}."]
    return "\n".join(lines)


def main() -> int:
    parser = arguments(__doc__, count=150, out="out/few-steps")
    parser.add_argument("--lora", help="its file, or its name")
    parser.add_argument("--lora-steps", type=int, nargs="+", default=[4], help="with it [4]")
    parser.add_argument("--fewer", type=int, nargs="*", default=[4, 8], help="without it [4 8]")
    given = parser.parse_args()
    return reported(given.out, lambda: measured(given))


if __name__ == "__main__":
    sys.exit(main())
