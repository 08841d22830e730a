#!/usr/bin/env python3
"""Whether CLIP guidance makes pictures that an independent judge, too, finds to fit better.

    python scripts/embedded/clip_guidance.py --cutouts data/emoji-pairs --scale 1 4

Captions of single things, seen and held out, are drawn without and with --clip-guidance of each
scale, each pair with the same seed. Two judges look at them: the evaluator, which learned from real
pictures alone and shares nothing with the CLIP, and the CLIP itself, which is what was climbed.
Each is asked which of all the things that the evaluator knows the picture shows. What was drawn is
kept in --out; a run that was stopped goes on, and one with other scales goes on as well.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from held_out import (
    Bench,
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
    seconds_of,
    shown_rows,
    weights_of,
    with_error,
)
from torch import Tensor

from safelight.cli.evaluate_questions import SEEN, Asked
from safelight.clip.pair import ClipPair
from safelight.errors import RequestError
from safelight.evaluation.report import Table, table_lines
from safelight.measures.facts import Facts
from safelight.tasks.request import Request
from safelight.tasks.seeing import clip_of
from safelight.tasks.supplies import Supplies
from safelight.training.scenes.catalogue import HELDOUT_COMBO
from safelight.writing import write_whole

SPLITS = (SEEN, HELDOUT_COMBO, "heldout_background")
REAL, PLAIN = "real pictures", "without"


@dataclass(frozen=True, slots=True)
class Guided:
    """Guidance by CLIP of one scale."""

    scale: float
    gradient: str

    @property
    def kind(self) -> str:
        """What files and columns call it."""
        return f"{self.gradient} {self.scale:g}"

    @property
    def settings(self) -> dict[str, object]:
        """What a request says of it."""
        return {"clip_guidance": {"scale": self.scale, "gradient": self.gradient}}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the two judges say of N pictures, each of its own concept: (N,) each.

    likely: the logarithm of the probability of the right one among all concepts; first: whether it
    is the most likely, 0 or 1. cosine: the CLIP's, of the picture with its whole prompt.
    """

    evaluator_likely: Tensor
    evaluator_first: Tensor
    clip_likely: Tensor
    clip_first: Tensor
    cosine: Tensor


MEASURES: Mapping[str, str] = {
    "evaluator_likely": "evaluator: log-probability of the concept",
    "evaluator_first": "evaluator: concept named first",
    "clip_likely": "CLIP: log-probability of the concept",
    "clip_first": "CLIP: concept named first",
    "cosine": "CLIP: cosine with the prompt (what is climbed)",
}


def single(facts: Facts) -> bool:
    """Whether one thing alone is asked for."""
    return len(facts.hexcodes) == 1 and facts.count == 1


def items_of(desk: Bench, count: int, seed: int) -> list[Asked]:
    """Captions of single things, seen and held out."""
    found = [i for i in desk.asked(SPLITS, 4 * count, seed=seed) if single(i.question.facts)]
    if len(found) < count:
        raise RequestError(f"only {len(found)} captions of single things were found; lower --count")
    return found[:count]


def jobs_of(
    items: Sequence[Asked],
    out: Path,
    seed: int,
    settings: Mapping[str, object],
    ways: Sequence[Guided],
) -> list[Job]:
    """Each caption drawn without guidance and in every way, with one seed."""
    kinds: dict[str, dict[str, object]] = {PLAIN: {}, **{way.kind: way.settings for way in ways}}
    return [
        Job(
            file_of(out, number, kind),
            Request.parse(
                {
                    **settings,
                    **guidance,
                    "prompt": item.question.prompt,
                    "seed": seed + number,
                    "dialect": "plain",
                }
            ),
        )
        for number, item in enumerate(items)
        for kind, guidance in kinds.items()
    ]


def file_of(out: Path, number: int, kind: str) -> Path:
    """The file of one drawing."""
    return out / f"{number:04}-{kind.replace(' ', '-')}.png"


