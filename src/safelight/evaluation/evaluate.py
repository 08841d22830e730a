"""A model's report: every measure, with its ceiling, its floor and the baselines beside it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from safelight.evaluation.composition import (
    CATEGORIES,
    CHECKS,
    Answer,
    Composition,
    judged,
    score,
    shuffled,
)
from safelight.evaluation.copies import Memory, memory_table, worst_pairs
from safelight.evaluation.exam import Exam, Measures, measured
from safelight.evaluation.pairs import Draw, drawn, recoded
from safelight.evaluation.reconstruction import Again, reconstruction_table
from safelight.evaluation.report import Cell, Report, Table
from safelight.evaluation.sheets import sheet
from safelight.version import __version__

SHOWN = 64  # pictures of a sheet
OVERALL, STRICT = "**overall** (mean of categories)", "all that the prompt says"
MODEL, REAL, CODEC = "model", "real renderings", "codec ceiling"
SEEN = "seen"  # the split of what was trained on
BY_SPLIT = (MODEL, REAL, CODEC)  # columns that are told for each split


def evaluate(
    exam: Exam,
    draw: Draw,
    *,
    model: str,
    unguided: Draw | None = None,
    again: Again | None = None,
    retrieved: Tensor | None = None,
    memory: Memory | None = None,
    facts: Mapping[str, str | int | float] | None = None,
) -> Report:
    """The report of a model that `draw` draws with.

    model: its name. unguided: the same model without guidance. again: its codec, there and back.
    retrieved: for each question the training picture whose caption is nearest (N, 3, S, S).
    facts: more to be told at the head, such as hashes and sampler settings.
    """
    pairs = exam.pairs
    pictures = drawn(draw, pairs)
    columns = {MODEL: pictures, REAL: pairs.real}
    if again is not None:
        columns[CODEC] = recoded(again, pairs)
    if retrieved is not None:
        columns["nearest caption's picture"] = retrieved
    if unguided is not None:
        columns["no guidance"] = drawn(unguided, pairs)
    columns["shuffled prompts"] = pictures[shuffled(exam.questions, seed=pairs.seed)]
    columns["mean picture"] = pairs.reference.mean(dim=0).expand_as(pictures)
    measures = {name: measured(column, exam) for name, column in columns.items()}
    answers = {name: found.answers for name, found in measures.items()}
    tables = [*_answer_tables(answers), _distance_table(measures, exam)]
    sheets = _sheets(pictures, exam, measures[MODEL].answers)
    if again is not None:
        tables.append(reconstruction_table(pairs, again))
    if memory is not None:
        tables.append(memory_table(exam, draw, pictures, memory))
        sheets["nearest-training.png"] = worst_pairs(exam, pictures, memory)
    return Report(
        f"Evaluation of {model}",
        _facts(exam, facts or {}),
        tuple(tables),
        prompts=tuple(zip(pairs.prompts, pairs.seeds, strict=True)),
        pictures=sheets,
        notes=(_HOW_TO_READ,),
    )


@torch.no_grad()
def evaluate_composition(
    exam: Exam,
    draw: Draw,
    *,
    model: str,
    again: Again | None = None,
    facts: Mapping[str, str | int | float] | None = None,
) -> Report:
    """The composition score alone, with its ceilings and its floor: what a quick look needs.

    Nothing is measured against the reference pictures. For the rest see `evaluate`.
    """
    pairs = exam.pairs
    pictures = drawn(draw, pairs)
    columns = {MODEL: pictures, REAL: pairs.real}
    if again is not None:
        columns[CODEC] = recoded(again, pairs)
    columns["shuffled prompts"] = pictures[shuffled(exam.questions, seed=pairs.seed)]
    judge = exam.judge
    answers = {
        name: judged(column, exam.questions, judge.evaluator, judge.labels)
        for name, column in columns.items()
    }
    return Report(
        f"Evaluation of {model}",
        _facts(exam, facts or {}),
        _answer_tables(answers),
        prompts=tuple(zip(pairs.prompts, pairs.seeds, strict=True)),
        pictures=_sheets(pictures, exam, answers[MODEL]),
        notes=(_HOW_TO_READ,),
    )


_HOW_TO_READ = (
    "Brackets hold intervals of 95 %: of Wilson for shares, of the bootstrap for means. Real "
    "renderings show what the judge itself gets right: the ceiling. Shuffled prompts are the "
    "floor: the model's own pictures, judged by other prompts of the same category. Distances of "
    "real renderings are the distance of two real sets."
)


def _facts(
    exam: Exam, more: Mapping[str, str | int | float]
) -> dict[str, str | int | float | Sequence[int]]:
    config, pairs = exam.judge.evaluator.config, exam.pairs
    return {
        **more,
        "safelight": __version__,
        "prompts": len(exam.questions),
        "seeds": f"{min(pairs.seeds)} to {max(pairs.seeds)}",
        "picture size": int(pairs.real.shape[-1]),
        "reference pictures": len(pairs.reference),
        "feature space": f"{pairs.space.name}, {pairs.dimensions} dimensions kept for Fréchet "
        "distances",
        "evaluator SHA-256": exam.judge.sha256,
        "resize": f"to {config.image_size}: area average for whole factors, else antialiased "
        "bilinear",
        "text match": "none" if pairs.match is None else pairs.match.name,
        "seed of bootstraps, distractors and shuffles": pairs.seed,
    }


def _answer_tables(answers: Mapping[str, Sequence[Answer]]) -> tuple[Table, ...]:
    """All that is told of judged pictures, with a column for each set of them."""
    seen = {name: [a for a in given if a.question.split == SEEN] for name, given in answers.items()}
    mixed = any(a.question.split != SEEN for a in next(iter(answers.values())))
    # What was held out is harder in its own ways: it would blur the score of what was not.
    headline = seen if all(seen.values()) else answers
    note = f"{_COMPOSITION} {_SEEN_ONLY}" if headline is seen and mixed else _COMPOSITION
    return (
        _composition_table({name: score(given) for name, given in headline.items()}, note),
        _checks_table({name: score(given) for name, given in answers.items()}),
        _splits_table({name: answers[name] for name in BY_SPLIT if name in answers}),
    )


def _composition_table(scores: Mapping[str, Composition], note: str) -> Table:
    rows: dict[str, list[Cell]] = {OVERALL: [found.overall for found in scores.values()]}
    for category in CATEGORIES:
        cells: list[Cell] = [found.categories.get(category) for found in scores.values()]
        if any(cell is not None for cell in cells):
            rows[category] = cells
    rows[STRICT] = [found.strict for found in scores.values()]
    return Table("Composition", tuple(scores), rows, note)


_COMPOSITION = (
    "In the shape of GenEval (Ghosh et al. 2023), with our own judge and prompts: the numbers do "
    "not compare with those of that benchmark."
)
_SEEN_ONLY = "Prompts of the split `seen` alone; for what was held out see the table by split."


def _checks_table(scores: Mapping[str, Composition]) -> Table:
    rows = {}
    for check in CHECKS:
        cells: list[Cell] = [found.checks.get(check) for found in scores.values()]
        if any(cell is not None for cell in cells):
            rows[check] = cells
    return Table(
        "Single facts", tuple(scores), rows, "Over all prompts that state them, in any category."
    )


def _splits_table(answers: Mapping[str, Sequence[Answer]]) -> Table:
    """For each split a row of the model, and below it one of each ceiling on the same prompts."""
    rows: dict[str, list[Cell]] = {}
    found = dict.fromkeys(a.question.split for a in next(iter(answers.values())))
    for split in sorted(found, key=lambda name: name != SEEN):
        for name, given in answers.items():
            part = score([a for a in given if a.question.split == split])
            title = split if name == MODEL else f"{split}, {name}"
            rows[title] = [part.overall, *(part.checks.get(c) for c in CHECKS), part.strict]
    return Table("By split", ("mean of categories", *CHECKS, STRICT), rows)


def _distance_table(measures: Mapping[str, Measures], exam: Exam) -> Table:
    pairs, space = exam.pairs, exam.pairs.space.name
    found = [m.distances for m in measures.values()]
    rows: dict[str, list[Cell]] = {
        f"{space} KID": [d.kernel for d in found],
        f"{space} Fréchet": [d.frechet for d in found],
    }
    for name in ("precision", "recall", "density", "coverage"):
        rows[f"{name} (k={pairs.neighbours})"] = [
            None if d.coverage is None else float(getattr(d.coverage, name)) for d in found
        ]
    rows["true concept among 100"] = [m.concept_precision for m in measures.values()]
    if pairs.match is not None:
        rows[f"R-precision ({pairs.match.name})"] = [m.r_precision for m in measures.values()]
        rows[f"CLIP score ({pairs.match.name})"] = [m.clip_score for m in measures.values()]
    return Table("Distances and text match", tuple(measures), rows)


def _sheets(pictures: Tensor, exam: Exam, answers: Sequence[Answer]) -> dict[str, bytes]:
    """The first pictures as they come, the real ones beside, and the first that are not right."""
    first = slice(0, SHOWN)
    sheets = {
        "pictures.png": sheet(pictures[first], captions=exam.pairs.prompts[first]),
        "real.png": sheet(exam.pairs.real[first], captions=exam.pairs.prompts[first]),
    }
    wrong = [i for i, answer in enumerate(answers) if not answer.right][:SHOWN]
    if wrong:
        captions = [exam.pairs.prompts[i] for i in wrong]
        sheets["not-right.png"] = sheet(pictures[wrong], captions=captions)
    return sheets
