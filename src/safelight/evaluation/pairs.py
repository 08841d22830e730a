"""Captions with pictures, real and drawn, and what is measured of them whatever they show.

Every evaluation rests on these: that of ordinary data alone, that of questions with known facts
besides what a judge says of each picture.

Shapes: N captions, R reference pictures, S pixels of a side, D features, P width of a joint space.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.evaluation.coverage import Coverage, coverage
from safelight.evaluation.frechet import DIMENSIONS, FrechetDistance, frechet
from safelight.evaluation.intervals import Estimate, Share
from safelight.evaluation.kernel import kernel_distance
from safelight.evaluation.retrieval import clip_score, r_precision

Draw = Callable[[Sequence[str], Sequence[int]], Tensor]
"""Prompts and a seed for each -> pictures (B, 3, S, S) in [-1, 1]."""


@dataclass(frozen=True)
class Space:
    """A net whose features stand for pictures: (B, 3, S, S) in [-1, 1] -> (B, D)."""

    name: str
    features: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TextMatch:
    """A net that puts pictures and texts into one space: (B, 3, S, S) and B texts -> (B, P)."""

    name: str
    pictures: Callable[[Tensor], Tensor]
    texts: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Pairs:
    """Captions with a seed and a real picture each, and other real pictures of the same kind.

    real (N, 3, S, S) in the order of the prompts, reference (R, 3, S, S), in [-1, 1] on the device
    of the nets. The reference is drawn independently of the captions: pictures of the very same
    facts would be nearer to each other than chance has it.
    Raises RequestError if the numbers do not agree, or a set is too small.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    real: Tensor
    reference: Tensor
    space: Space
    match: TextMatch | None = None
    dimensions: int = DIMENSIONS
    neighbours: int = 5
    batch: int = 64
    seed: int = 0  # of bootstraps, distractors and shuffles

    def __post_init__(self) -> None:
        counts = (len(self.prompts), len(self.seeds), len(self.real))
        if len(set(counts)) > 1 or counts[0] == 0:
            raise RequestError(
                f"{counts[0]} captions came with {counts[1]} seeds and {counts[2]} pictures; give "
                "one of each, and one or more"
            )
        if len(self.reference) <= self.neighbours:
            raise RequestError(
                f"{len(self.reference)} reference pictures are too few; give more than "
                f"{self.neighbours}, better some hundreds"
            )

    @property
    def device(self) -> torch.device:
        """Where the pictures lie."""
        return self.real.device


@dataclass(frozen=True)
class Distances:
    """How far a set of pictures is from the reference; None is what too few cannot tell."""

    kernel: Estimate
    frechet: FrechetDistance | None
    coverage: Coverage | None


@torch.no_grad()
def drawn(draw: Draw, pairs: Pairs) -> Tensor:
    """The pictures of all captions, (N, 3, S, S) in [-1, 1], drawn in batches.

    Raises RequestError if what was drawn are not such pictures.
    """
    parts = []
    for start in range(0, len(pairs.prompts), pairs.batch):
        rows = slice(start, start + pairs.batch)
        pictures = draw(pairs.prompts[rows], pairs.seeds[rows])
        shape, count = tuple(pictures.shape), len(pairs.prompts[rows])
        if len(shape) != 4 or shape[:2] != (count, 3) or shape[2] != shape[3]:
            raise RequestError(
                f"{count} square pictures ({count}, 3, S, S) were to be drawn; got {shape}"
            )
        parts.append(pictures.float().clamp(-1, 1).to(pairs.device))
    return torch.cat(parts)


def recoded(again: Callable[[Tensor], Tensor], pairs: Pairs) -> Tensor:
    """The real pictures (N, 3, S, S) after they went through an autoencoder."""
    parts = [again(part) for part in pairs.real.split(pairs.batch)]
    return torch.cat(parts).float().clamp(-1, 1)


def features(pictures: Tensor, pairs: Pairs) -> Tensor:
    """What the named net sees in pictures, (N, D)."""
    return torch.cat([pairs.space.features(part) for part in pictures.split(pairs.batch)])


def distances(seen: Tensor, reference: Tensor, pairs: Pairs) -> Distances:
    """How far features (N, D) of pictures are from those of the reference (R, D)."""
    fewest, kept = min(len(seen), len(reference)), min(pairs.dimensions, seen.shape[1])
    return Distances(
        kernel_distance(reference, seen, seed=pairs.seed),
        frechet(reference, seen, dimensions=kept) if fewest > kept else None,
        coverage(reference, seen, neighbours=pairs.neighbours)
        if fewest > pairs.neighbours
        else None,
    )


def matched(
    pictures: Tensor, pairs: Pairs, said: Sequence[frozenset[str]], candidates: int
) -> tuple[Share | None, Estimate | None]:
    """R-precision among the captions, and the CLIP score; None without a net for texts.

    said: what each caption names; captions that share something are no distractors of each other.
    candidates: captions to choose from; with fewer than two there is no R-precision.
    """
    match = pairs.match
    if match is None:
        return None, None
    seen = torch.cat([match.pictures(part) for part in pictures.split(pairs.batch)])
    starts = range(0, len(pairs.prompts), pairs.batch)
    texts = torch.cat([match.texts(pairs.prompts[at : at + pairs.batch]) for at in starts])
    precise = None
    if candidates > 1:
        rows = range(len(pairs.prompts))
        precise = r_precision(seen, texts, rows, said, candidates=candidates, seed=pairs.seed)
    return precise, clip_score(seen, texts, seed=pairs.seed)
