"""One setting of sampling swept over its values, everything else the same: tables and plots."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.evaluation.coverage import Coverage
from safelight.evaluation.exam import Exam, Measures, measured
from safelight.evaluation.line_plot import Point, line_plot
from safelight.evaluation.pairs import Draw, drawn
from safelight.evaluation.report import Cell, Report, Table
from safelight.evaluation.sheets import sheet

SHOWN = 8  # prompts of the sheet


@dataclass(frozen=True)
class Stop:
    """What was measured at one value."""

    value: float
    measures: Measures
    seconds: float  # for drawing one picture


@dataclass(frozen=True)
class Sweep:
    """What was measured at every value, and a sheet with a row for each."""

    setting: str
    stops: tuple[Stop, ...]
    sheet: bytes

    @property
    def best(self) -> Stop:
        """The stop with the best composition score; of equals, the nearest to the reference."""
        return max(self.stops, key=lambda s: (s.measures.composition.overall, -_kernel(s)))


def sweep(
    setting: str, values: Sequence[float], drawing: Callable[[float], Draw], exam: Exam
) -> Sweep:
    """The exam's measures at each value of a setting; `drawing` gives what draws at a value.

    The same prompts and seeds at every value, so differences are the setting's. Raises RequestError
    if no value is given, or one twice.
    """
    if not values or len(set(values)) < len(values):
        raise RequestError(f"{setting} needs different values to sweep; got {list(values)}")
    stops, shown = [], []
    for value in values:
        start = time.perf_counter()
        pictures = drawn(drawing(value), exam.pairs)
        # A device may still be at work: looking at a number waits for it.
        float(pictures[-1].sum())
        seconds = (time.perf_counter() - start) / len(pictures)
        stops.append(Stop(value, measured(pictures, exam), seconds))
        shown.append(pictures[:SHOWN].cpu())
    return Sweep(setting, tuple(stops), _rows(values, shown, exam.pairs.prompts))


def sweep_table(found: Sweep, exam: Exam) -> Table:
    """A column for each value, a row for each measure."""
    stops, space = found.stops, exam.pairs.space.name
    rows: dict[str, list[Cell]] = {
        "composition": [s.measures.composition.overall for s in stops],
        "all that the prompt says": [s.measures.composition.strict for s in stops],
        "concept": [s.measures.composition.checks.get("concept") for s in stops],
        "background": [s.measures.composition.checks.get("background") for s in stops],
        f"{space} KID": [s.measures.distances.kernel for s in stops],
        f"{space} Fréchet": [s.measures.distances.frechet for s in stops],
        "precision": [None if (c := _coverage(s)) is None else c.precision for s in stops],
        "recall": [None if (c := _coverage(s)) is None else c.recall for s in stops],
        "CLIP score": [s.measures.clip_score for s in stops],
        "seconds a picture": [s.seconds for s in stops],
    }
    rows = {name: cells for name, cells in rows.items() if any(c is not None for c in cells)}
    note = f"{len(exam.questions)} prompts, the same seeds in every column."
    return Table(f"{found.setting} swept", tuple(f"{s.value:g}" for s in stops), rows, note)


def sweep_plots(found: Sweep, exam: Exam, *, logarithmic: bool = False) -> dict[str, str]:
    """SVG plots by file name: composition, distance to the reference, precision and recall."""
    stops, setting = found.stops, found.setting
    stem = setting.replace(" ", "-")
    lines: Mapping[str, tuple[str, str, Mapping[str, Sequence[Point]]]] = {
        f"{stem}-composition.svg": (
            "Composition",
            "share of prompts",
            {
                "mean of categories": [
                    Point(s.value, s.measures.composition.overall) for s in stops
                ],
                "all that is said": [_share_point(s) for s in stops],
            },
        ),
        f"{stem}-distance.svg": (
            "Distance to real pictures",
            f"{exam.pairs.space.name} KID",
            {"KID": [_kernel_point(s) for s in stops]},
        ),
        f"{stem}-coverage.svg": (
            "Fidelity and variety",
            "share",
            {
                "precision": [Point(s.value, _covered(s, "precision")) for s in stops],
                "recall": [Point(s.value, _covered(s, "recall")) for s in stops],
            },
        ),
    }
    return {
        file: line_plot(
            line,
            title=f"{title} by {setting}",
            x_label=setting,
            y_label=label,
            logarithmic=logarithmic,
        )
        for file, (title, label, line) in lines.items()
    }


def sweep_report(sweeps: Sequence[Sweep], exam: Exam, *, model: str) -> Report:
    """A report of sweeps alone, with their plots and sheets."""
    plots: dict[str, str] = {}
    for found in sweeps:
        plots |= sweep_plots(found, exam, logarithmic="steps" in found.setting)
    return Report(
        f"Sweeps of {model}",
        {
            "prompts": len(exam.questions),
            "evaluator SHA-256": exam.judge.sha256,
            "feature space": exam.pairs.space.name,
        },
        tuple(sweep_table(found, exam) for found in sweeps),
        prompts=tuple(zip(exam.pairs.prompts, exam.pairs.seeds, strict=True)),
        plots=plots,
        pictures={f"{found.setting.replace(' ', '-')}.png": found.sheet for found in sweeps},
    )


def _rows(values: Sequence[float], shown: Sequence[Tensor], prompts: Sequence[str]) -> bytes:
    columns = len(shown[0])
    captions = [f"{v:g} {p}" for v in values for p in prompts[:columns]]
    return sheet(torch.cat(list(shown)), columns=columns, captions=captions)


def _kernel(stop: Stop) -> float:
    return stop.measures.distances.kernel.value


def _kernel_point(stop: Stop) -> Point:
    kernel = stop.measures.distances.kernel
    return Point(stop.value, kernel.value, kernel.low, kernel.high)


def _share_point(stop: Stop) -> Point:
    strict = stop.measures.composition.strict
    return Point(stop.value, strict.value, *strict.interval)


def _coverage(stop: Stop) -> Coverage | None:
    return stop.measures.distances.coverage


def _covered(stop: Stop, name: str) -> float:
    found = _coverage(stop)
    return math.nan if found is None else float(getattr(found, name))
