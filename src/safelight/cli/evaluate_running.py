"""Runs what `safelight evaluate` asks for: reads nets and data, evaluates, writes and tells."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.table import Table as Grid

from safelight.checkpoints.evaluator_folder import CONFIG, KIND, LoadedEvaluator, load_evaluator
from safelight.checkpoints.json_object import read_object
from safelight.cli.evaluate_clip import space_of_vision, text_match
from safelight.cli.evaluate_data import data_report
from safelight.cli.evaluate_drawing import Drawing
from safelight.cli.evaluate_progress import Progressing
from safelight.cli.evaluate_questions import splits_of
from safelight.cli.evaluate_scenes import QUICK, SceneSettings, cutouts_at, scenes_report
from safelight.cli.telling import console, tell
from safelight.embedded.carried import NAME, is_embedded
from safelight.engines.placement import dtype_name, resolve_device
from safelight.errors import FileError, RequestError
from safelight.evaluation.exam import judge_space
from safelight.evaluation.frechet import FrechetDistance
from safelight.evaluation.intervals import Estimate, Share
from safelight.evaluation.pairs import Space
from safelight.evaluation.report import Cell, Report, Table, as_json, shown_cell, write
from safelight.model import Model
from safelight.printable import shown
from safelight.tasks.generate import software
from safelight.tasks.loading import Models
from safelight.tasks.request import Request
from safelight.training.config.reading import read_config
from safelight.training.config.sections import SceneSection
from safelight.training.recipes.scenes import of_section
from safelight.training.sources.example import summary
from safelight.training.sources.opening import open_source
from safelight.writing import make_folder

EVALUATOR = "evaluator"  # the folder in a model's
SWEPT = ("guidance", "steps")
TOLD = ("Composition", "By split", "Distances and text match")  # tables printed
MOST = 100_000  # prompts


@dataclass(frozen=True)
class Wanted:
    """A command line of `safelight evaluate`; drawing holds settings of a request, or None."""

    model: str | None
    out: Path
    cutouts: tuple[Path, ...]
    data: str | None
    splits: str
    count: int
    seed: int
    training_seed: int
    world: Path | None
    quick: bool
    memory: bool
    evaluator: Path | None
    clip: Path | None
    features: Path | None
    drawing: Mapping[str, object]
    batch: int
    sweep: tuple[str, ...]


def evaluated(wanted: Wanted, *, in_json: bool) -> Path:
    """Evaluate, write the report, and print its tables or, if wanted, its JSON.

    Returns the Markdown file. Raises RequestError, FileError, CheckpointError or OutputError; what
    can be seen before anything is drawn is.
    """
    settings = _checked(wanted)
    world = None if wanted.world is None else world_of(wanted.world)
    if world is not None:
        settings = replace(settings, mix=world.mix)
    given = {name: value for name, value in wanted.drawing.items() if value is not None}
    # the parts are asked one by one, and all the time
    fixed = {"model": wanted.model, "batch": wanted.batch, "offload": "none"}
    base = Request.parse({"prompt": "", **given, **fixed})
    models = Models()
    models.check(base)
    path = models.path(base)
    name = NAME if is_embedded(path) else path.name
    judge_at = _judge_at(wanted, path)
    make_folder(wanted.out)
    device = resolve_device(base.device)
    judge = None if judge_at is None else load_evaluator(judge_at, device=device)
    cutouts = None if wanted.data is not None else cutouts_at(wanted.cutouts)
    if world is not None and cutouts is not None:
        cutouts = of_section(cutouts, world)
    source = None if wanted.data is None else open_source(wanted.data)
    with Progressing() as progress:
        progress.say(f"reading {name}")
        model = models.of(base)
        if models.choice is not None:
            progress.say(str(models.choice))
        drawing = Drawing(model, _settled(base, given, model))
        facts = _facts(model, name, drawing.request)
        match = text_match(wanted.clip, model, path)
        if source is not None:
            report, problems = data_report(
                drawing,
                source,
                _space(wanted.features, judge, device),
                match,
                progress,
                count=settings.count,
                seed=wanted.seed,
                batch=wanted.batch,
                name=name,
                facts=facts,
            )
        else:
            assert judge is not None and cutouts is not None
            problems = ()
            report = scenes_report(
                drawing, cutouts, judge, match, settings, progress, name=name, facts=facts
            )
    if problems:
        tell([f"left out: {summary(problems)}"])
    file = write(report, wanted.out)
    _print(report, file, in_json=in_json)
    return file


def world_of(path: Path) -> SceneSection:
    """The scenes of a training config. Raises ConfigError, FileError or RequestError."""
    data = read_config(path).data
    if not isinstance(data, SceneSection):
        raise RequestError(f"--world {shown(path)}: its data are no scenes; give such a config.")
    return data


def sweeps_of(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Settings with the values to try, of texts such as `guidance=1,2,3`.

    Raises RequestError for another setting, for what are no numbers, and for one given twice.
    """
    found: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip()
        if not equals or name not in SWEPT or name in found:
            raise RequestError(
                f"--sweep {shown(text)}: give guidance=1,2,3 or steps=5,10,20, each once."
            )
        try:
            numbers = tuple(float(value) for value in values.split(","))
        except ValueError:
            numbers = ()
        whole = name != "steps" or all(n >= 1 and n == int(n) for n in numbers if math.isfinite(n))
        if not numbers or not whole or not all(math.isfinite(n) and n >= 0 for n in numbers):
            kind = "whole numbers from 1" if name == "steps" else "numbers from 0"
            raise RequestError(f"--sweep {shown(text)}: {name} takes {kind} with commas between.")
        if len(set(numbers)) < len(numbers):
            raise RequestError(f"--sweep {shown(text)}: each value once.")
        found[name] = numbers
    return found


