"""The part of a report that says whether training pictures come back."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.evaluation.exam import Exam
from safelight.evaluation.intervals import Share
from safelight.evaluation.memorisation import (
    Memorisation,
    Nearest,
    calibrated,
    extraction,
    foregrounds,
    memorisation,
    nearest,
    nearest_aligned,
)
from safelight.evaluation.pairs import Draw, features
from safelight.evaluation.report import Cell, Table
from safelight.evaluation.sheets import sheet

WORST = 16  # pairs shown
# samples, references, whether the two are one set
Search = Callable[[Tensor, Tensor, bool], Nearest]


@dataclass(frozen=True)
class Memory:
    """What copies are looked for among, and captions that might bring them out.

    training (M, 3, S, S) and held_out (H, 3, S, S): real pictures. captions: those of training
    pictures, and held-out ones for comparison, each drawn with `tries` seeds; either may be empty.
    """

    training: Tensor
    held_out: Tensor
    captions: tuple[str, ...] = ()
    held_out_captions: tuple[str, ...] = ()
    tries: int = 4


@torch.no_grad()
def memory_table(exam: Exam, draw: Draw, pictures: Tensor, memory: Memory) -> Table:
    """How near the pictures come to the training set, in features and in aligned pixels."""
    tried = {
        name: _tried(exam, draw, captions, memory.tries)
        for name, captions in (
            ("training captions", memory.captions),
            ("held-out captions", memory.held_out_captions),
        )
        if captions
    }
    searches = {exam.pairs.space.name: by_features(exam), "aligned pixels": by_pixels()}
    found: list[Memorisation] = []
    copies: dict[str, list[Cell]] = {}
    for space, search in searches.items():
        real = search(memory.held_out, memory.training, False)
        thresholds = calibrated(real.distance)
        found.append(_searched(space, search, pictures, memory, thresholds, exam.pairs.seed))
        for name, samples in tried.items():
            distance = search(samples, memory.training, False).distance.view(-1, memory.tries)
            share = extraction(distance, thresholds[""])
            _add(copies, f"copies, {name}: samples", share.samples)
            _add(copies, f"copies, {name}: captions with one", share.captions)
    rows: dict[str, list[Cell]] = {
        "nearer than the threshold": [m.below for m in found],
        "the same of held-out real pictures, by calibration": [m.expected for m in found],
        "threshold": [m.thresholds[""] for m in found],
        "distance to training over to held-out, median": [m.ratio for m in found],
        "the same of held-out real pictures": [m.real_ratio for m in found],
    }
    return Table("Memorisation", tuple(searches), rows | copies, _NOTE)


_NOTE = (
    "The threshold is the distance to the training set that one held-out real picture of a hundred "
    "falls below; a sample nearer than that counts as a near-copy. Pixels are compared without "
    "their background, mirrored too, and shifted by up to two pixels at 64 x 64."
)


@torch.no_grad()
def worst_pairs(exam: Exam, pictures: Tensor, memory: Memory) -> bytes:
    """A PNG of the pictures nearest to a training picture, each above that picture."""
    found = by_features(exam)(pictures, memory.training, False)
    order = found.distance.argsort()[:WORST].tolist()
    theirs = [int(found.index[i]) for i in order]
    both = torch.cat([pictures[order], memory.training[theirs].to(pictures)])
    captions = [f"{float(found.distance[i]):.3g} {exam.pairs.prompts[i]}" for i in order]
    return sheet(both, columns=len(order), captions=[*captions, *["(training)"] * len(order)])


def by_features(exam: Exam) -> Search:
    """The search in the evaluator's features."""
    seen = remembered(lambda pictures: features(pictures, exam.pairs))

    def search(samples: Tensor, references: Tensor, same: bool) -> Nearest:
        return nearest(seen(samples), seen(references), apart_from_self=same)

    return search


def by_pixels() -> Search:
    """The search in pixels without background."""

    @remembered
    def plain(pictures: Tensor) -> Tensor:
        return torch.cat([foregrounds(part) for part in pictures.split(256)])

    def search(samples: Tensor, references: Tensor, same: bool) -> Nearest:
        return nearest_aligned(plain(samples), plain(references), apart_from_self=same)

    return search


def remembered(make: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function, computed once for each tensor: the training set is searched many times."""
    known: dict[int, tuple[Tensor, Tensor]] = {}  # keeping a tensor keeps its id its own

    def made(pictures: Tensor) -> Tensor:
        if id(pictures) not in known:
            known[id(pictures)] = (pictures, make(pictures))
        return known[id(pictures)][1]

    return made


def _searched(
    space: str,
    search: Search,
    pictures: Tensor,
    memory: Memory,
    thresholds: dict[str, float],
    seed: int,
) -> Memorisation:
    # As many training as held-out pictures, or the larger set would be nearer by chance.
    order = torch.randperm(len(memory.training), generator=torch.Generator().manual_seed(seed))
    some = memory.training[order[: len(memory.held_out)].to(memory.training.device)]
    return memorisation(
        space,
        search(pictures, memory.training, False),
        thresholds,
        (search(pictures, some, False), search(pictures, memory.held_out, False)),
        real=(
            search(memory.held_out, some, False),
            search(memory.held_out, memory.held_out, True),
        ),
        worst=WORST,
        seed=seed,
    )


def _tried(exam: Exam, draw: Draw, captions: tuple[str, ...], tries: int) -> Tensor:
    """`tries` pictures of each caption, those of one caption in a row."""
    asked = [(caption, seed) for caption in captions for seed in range(tries)]
    parts = []
    for start in range(0, len(asked), exam.pairs.batch):
        prompts, seeds = zip(*asked[start : start + exam.pairs.batch], strict=True)
        parts.append(draw(prompts, seeds).float().clamp(-1, 1).to(exam.pairs.device))
    return torch.cat(parts)


def _add(rows: dict[str, list[Cell]], name: str, share: Share) -> None:
    rows.setdefault(name, []).append(share)
