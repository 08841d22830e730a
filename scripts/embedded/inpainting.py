#!/usr/bin/env python3
"""Whether inpainting fits its surroundings better than a picture pasted into the mask.

    python scripts/embedded/inpainting.py --cutouts data/emoji-pairs

Real held-out pictures get random masks. The masked part is painted by `safelight edit --mask`, and
by the same model without being told of the mask: its picture of the same words, seed and steps is
blended into the mask by the same soft edge, and once more with its colours matched to what is
around it, as inpainting has. All that once from words alone (strength 1, the masked part filled
with colours from around it, so that no way sees what was there), and once over the picture
(strength 0.75). Squares around the masks are compared with those of other real held-out pictures,
in the evaluator's features. What was drawn is kept in --out; a run that was stopped goes on.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from held_out import (
    HELD_OUT,
    Bench,
    Job,
    Pixels,
    arguments,
    as_batch,
    begin,
    bench,
    draw,
    paired,
    pixels_of,
    reported,
    weights_of,
    with_error,
)
from masked import kernel_gain, masked_part, random_mask
from torch import Tensor

from safelight.canvas.fill import bled
from safelight.canvas.seam import seam
from safelight.errors import RequestError
from safelight.evaluation.exam import judge_space
from safelight.evaluation.kernel import kernel_distance
from safelight.evaluation.report import Cell, Table, table_lines
from safelight.evaluation.sheets import sheet
from safelight.models.evaluator import at_size
from safelight.tasks.generate import settled
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.tasks.work import finished, work_of
from safelight.writing import write_whole

REFERENCE = 2000  # other real pictures that distances are taken from
SHOWN = 8  # cases on the sheet
# What is drawn of each case: at which strength over the real picture, and what its mask holds.
DRAWN: Mapping[str, tuple[float | None, str | None]] = {
    "told": (1.0, "fill"),
    "text": (None, None),
    "told-over": (0.75, "original"),
    "over": (0.75, None),
}


@dataclass(frozen=True, slots=True)
class Way:
    """What is judged: a drawing, and how it comes into the picture.

    pasted_as: the inpainting whose mask and soft edge it is pasted in by, for a drawing that knew
    no mask; None for inpainting itself. matched: with its colours matched to what is around.
    """

    drawn: str
    pasted_as: str | None = None
    matched: bool = False


WAYS: Mapping[str, Way] = {
    "inpainting": Way("told"),
    "blend only, drawn from words": Way("text", "told"),
    "the same, colours matched": Way("text", "told", matched=True),
    "inpainting, strength 0.75": Way("told-over"),
    "blend only, image to image, strength 0.75": Way("over", "told-over"),
    "the same, colours matched, strength 0.75": Way("over", "told-over", matched=True),
}
REAL, FILLED = "the real picture", "colours bled in, nothing drawn"
_NEW, _OVER = tuple(WAYS)[:3], tuple(WAYS)[3:]
RIVALS = tuple((ways[0], other) for ways in (_NEW, _OVER) for other in ways[1:])


@dataclass(frozen=True, eq=False)
class Case:
    """A real picture, its words, and the part of it that is painted."""

    prompt: str
    seed: int
    real: Pixels
    mask: Pixels

    @property
    def names(self) -> tuple[str, str]:
        """What requests call the picture and the mask."""
        return f"{self.seed}-real.png", f"{self.seed}-mask.png"

    @property
    def pictures(self) -> dict[str, Pixels]:
        """The two pictures under their names."""
        return dict(zip(self.names, (self.real, self.mask), strict=True))

    def request(self, kind: str, settings: Mapping[str, object]) -> Request:
        """How one kind of DRAWN is drawn of this case."""
        (strength, content), (source, mask) = DRAWN[kind], self.names
        wanted: dict[str, object] = {"prompt": self.prompt, "seed": self.seed, "dialect": "plain"}
        if strength is not None:
            wanted["source"] = {"picture": source, "strength": strength}
        if content is not None:
            wanted["mask"] = {"picture": mask, "content": content}
        return Request.parse({**settings, **wanted})


def cases_of(desk: Bench, count: int, seed: int) -> list[Case]:
    """Held-out pictures with random masks: the same for the same seed."""
    items = desk.asked(HELD_OUT, count, seed=seed)
    return [
        Case(item.question.prompt, seed + k, real, random_mask(desk.side, seed + k))
        for k, (item, real) in enumerate(zip(items, desk.real(items), strict=True))
    ]


def jobs_of(cases: Sequence[Case], out: Path, settings: Mapping[str, object]) -> list[Job]:
    """Every kind of every case, each in a file of its own."""
    return [
        Job(file_of(out, number, kind), case.request(kind, settings), case.pictures)
        for number, case in enumerate(cases)
        for kind in DRAWN
    ]


def file_of(out: Path, number: int, kind: str) -> Path:
    """The file of one drawing."""
    return out / f"{number:04}-{kind}.png"


def painted(desk: Bench, case: Case, drawn: Mapping[str, Pixels], way: str) -> Pixels:
    """What one of WAYS makes of a case; a drawing that knew no mask is put in as inpainting is."""
    how = WAYS[way]
    if how.pasted_as is None:
        return drawn[how.drawn]
    supplies = Supplies(case.pictures)
    (request,) = settled(case.request(how.pasted_as, {}), desk.model, supplies)
    assert request.mask is not None
    request = request.replace(mask=request.mask.replace(match_colour=how.matched))
    pixels, _ = finished(request, work_of(request, desk.model, supplies), drawn[how.drawn])
    return pixels


def results(desk: Bench, cases: Sequence[Case], out: Path) -> dict[str, list[Pixels]]:
    """The pictures of every way, the real ones first. Raises FileError if one is not drawn yet."""
    made: dict[str, list[Pixels]] = {name: [] for name in (REAL, *WAYS, FILLED)}
    for number, case in enumerate(cases):
        drawn = {kind: pixels_of(file_of(out, number, kind)) for kind in DRAWN}
        made[REAL].append(case.real)
        made[FILLED].append(bled(case.real, plane(case.mask)))
        for way in WAYS:
            made[way].append(painted(desk, case, drawn, way))
    return made


def plane(mask: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A mask's picture (S, S, 3) as shares (S, S)."""
    return mask[..., 0].astype(np.float32) / np.float32(255)


