"""Real held-out pictures with their captions, the model and its judge, for the measuring scripts.

Shapes: N pictures, S pixels of a side.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safelight.checkpoints.evaluator_folder import LoadedEvaluator, load_evaluator
from safelight.checkpoints.folders import read_json
from safelight.cli.evaluate_questions import SEEN, SPLITS, Asked, asked
from safelight.cli.evaluate_scenes import cutouts_at, rendered
from safelight.errors import FileError, SafelightError
from safelight.evaluation.sheets import sheet, to_bytes
from safelight.model import Model
from safelight.printable import shown
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.picture_file import open_input
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.training.scenes.cutouts import Cutouts
from safelight.writing import make_folder, write_text

HELD_OUT = tuple(name for name in SPLITS if name != SEEN)
SETTINGS = "settings.json"
SHOWN = 8  # captions on a sheet
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Bench:
    """A model, the evaluator that judges it, and the cut-outs that real pictures are made of."""

    model: Model
    folder: Path  # of the model
    judge: LoadedEvaluator
    cutouts: Cutouts

    @property
    def side(self) -> int:
        """The pixels of a side of what the model draws."""
        return self.model.family.native_size

    def asked(self, splits: Sequence[str], count: int, *, seed: int) -> list[Asked]:
        """So many captions that the judge can check, with the scenes they tell of."""
        known = {*self.judge.labels.concepts, *self.judge.labels.styles}
        return asked(self.cutouts, splits, count, seed=seed, known=known)

    def real(self, items: Sequence[Asked]) -> list[Pixels]:
        """The real pictures (S, S, 3) of scenes."""
        pictures = rendered([item.scene for item in items], self.cutouts, self.side)
        return list(to_bytes(pictures).numpy())


def bench(cutouts: Sequence[Path], model: str | None = None) -> Bench:
    """The bench of a model that has its judge beside it, the embedded one unless one is named.

    Raises FileError or CheckpointError for what cannot be read, RequestError without a model.
    """
    models, request = Models(), Request.parse({"prompt": "", "model": model})
    folder = models.path(request)
    if not (folder / "evaluator").is_dir():
        raise FileError(f"{shown(folder)} has no folder evaluator: give a model with its judge.")
    return Bench(
        models.of(request), folder, load_evaluator(folder / "evaluator"), cutouts_at(cutouts)
    )


def arguments(text: str, *, count: int, out: str) -> argparse.ArgumentParser:
    """A parser with what every measuring script is told."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument(
        "--cutouts", type=Path, nargs="+", required=True, help="the pairs, such as data/emoji-pairs"
    )
    parser.add_argument("--out", type=Path, default=Path(out), help="what was drawn is kept here")
    parser.add_argument("--count", type=int, default=count, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=1, help="of the choice and the first picture")
    parser.add_argument("--model", help="[the embedded one]")
    parser.add_argument("--steps", type=int, help="[the model's]")
    return parser


def begin(folder: Path, settings: dict[str, object]) -> None:
    """Make a folder for what is drawn with these settings, or go on with one.

    Raises FileError if the folder holds pictures of other settings.
    """
    make_folder(folder)
    path = folder / SETTINGS
    if not path.exists():
        write_text(path, json.dumps(settings, indent=1) + "\n")
    known = read_json(path)
    if known != settings:
        names = sorted(
            name for name in {*known, *settings} if known.get(name) != settings.get(name)
        )
        raise FileError(
            f"{shown(folder)} holds pictures of other settings ({', '.join(names)}); "
            "give another --out, or remove it."
        )


def reported(folder: Path, measure: Callable[[], str]) -> int:
    """Write what is measured into a folder as table.md, and print it; or the error.

    Returns the exit status.
    """
    try:
        text = measure().strip("\n")
        write_text(folder / "table.md", f"{text}\n")
    except SafelightError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(text)
    return 0


def weights_of(model: Model) -> dict[str, str]:
    """The SHA-256 of each of a model's files, by its role and name."""
    return {f"{file.role} {file.path.name}": file.sha256 for file in model.files}


@dataclass(frozen=True, eq=False)
class Job:
    """A picture to draw: its file, its request, and the pictures that the request names.

    A name stands for one picture in all jobs that are drawn together.
    """

    path: Path
    request: Request
    pictures: Mapping[str, Pixels] = field(default_factory=dict)


def draw(model: Model, jobs: Sequence[Job]) -> None:
    """Draw what has no file yet; each picture carries its recipe.

    One after another as `safelight generate` does, so each has the bits of the picture made alone.
    """
    supplies = Supplies({name: p for job in jobs for name, p in job.pictures.items()})
    for number, job in enumerate(jobs, start=1):
        if not job.path.exists():
            (picture,) = generate(model, job.request, supplies=supplies)
            picture.save(job.path)
        if sys.stderr.isatty():
            end = "\n" if number == len(jobs) else ""
            print(f"\r{number} of {len(jobs)}", end=end, file=sys.stderr, flush=True)


def pixels_of(path: Path) -> Pixels:
    """The pixels (S, S, 3) of a drawing. Raises FileError if it is not there."""
    return open_input(path, "drawing").pixels


def figure(path: Path, name: str) -> float | None:
    """A figure of a drawing's recipe whose name begins so; None if it has none."""
    recipe = read_settings(path).recipe
    found = () if recipe is None else recipe.result.figures
    return next((one.value for one in found if one.name.startswith(name)), None)


def seconds_of(path: Path) -> float:
    """How long a drawing took; NaN if it does not say."""
    recipe = read_settings(path).recipe
    return float("nan") if recipe is None or recipe.seconds is None else recipe.seconds


def as_batch(pictures: Sequence[Pixels]) -> Tensor:
    """Pictures (S, S, 3) as a batch (N, 3, S, S) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 127.5 - 1


def shown_rows(items: Sequence[Asked], made: Mapping[str, Sequence[Pixels]]) -> bytes:
    """A sheet of the first captions, a PNG: a row for each way in which they were drawn."""
    few = range(min(SHOWN, len(items)))
    pictures = [row[n] for row in made.values() for n in few]
    captions = [f"{name}: {items[n].question.prompt}" for name in made for n in few]
    return sheet(as_batch(pictures), columns=len(few), captions=captions, lines=3)


def with_error(values: Tensor, digits: int = 3) -> str:
    """The mean of values (N,) and its standard error, as a table's cell."""
    values = values.double()
    error = float(values.std(correction=1)) / len(values) ** 0.5
    return f"{float(values.mean()):.{digits}f} ± {error:.{digits}f}"


def paired(one: Tensor, other: Tensor, digits: int = 3) -> str:
    """The mean of other - one over pairs (N,), its standard error, and how many of those make it.

    "+0.120 ± 0.030 (4.0 se)".
    """
    apart = other.double() - one.double()
    error = float(apart.std(correction=1)) / len(apart) ** 0.5
    mean = float(apart.mean())
    times = f" ({abs(mean) / error:.1f} se)" if error > 0 else ""
    return f"{mean:+.{digits}f} ± {error:.{digits}f}{times}"
