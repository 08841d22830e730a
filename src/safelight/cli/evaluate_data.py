"""An evaluation on ordinary data: captions with pictures, from any source that training reads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safelight.cli.evaluate_drawing import Drawing
from safelight.cli.evaluate_progress import Progressing
from safelight.cli.evaluate_scenes import Pace, side_of, through_codec
from safelight.errors import FileError
from safelight.evaluation.ordinary import evaluate_pairs
from safelight.evaluation.pairs import Pairs, Space, TextMatch
from safelight.evaluation.report import Report
from safelight.printable import shown
from safelight.training.buckets import covering
from safelight.training.draw import stream
from safelight.training.pictures import Pixels, cropped, decoded, to_tensor
from safelight.training.sources.example import Problem, Source, summary

LEAST = 12  # pictures with captions that anything can be said of


@dataclass(frozen=True)
class Chosen:
    """Captions with pictures (N, 3, S, S), other pictures (R, 3, S, S), and what was left out."""

    captions: tuple[str, ...]
    pictures: Tensor
    reference: Tensor
    problems: tuple[Problem, ...]


def chosen(
    source: Source, count: int, side: int, *, seed: int, progress: Progressing | None = None
) -> Chosen:
    """Pictures drawn from a source without repeats: `count` to be asked for, as many beside them.

    Both halves are equal if the source has fewer. Pictures are resized to cover a square and
    cropped to its middle. What cannot be used is left out and told.
    Raises FileError if fewer than 12 can be used.
    """
    order = torch.randperm(len(source), generator=stream(seed, "evaluate")).tolist()
    wanted = min(2 * count, len(source))
    done = (lambda n: None) if progress is None else progress.stage("reading pictures", wanted)
    rows: list[Pixels] = []
    captions: list[str] = []
    problems = list(source.problems)
    for index in order:
        if len(rows) == wanted:
            break
        try:
            example = source.example(index)
        except FileError as error:
            problems.append(Problem("unreadable caption", f"example {index}", str(error)))
            continue
        if not example.captions:
            problems.append(Problem("missing caption", example.id, "no text belongs to it"))
            continue
        try:
            image = decoded(example.read(), example.id)
        except FileError as error:
            problems.append(Problem("broken picture", example.id, str(error)))
            continue
        placed = covering(image.size, (side, side))
        rows.append(cropped(image, placed.resized, placed.corner(), placed.bucket))
        captions.append(example.captions[0])
        done(1)
    if len(rows) < LEAST:
        why = f" ({summary(problems)})" if problems else ""
        raise FileError(
            f"{shown(source.name)} has {len(rows)} pictures with captions that can be used{why}; "
            f"give {LEAST} or more, better some hundreds."
        )
    half = min(count, len(rows) // 2)
    pictures = to_tensor(rows)
    return Chosen(tuple(captions[:half]), pictures[:half], pictures[half:], tuple(problems))


def data_report(
    drawing: Drawing,
    source: Source,
    space: Space,
    match: TextMatch | None,
    progress: Progressing,
    *,
    count: int,
    seed: int,
    batch: int,
    name: str,
    facts: Mapping[str, str | int | float],
) -> tuple[Report, tuple[Problem, ...]]:
    """The report of a model on captions of a source, and what of the source was left out."""
    device = drawing.model.device
    found = chosen(source, count, side_of(drawing), seed=seed, progress=progress)
    prompts = len(found.captions)
    pairs = Pairs(
        found.captions,
        tuple(range(seed, seed + prompts)),
        found.pictures.to(device),
        found.reference.to(device),
        space,
        match,
        batch=batch,
        seed=seed,
    )
    pace = Pace(progress)
    unguided = None
    if drawing.request.cfg_scale != 1:
        plain = replace(drawing, request=drawing.request.replace(cfg_scale=1.0))
        unguided = pace.counted(plain, ("drawing without guidance", prompts))
    report = evaluate_pairs(
        pairs,
        pace.counted(drawing, ("drawing", prompts)),
        model=name,
        unguided=unguided,
        again=pace.coded(through_codec(drawing), prompts + len(found.reference)),
        facts={**facts, "data": shown(source.name), "left out": len(found.problems)},
    )
    report = replace(report, facts={**report.facts, "seconds a picture": pace.seconds})
    return report, found.problems
