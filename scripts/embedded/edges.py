#!/usr/bin/env python3
"""How well pictures drawn along edges keep to them, against the same drawings without the edges.

    python scripts/embedded/edges.py --cutouts data/emoji-pairs --control edge-control.safetensors

Canny's lines of real held-out pictures are given to a control network, and each picture is drawn
with and without it: same words, same seed. The lines of what was drawn are compared with those that
were asked for (F1 within two pixels). Beside it the ceiling, real pictures through the autoencoder
alone, and the floor, real pictures of other captions. What was drawn is kept in --out; a run that
was stopped goes on.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from held_out import (
    HELD_OUT,
    Job,
    Pixels,
    arguments,
    as_batch,
    begin,
    bench,
    draw,
    figure,
    paired,
    pixels_of,
    reported,
    weights_of,
    with_error,
)
from torch import Tensor

from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import find_model
from safelight.cli.evaluate_questions import Asked
from safelight.errors import RequestError
from safelight.evaluation.report import Table, table_lines
from safelight.evaluation.sheets import sheet, to_bytes
from safelight.model import Model
from safelight.preprocessors.agreement import Agreement, agreement
from safelight.preprocessors.maps import control_map
from safelight.tasks.request import Request
from safelight.writing import write_whole

OPTIONS = {"low": 100, "high": 200}  # as the network learned
PLAIN, CONTROLLED = "without the control", "with the control"
CODED, OTHERS = "real pictures through the autoencoder", "real pictures of other captions"
SHOWN = 8  # pictures on the sheet


def jobs_of(
    items: Sequence[Asked],
    real: Sequence[Pixels],
    out: Path,
    seed: int,
    settings: Mapping[str, object],
    control: Mapping[str, object],
) -> list[Job]:
    """Each caption drawn without and with the lines of its real picture, by one seed."""
    lines = [
        {**control, "picture": name_of(n), "preprocessor": "canny", "options": OPTIONS}
        for n in range(len(items))
    ]
    return [
        Job(
            file_of(out, number, kind),
            Request.parse(
                {
                    **settings,
                    **({"controls": [lines[number]]} if kind == CONTROLLED else {}),
                    "prompt": item.question.prompt,
                    "seed": seed + number,
                    "dialect": "plain",
                }
            ),
            {name_of(number): real[number]},
        )
        for number, item in enumerate(items)
        for kind in (PLAIN, CONTROLLED)
    ]


def name_of(number: int) -> str:
    """What requests call a real picture."""
    return f"{number:04}-real.png"


def file_of(out: Path, number: int, kind: str) -> Path:
    """The file of one drawing."""
    return out / f"{number:04}-{kind.split()[0]}.png"


def lines_of(picture: Pixels) -> Pixels:
    """The lines of a picture (S, S, 3), as the control is shown them."""
    return control_map("canny", picture, options=OPTIONS).pixels


def agreements(wanted: Sequence[Pixels], pictures: Sequence[Pixels]) -> list[Agreement]:
    """How well the lines of pictures lie on those that were asked for."""
    return [
        agreement(lines, lines_of(picture)) for lines, picture in zip(wanted, pictures, strict=True)
    ]


@torch.no_grad()
def through_codec(model: Model, pictures: Sequence[Pixels]) -> list[Pixels]:
    """Pictures as the autoencoder gives them back: what no drawing can be closer than."""
    coded: list[Pixels] = []
    for part in as_batch(pictures).split(16):
        back = model.codec.decode(model.codec.encode(part.to(model.device)).mode())
        coded += list(to_bytes(back).numpy())
    return coded


def table_of(found: Mapping[str, Sequence[Agreement]]) -> Table:
    """F1, precision and recall of every way, with standard errors, and the paired difference."""
    rows: dict[str, list[str]] = {}
    for name, values in found.items():
        rows[name] = [with_error(_values(values, field)) for field in ("f1", "precision", "recall")]
    rows[f"{CONTROLLED} - {PLAIN}"] = [
        paired(_values(found[PLAIN], field), _values(found[CONTROLLED], field))
        for field in ("f1", "precision", "recall")
    ]
    return Table(f"{len(found[PLAIN])} pictures", ("edge F1", "precision", "recall"), rows)


def _values(values: Sequence[Agreement], field: str) -> Tensor:
    return torch.tensor([getattr(value, field) for value in values])


def shown_rows(rows: Mapping[str, Sequence[Pixels]], items: Sequence[Asked]) -> bytes:
    """A sheet with a row of the first pictures for each kind."""
    few = range(min(SHOWN, len(items)))
    pictures = [row[n] for row in rows.values() for n in few]
    captions = [f"{name}: {items[n].question.prompt}" for name in rows for n in few]
    return sheet(as_batch(pictures), columns=len(few), captions=captions, lines=3)


def measured(given: argparse.Namespace) -> str:
    """Measure and draw what is asked for; the table."""
    settings = {"steps": given.steps} if given.steps is not None else {}
    if given.count < 2:
        raise RequestError(f"--count must be 2 or more; got {given.count}.")
    path = find_model(given.control)
    desk = bench(given.cutouts, given.model)
    how = {"count": given.count, "seed": given.seed, "scale": given.scale, **settings}
    begin(given.out, {**how, "control": _content(path), **weights_of(desk.model)})
    items = desk.asked(HELD_OUT, given.count, seed=given.seed)
    real = desk.real(items)
    control = {"net": given.control, "scale": given.scale}
    draw(desk.model, jobs_of(items, real, given.out, given.seed, settings, control))
    numbers = range(len(items))
    drawn = {
        kind: [pixels_of(file_of(given.out, n, kind)) for n in numbers]
        for kind in (PLAIN, CONTROLLED)
    }
    wanted = [lines_of(picture) for picture in real]
    pictures = {**drawn, CODED: through_codec(desk.model, real), OTHERS: real[1:] + real[:1]}
    found = {name: agreements(wanted, made) for name, made in pictures.items()}
    rows = {"real": real, "lines": wanted, **drawn}
    write_whole(given.out / "sheet.png", shown_rows(rows, items))
    changes = [figure(file_of(given.out, n, CONTROLLED), "change by control") for n in numbers]
    told = with_error(torch.tensor([change or 0.0 for change in changes]))
    return "\n".join(
        [*table_lines(table_of(found)), "", f"The control changed the prediction by {told}."]
    )


def main() -> int:
    parser = arguments(__doc__, count=96, out="out/edges")
    parser.add_argument("--control", required=True, help="the network's file or folder")
    parser.add_argument("--scale", type=float, default=1.0, help="of the control [1]")
    given = parser.parse_args()
    return reported(given.out, lambda: measured(given))


def _content(path: Path) -> str:
    """The SHA-256 of a network's file, or of the weights in its folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return ", ".join(sha256(file) for file in files)


if __name__ == "__main__":
    sys.exit(main())
