#!/usr/bin/env python3
"""Write the card of the embedded model, from the records of its training and its evaluation.

    safelight evaluate --cutouts data/emoji-pairs -o report
    python scripts/embedded/card.py --report report --cutouts data/emoji-pairs \\
        --run diffusion=runs/embedded/diffusion --run clip=runs/embedded/clip \\
        --run autoencoder=runs/embedded/autoencoder --run evaluator=runs/embedded/evaluator \\
        --run edge-control=runs/embedded/edge-control --on "edge-control=two CPU cores" \\
        --measured embedded-edges=out/edges --teacher data/teacher.safetensors

Writes README.md, curve.svg and not-right.webp beside the weights. What the records hold is read
from them and from nowhere else; a report of other weights is refused.
"""

import argparse
import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from companion_sections import edges, speed, tiny
from pack import TARGET, check_sizes
from PIL import Image
from records import RECIPES, Run, run_of
from sections import (
    CURVE,
    WORST,
    WRONG,
    Records,
    data,
    hashes,
    head,
    limits,
    measured,
    scores,
    sums_of,
    training,
)

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.load import load
from safelight.cli.evaluate_scenes import cutouts_at
from safelight.embedded.carried import COMPANIONS
from safelight.errors import CheckpointError, SafelightError
from safelight.evaluation.line_plot import Point, line_plot
from safelight.evaluation.report import read_report
from safelight.writing import write_text, write_whole

CARD = "README.md"


def card(records: Records) -> str:
    """The card as Markdown. Raises CheckpointError if the report is of other weights."""
    check_report(records)
    model = load(records.folder, dtype=torch.float32)
    parts = (
        head(records, model),
        scores(records),
        edges(records, model),
        speed(records, model),
        tiny(records, model),
        limits(records, model),
        data(records),
        training(records),
        measured(records.report),
        hashes(records.folder),
    )
    return "\n".join(line for part in parts if part for line in (*part, ""))


def check_report(records: Records) -> None:
    """Raise CheckpointError unless the report was made with the weights in the folder."""
    known = {digest for _, digest in sums_of(records.folder)}
    told = {
        name: str(value) for name, value in records.report.facts.items() if name.startswith("SHA-")
    }
    judge = records.report.facts.get("evaluator SHA-256")
    other = [name for name, digest in told.items() if digest not in known]
    if not told or other or judge not in known:
        what = ", ".join(other) or ("the evaluator" if told else "no weights at all")
        raise CheckpointError(
            f"the report is of another model than the one in the package ({what}); run "
            "`safelight evaluate` without --model and --evaluator"
        )


def write_card(records: Records) -> None:
    """The card and its pictures, beside the weights. Raises as `card`, and OutputError."""
    text = card(records)
    if records.runs["diffusion"].curve:
        write_text(records.folder / CURVE, curve_plot(records.runs["diffusion"]))
    if WRONG in records.report.pictures:
        write_whole(records.folder / WORST, smaller(records.report.pictures[WRONG]))
    write_text(records.folder / CARD, text)
    check_sizes(records.folder)


def curve_plot(run: Run) -> str:
    """The learning curve as SVG."""
    points = [Point(samples, loss) for samples, loss in run.curve]
    return line_plot({"held out": points}, title="Learning", x_label="samples", y_label="loss")


def smaller(png: bytes) -> bytes:
    """A sheet of pictures as WebP, a tenth of the bytes."""
    file = BytesIO()
    with Image.open(BytesIO(png)) as picture:
        picture.convert("RGB").save(file, "WEBP", quality=80, method=6)
    return file.getvalue()


def _remarks(teacher: Path | None) -> Mapping[str, str]:
    if teacher is None:
        return {}
    with open_weights(teacher) as file:
        return dict(file.metadata)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, required=True, help="of `safelight evaluate`")
    parser.add_argument("--run", metavar="STAGE=FOLDER", action="append", default=[])
    parser.add_argument("--on", metavar="STAGE=MACHINE", action="append", default=[])
    parser.add_argument(
        "--measured", metavar="NAME=FOLDER", action="append", default=[], help=", ".join(COMPANIONS)
    )
    parser.add_argument(
        "--step",
        metavar="STAGE=STEP",
        action="append",
        default=[],
        help="of weights [the result's]",
    )
    parser.add_argument("--cutouts", type=Path, nargs="+", required=True)
    parser.add_argument("--teacher", type=Path, help="of scripts/teach_text.py")
    parser.add_argument("--model", type=Path, default=TARGET, help=f"[{TARGET}]")
    given = parser.parse_args()
    folders, machines, measured, steps = (
        dict(text.split("=", 1) for text in texts if "=" in text)
        for texts in (given.run, given.on, given.measured, given.step)
    )
    if missing := [recipe for recipe in RECIPES if recipe not in folders]:
        parser.error(f"--run {missing[0]}=FOLDER is missing")
    if bad := [text for text in given.step if not text.partition("=")[2].isdigit()]:
        parser.error(f"--step {bad[0]} is not STAGE=STEP, such as diffusion=8000")
    try:
        runs = {
            stage: run_of(stage, Path(folder), int(steps[stage]) if stage in steps else None)
            for stage, folder in folders.items()
        }
        records = Records(
            given.model,
            read_report(given.report),
            runs,
            cutouts_at(given.cutouts).entries,
            _remarks(given.teacher),
            machines,
            {name: Path(folder) for name, folder in measured.items()},
        )
        write_card(records)
    except SafelightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"wrote {given.model / CARD}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