def _checked(wanted: Wanted) -> SceneSettings:
    """What is asked, with all that can be told before anything is read. Raises RequestError."""
    if (wanted.data is None) == (not wanted.cutouts):
        raise RequestError(
            "give either --cutouts, for prompts whose facts can be checked, or --data, for "
            "captions with pictures."
        )
    if not 1 <= wanted.count <= MOST:
        raise RequestError(f"--count must be from 1 to {MOST}; got {wanted.count}.")
    for name, seed in (("--seed", wanted.seed), ("--training-seed", wanted.training_seed)):
        if not 0 <= seed < 2**32:
            raise RequestError(f"{name} must be from 0 to {2**32 - 1}; got {seed}.")
    if wanted.data is not None and wanted.world is not None:
        raise RequestError("--world says which scenes are asked; it works with --cutouts only.")
    if wanted.data is not None and (wanted.sweep or wanted.quick):
        option = "--quick" if wanted.quick else "--sweep"
        raise RequestError(f"{option} needs facts to score by; it works with --cutouts only.")
    if wanted.data is None and wanted.features is not None:
        raise RequestError(
            "--features belongs to --data; with --cutouts pictures are compared in the features "
            "of --evaluator."
        )
    return SceneSettings(
        splits=splits_of(wanted.splits),
        count=QUICK if wanted.quick else wanted.count,
        seed=wanted.seed,
        training_seed=wanted.training_seed,
        quick=wanted.quick,
        memory=wanted.memory,
        batch=wanted.batch,
        sweeps=sweeps_of(wanted.sweep),
    )


def _judge_at(wanted: Wanted, model: Path) -> Path | None:
    """The evaluator's folder; None where none is needed. Raises RequestError or FileError."""
    folder = wanted.evaluator
    if folder is None and (model / EVALUATOR / CONFIG).is_file():
        folder = model / EVALUATOR
    if folder is None and wanted.data is None:
        raise RequestError(
            f"{shown(model)} carries no judge; give --evaluator with the folder of one "
            f"({CONFIG} and evaluator.safetensors)."
        )
    if folder is not None and not (folder / CONFIG).is_file():
        raise FileError(f"--evaluator {shown(folder)} holds no {CONFIG}; give a judge's folder.")
    if wanted.data is not None and folder is None and wanted.features is None:
        raise RequestError(
            "--data compares pictures in the features of a net; give --features with the folder of "
            "an evaluator or of a CLIP vision tower."
        )
    if wanted.features is not None and not wanted.features.is_dir():
        raise FileError(f"--features {shown(wanted.features)} is no folder.")
    return folder


def _space(folder: Path | None, judge: LoadedEvaluator | None, device: torch.device) -> Space:
    """The features that --data is compared in: those of --features, or of the judge."""
    if folder is not None:
        config = folder / CONFIG
        if not config.is_file() or read_object(config).text("_class_name", "") != KIND:
            return space_of_vision(folder, device)
        judge = load_evaluator(folder, device=device)
    assert judge is not None
    return judge_space(judge)


def _settled(base: Request, given: Mapping[str, object], model: Model) -> Request:
    """The request, with what the model says of itself below what was asked for."""
    hint = model.family.hint
    suits = hint.settings() if hint.stated else {}
    below = {name: value for name, value in suits.items() if name not in given}
    if "sampler" in given:  # the model's spacing belongs to the model's sampler
        below.pop("schedule", None)
    return base.replace(**below).with_known_names()


def _facts(model: Model, name: str, request: Request) -> dict[str, str | int | float]:
    """How the pictures are drawn, and with what."""
    here = software(model)
    return {
        "model": name,
        **{f"SHA-256 of {f.role}": f.sha256 for f in model.files},
        "sampler": f"{request.sampler}, {request.schedule}, {request.steps} steps",
        "guidance scale": request.cfg_scale,
        "prompts in a batch": request.batch,
        "type": dtype_name(model.dtype),
        "device": here.device or model.device.type,
        "torch": here.torch or "",
    }


def _print(report: Report, file: Path, *, in_json: bool) -> None:
    """The tables that matter most, and where the rest lies."""
    if in_json:
        print(json.dumps({"report": str(file), **as_json(report)}, ensure_ascii=False))
        return
    told = console()
    for table in report.tables:
        if table.title in TOLD or table.title.endswith(" swept"):
            told.print(_grid(table, Grid(box=None, pad_edge=False, header_style="bold")))
            told.print("")
    told.print(f"report: {shown(file)}", markup=False)


def _grid(table: Table, grid: Grid) -> Grid:
    grid.add_column(table.title, no_wrap=True)
    for column in table.columns:
        grid.add_column(column, justify="right", no_wrap=True)
    for name, cells in table.rows.items():
        grid.add_row(name.replace("*", ""), *map(_short, cells))
    return grid


def _short(cell: Cell) -> str:
    """A cell without its interval, which the report has."""
    match cell:
        case Share():
            return f"{100 * cell.value:.1f} % of {cell.of}"
        case Estimate(value):
            return f"{value:.4g}"
        case FrechetDistance(value):
            return f"{value:.4g}"
    return shown_cell(cell)