@torch.no_grad()
def verdict(
    desk: Bench, pair: ClipPair, items: Sequence[Asked], pictures: Sequence[Pixels]
) -> Verdict:
    """What both judges say of pictures, in the order of their items."""
    codes = desk.judge.labels.concepts
    place = {code: number for number, code in enumerate(codes)}
    own = torch.tensor([place[item.question.facts.hexcodes[0]] for item in items])
    images = as_batch(pictures)
    concepts = desk.judge.evaluator(images).concepts
    seen = pair.embed_pictures(images)
    named = seen @ pair.embed_texts(names_of(desk)).T / pair.temperature
    prompts = pair.embed_texts([item.question.prompt for item in items])
    return Verdict(
        _likely(concepts, own),
        _first(concepts, own),
        _likely(named, own),
        _first(named, own),
        (seen * prompts).sum(dim=1),
    )


def names_of(desk: Bench) -> list[str]:
    """The plain name of each concept that the evaluator knows, in its order."""
    names: dict[str, str] = {}
    for entry in desk.cutouts.entries:
        names.setdefault(entry.hexcode, entry.name)
    return [names.get(code, code) for code in desk.judge.labels.concepts]


def _likely(logits: Tensor, own: Tensor) -> Tensor:
    return logits.double().log_softmax(dim=1).gather(1, own[:, None])[:, 0]


def _first(logits: Tensor, own: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == own).double()


def table_of(told: Mapping[str, Verdict]) -> Table:
    """The verdicts on every way to draw, and for guided ones the paired difference to the plain."""
    columns: list[str] = []
    rows: dict[str, list[str]] = {field: [] for field in MEASURES}
    for kind, said in told.items():
        guided = kind not in (REAL, PLAIN)
        columns += [f"scale {kind}", "difference"] if guided else [kind]
        for field in MEASURES:
            values = getattr(said, field)
            rows[field].append(with_error(values))
            if guided:
                rows[field].append(paired(getattr(told[PLAIN], field), values))
    named = {name: rows[field] for field, name in MEASURES.items()}
    return Table(f"{len(told[PLAIN].cosine)} captions", tuple(columns), named)


def cost_of(items: Sequence[Asked], out: Path, ways: Sequence[Guided]) -> str:
    """How long a picture took without and with guidance, in words."""

    def median(values: Sequence[float]) -> float:
        return float(torch.tensor(values).median())

    numbers = range(len(items))
    told = [f"{median([seconds_of(file_of(out, n, PLAIN)) for n in numbers]):.2f} {PLAIN}"]
    for way in ways:
        files = [file_of(out, n, way.kind) for n in numbers]
        own = median([figure(file, "CLIP guidance seconds") or 0.0 for file in files])
        whole = median([seconds_of(file) for file in files])
        told.append(f"{whole:.2f} with {way.kind}, of which {own:.2f} for the CLIP's gradient")
    return f"Seconds a picture (median): {'; '.join(told)}."


def measured(given: argparse.Namespace) -> str:
    """Measure and draw what is asked for; the table."""
    ways = [Guided(scale, given.gradient) for scale in given.scale]
    wanted = {"steps": given.steps, "cfg_scale": given.cfg}
    settings = {name: value for name, value in wanted.items() if value is not None}
    desk = bench(given.cutouts, given.model)
    items = items_of(desk, given.count, given.seed)
    how = {"count": given.count, "seed": given.seed, **settings}
    begin(given.out, {**how, **weights_of(desk.model)})
    draw(desk.model, jobs_of(items, given.out, given.seed, settings, ways))
    made = {
        kind: [pixels_of(file_of(given.out, n, kind)) for n in range(len(items))]
        for kind in (PLAIN, *(way.kind for way in ways))
    }
    pair = clip_of(Request(prompt=""), desk.model, Supplies(), "the other judge")
    told = {
        kind: verdict(desk, pair, items, pictures)
        for kind, pictures in {REAL: desk.real(items), **made}.items()
    }
    write_whole(given.out / "sheet.png", shown_rows(items, made))
    return "\n".join([*table_lines(table_of(told)), "", cost_of(items, given.out, ways)])


def main() -> int:
    parser = arguments(__doc__, count=64, out="out/clip-guidance")
    parser.add_argument("--scale", type=float, nargs="+", default=[4.0], help="of the guidance [4]")
    parser.add_argument("--gradient", default="through", choices=("through", "estimate"))
    parser.add_argument("--cfg", type=float, help="guidance by the prompt itself [the model's]")
    given = parser.parse_args()
    return reported(given.out, lambda: measured(given))


if __name__ == "__main__":
    sys.exit(main())
