#!/usr/bin/env python3
"""What settings that save work do to pictures: time, distance from the exact ones, and what a judge
sees in them.

    python scripts/drift.py --cutouts cutouts.safetensors --out drift.jsonl --minutes 9
    python scripts/drift.py --out drift.jsonl --table

Prompts are those of `safelight evaluate`, the model is the embedded one with its judge. Each prompt
is drawn with every setting in turn, so that other load meets all of them alike; times are told
relative to the exact picture of the same prompt. PSNR is that of bytes against the exact picture.
Cut off, the same command goes on where it stood. Settings are written as the fields of a request:

    --setting reuse.steps=0.1,reuse.guidance=0.2 --setting steps=10
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from safelight.checkpoints.evaluator_folder import LoadedEvaluator, load_evaluator
from safelight.cli.evaluate_questions import asked
from safelight.cli.evaluate_scenes import cutouts_at
from safelight.embedded.carried import embedded_folder
from safelight.evaluation.composition import Question, judged
from safelight.model import Model
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request

EXACT = "exact"
SETTINGS = (
    "steps=10",
    "sampler=unipc,steps=12",
    "sampler=unipc,steps=10",
    "sampler=unipc,steps=8",
    "dtype=bf16",
    "dtype=bf16,sampler=unipc,steps=10",
    "engine=openvino-int8",
    "sampler=unipc,steps=12,reuse.every=2",
    "reuse.every=2",
    "reuse.steps=0.1,reuse.guidance=0.2",
    "token_merging.ratio=0.5",
)


def mapping(text: str) -> dict[str, object]:
    """reuse.steps=0.1,steps=10 as the nested settings of a request."""
    found: dict[str, object] = {}
    for part in text.split(",") if text != EXACT else ():
        name, _, value = part.partition("=")
        *groups, last = name.split(".")
        group = found
        for outer in groups:
            inner = group.setdefault(outer, {})
            assert isinstance(inner, dict), outer
            group = inner
        group[last] = value
    return found


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """In decibels; 99 for equal pictures."""
    error = float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean())
    return 99.0 if error == 0 else min(99.0, 10 * math.log10(255**2 / error))


def measured(
    picture: Picture, exact: Picture, question: Question, judge: LoadedEvaluator
) -> dict[str, object]:
    """One line of the results."""
    pixels = torch.from_numpy(picture.pixels.copy()).movedim(-1, 0)[None].float() / 127.5 - 1
    (answer,) = judged(pixels, [question], judge.evaluator, judge.labels)
    figures = {figure.name: figure for figure in picture.recipe.result.figures}
    calls = figures.get("network calls")
    most = 2 * picture.recipe.result.steps
    change = figures.get("largest measured change")
    return {
        "psnr": round(psnr(picture.pixels, exact.pixels), 3),
        "seconds": picture.recipe.seconds,
        "ratio": (picture.recipe.seconds or 0) / (exact.recipe.seconds or 1),
        "calls": most if calls is None else calls.value,
        "change": None if change is None else change.value,
        "checks": dict(answer.checks),
    }


def way(request: Request) -> tuple[str, str]:
    """What decides how a model is opened: its number type and engine."""
    return request.dtype, request.engine


def opened(settings: Sequence[str]) -> dict[tuple[str, str], Model]:
    """The embedded model in each number type, and by each engine, that settings name."""
    found: dict[tuple[str, str], Model] = {}
    for setting in (EXACT, *settings):
        named = mapping(setting)
        told: dict[str, object] = {"prompt": "", "model": "embedded"}
        told |= {name: named[name] for name in ("dtype", "engine") if name in named}
        request = Request.parse(told)
        if way(request) not in found:
            found[way(request)] = Models().of(request)
    return found


def lines(
    models: Mapping[tuple[str, str], Model],
    judge: LoadedEvaluator,
    questions: Sequence[Question],
    settings: Sequence[str],
    seed: int,
    done: set[int],
) -> Iterator[dict[str, object]]:
    """Prompt by prompt, each drawn with all settings."""
    for number, question in enumerate(questions):
        if number in done:
            continue
        base = {"prompt": question.prompt, "dialect": "plain", "seed": seed + number}
        plain = Request.parse(base)
        (exact,) = generate(models[way(plain)], plain)
        for setting in (EXACT, *settings):
            picture = exact
            if setting != EXACT:
                request = Request.parse({**base, **mapping(setting)})
                (picture,) = generate(models[way(request)], request)
            row = measured(picture, exact, question, judge)
            yield {"prompt": number, "setting": setting, **row}


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """The results by setting, as Markdown."""
    found: dict[str, list[Mapping[str, object]]] = {}
    for row in rows:
        found.setdefault(str(row["setting"]), []).append(row)
    text = [
        "| setting | network calls | time | PSNR median | PSNR worst | largest change | concept "
        "first | among five | all checks |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for setting, own in found.items():
        numbers = {k: [float(r[k]) for r in own] for k in ("psnr", "ratio", "calls")}  # type: ignore[arg-type]
        changes = [float(r["change"]) for r in own if r["change"] is not None]  # type: ignore[arg-type]
        checks = [check for r in own for check in r["checks"].values()]  # type: ignore[attr-defined]
        cells = [
            f"`{setting}`",
            f"{statistics.mean(numbers['calls']):.1f}",
            f"{statistics.median(numbers['ratio']):.2f}",
            f"{statistics.median(numbers['psnr']):.1f}",
            f"{min(numbers['psnr']):.1f}",
            f"{max(changes):.3f}" if changes else "",
            _share(own, "concept"),
            _share(own, "concept top 5"),
            f"{100 * statistics.mean(map(float, checks)):.1f} %",
        ]
        text.append(f"| {' | '.join(cells)} |")
    prompts = len({row["prompt"] for row in rows})
    return "\n".join([*text, "", f"{prompts} prompts, each with every setting in turn."])


def _share(rows: Sequence[Mapping[str, object]], check: str) -> str:
    seen = [r["checks"][check] for r in rows if check in r["checks"]]  # type: ignore[index,operator]
    return f"{100 * statistics.mean(map(float, seen)):.1f} %" if seen else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cutouts", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=104)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--setting", action="append")
    parser.add_argument("--table", action="store_true", help="print the table alone")
    given = parser.parse_args()
    rows = _read(given.out)
    if not given.table:
        rows = _measure(given, rows)
    print(table(rows))
    return 0


def _measure(
    given: argparse.Namespace, rows: list[Mapping[str, object]]
) -> list[Mapping[str, object]]:
    folder = embedded_folder()
    assert folder is not None, "this installation carries no model"
    until = time.monotonic() + 60 * given.minutes
    judge = load_evaluator(folder / "evaluator")
    known = {*judge.labels.concepts, *judge.labels.styles}
    scenes = asked(cutouts_at(given.cutouts), ("seen",), given.count, seed=given.seed, known=known)
    questions = [item.question for item in scenes]
    settings = tuple(given.setting or SETTINGS)
    models = opened(settings)
    whole = {n for n in range(given.count) if _count(rows, n) == 1 + len(settings)}
    rows = [row for row in rows if row["prompt"] in whole]
    own: list[dict[str, object]] = []
    for row in lines(models, judge, questions, settings, given.seed, whole):
        own.append(row)
        if len(own) == 1 + len(settings):
            rows += own
            own = []
            text = "".join(json.dumps(line) + "\n" for line in rows)
            given.out.write_text(text)
            if time.monotonic() > until:
                break
    return rows


def _count(rows: Sequence[Mapping[str, object]], prompt: int) -> int:
    return sum(row["prompt"] == prompt for row in rows)


def _read(path: Path) -> list[Mapping[str, object]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