def tables(
    desk: Bench, cases: Sequence[Case], made: Mapping[str, Sequence[Pixels]], seed: int
) -> tuple[Table, Table]:
    """How far each way is from real pictures, and how much farther off its rivals are.

    The kernel distances are to other real pictures; the third column is the mean square between the
    features of a masked part and of the same part of its own real picture.
    """
    others = cases_of(desk, max(len(cases), REFERENCE), seed + 2**32)
    parts, wholes = _features(desk, others, [case.real for case in others])
    seen = {name: _features(desk, cases, pictures) for name, pictures in made.items()}
    own = {name: (part - seen[REAL][0]).square().mean(dim=1) for name, (part, _) in seen.items()}
    space = judge_space(desk.judge).name
    columns = (f"masked part, KID ({space})", "whole picture, KID", "from its own real part")
    told: dict[str, Sequence[Cell]] = {
        name: (
            kernel_distance(parts, part, seed=seed),
            kernel_distance(wholes, whole, seed=seed),
            with_error(own[name]),
            _seams(cases, made[name]),
        )
        for name, (part, whole) in seen.items()
    }
    gained: dict[str, Sequence[Cell]] = {
        f"{other} - {one}": (
            kernel_gain(parts, seen[one][0], seen[other][0], seed=seed),
            kernel_gain(wholes, seen[one][1], seen[other][1], seed=seed),
            paired(own[one], own[other]),
        )
        for one, other in RIVALS
    }
    return (
        Table(f"Masked parts of {len(cases)} held-out pictures", (*columns, "seam"), told),
        Table("How much farther off", columns, gained),
    )


@torch.no_grad()
def _features(
    desk: Bench, cases: Sequence[Case], pictures: Sequence[Pixels]
) -> tuple[Tensor, Tensor]:
    """The judge's features (N, D) of the masked parts, and of the whole pictures."""
    space, size = judge_space(desk.judge), desk.judge.evaluator.config.image_size
    parts = [
        at_size(as_batch([masked_part(picture, case.mask)]), size)
        for case, picture in zip(cases, pictures, strict=True)
    ]
    return space.features(torch.cat(parts)), space.features(at_size(as_batch(pictures), size))


def _seams(cases: Sequence[Case], pictures: Sequence[Pixels]) -> float:
    """The median jump across the mask's border, as a multiple of the picture's own."""
    ratios = [
        seam(picture, plane(case.mask), case.real).ratio
        for case, picture in zip(cases, pictures, strict=True)
    ]
    return float(np.median(ratios))


def shown_cases(cases: Sequence[Case], made: Mapping[str, Sequence[Pixels]]) -> bytes:
    """A sheet of the first cases: a row for each, the mask and then every way."""
    few = range(min(SHOWN, len(cases)))
    pictures = [p for k in few for p in (cases[k].mask, *(rows[k] for rows in made.values()))]
    captions = [c for k in few for c in (cases[k].prompt, *made)]
    return sheet(as_batch(pictures), columns=1 + len(made), captions=captions, lines=3)


def measured(given: argparse.Namespace) -> str:
    """Measure and draw what is asked for; the table."""
    settings = {"steps": given.steps} if given.steps is not None else {}
    if given.count < 4:
        raise RequestError(f"--count must be 4 or more; got {given.count}.")
    desk = bench(given.cutouts, given.model)
    how = {"count": given.count, "seed": given.seed, **settings, **weights_of(desk.model)}
    begin(given.out, how)
    cases = cases_of(desk, given.count, given.seed)
    draw(desk.model, jobs_of(cases, given.out, settings))
    made = results(desk, cases, given.out)
    found = tables(desk, cases, made, given.seed)
    write_whole(given.out / "sheet.png", shown_cases(cases, made))
    return "\n".join(line for table in found for line in ("", *table_lines(table)))


def main() -> int:
    parser = arguments(__doc__, count=208, out="out/inpainting")
    given = parser.parse_args()
    return reported(given.out, lambda: measured(given))


if __name__ == "__main__":
    sys.exit(main())
