"""A model's report on ordinary data: captions with real pictures, of which nothing else is known.

Distances are taken in the features of a named net, with two real sets beside; composition needs
facts (see `evaluate`) and is not judged here.

Shapes: N captions, R reference pictures, S pixels of a side, D features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.evaluation.coverage import coverage
from safelight.evaluation.evaluate import reconstruction_table
from safelight.evaluation.exam import Draw, TextMatch, drawn_of
from safelight.evaluation.frechet import DIMENSIONS, frechet
from safelight.evaluation.kernel import kernel_distance
from safelight.evaluation.reconstruction import Again
from safelight.evaluation.report import Cell, Report, Table
from safelight.evaluation.retrieval import CANDIDATES, clip_score, r_precision
from safelight.evaluation.sheets import sheet
from safelight.version import __version__

SHOWN = 64
MODEL, REAL, CODEC = "model", "real pictures", "codec ceiling"


@dataclass(frozen=True)
class Space:
    """A net whose features stand for pictures: (B, 3, S, S) in [-1, 1] -> (B, D)."""

    name: str
    features: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pairs:
    """Captions with a seed and a real picture each, and other real pictures of the same kind.

    real (N, 3, S, S) in the order of the captions, reference (R, 3, S, S), in [-1, 1] on the
    device of the nets. Raises RequestError if the numbers do not agree, or a set is too small.
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
        if len(set(counts)) > 1:
            raise RequestError(
                f"{counts[0]} captions came with {counts[1]} seeds and {counts[2]} pictures; give "
                "one of each"
            )
        fewest = min(len(self.real), len(self.reference))
        if fewest <= self.neighbours:
            raise RequestError(
                f"{len(self.real)} pictures and {len(self.reference)} for reference are too few to "
                f"compare; give more than {self.neighbours} of each, better some hundreds"
            )


@torch.no_grad()
def evaluate_pairs(
    pairs: Pairs,
    draw: Draw,
    *,
    model: str,
    unguided: Draw | None = None,
    again: Again | None = None,
    facts: Mapping[str, str | int | float] | None = None,
) -> Report:
    """The report of a model that `draw` draws with; parameters as those of `evaluate`."""

    def all_of(how: Draw) -> Tensor:
        return drawn_of(
            how, pairs.prompts, pairs.seeds, batch=pairs.batch, device=pairs.real.device
        )

    pictures = all_of(draw)
    columns = {MODEL: pictures, REAL: pairs.real}
    if again is not None:
        parts = [again(part) for part in pairs.real.split(pairs.batch)]
        columns[CODEC] = torch.cat(parts).float().clamp(-1, 1)
    if unguided is not None:
        columns["no guidance"] = all_of(unguided)
    generator = torch.Generator().manual_seed(pairs.seed)
    other = torch.randperm(len(pictures), generator=generator).roll(1)
    columns["shuffled captions"] = pictures[other.to(pictures.device)]
    tables = [_distance_table(columns, pairs)]
    if again is not None:
        tables.append(
            reconstruction_table(
                pairs.reference,
                again,
                features=pairs.space.features,
                space=pairs.space.name,
                dimensions=pairs.dimensions,
                batch=pairs.batch,
                seed=pairs.seed,
            )
        )
    shown = slice(0, SHOWN)
    return Report(
        f"Evaluation of {model}",
        _facts(pairs, facts or {}),
        tuple(tables),
        prompts=tuple(zip(pairs.prompts, pairs.seeds, strict=True)),
        pictures={
            "pictures.png": sheet(pictures[shown], captions=pairs.prompts[shown]),
            "real.png": sheet(pairs.real[shown], captions=pairs.prompts[shown]),
        },
        notes=(_HOW_TO_READ,),
    )


_HOW_TO_READ = (
    "Brackets hold intervals of 95 %. The column of real pictures is the distance of two real sets "
    "of these counts: no model can be expected below it. Shuffled captions are the floor of the "
    "text match: the model's own pictures beside other captions. Distances compare only in the "
    "same feature space and at equal counts; they are not the FID of the literature."
)


def _facts(pairs: Pairs, more: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    return {
        **more,
        "safelight": __version__,
        "captions": len(pairs.prompts),
        "reference pictures": len(pairs.reference),
        "picture size": int(pairs.real.shape[-1]),
        "seeds": f"{min(pairs.seeds)} to {max(pairs.seeds)}",
        "feature space": f"{pairs.space.name}, at most {pairs.dimensions} dimensions kept for "
        "Fréchet distances",
        "text match": "none" if pairs.match is None else pairs.match.name,
        "seed of bootstraps, distractors and shuffles": pairs.seed,
    }


def _distance_table(columns: Mapping[str, Tensor], pairs: Pairs) -> Table:
    space = pairs.space.name
    reference = _features(pairs.reference, pairs)
    rows: dict[str, list[Cell]] = {}

    def add(name: str, cell: Cell) -> None:
        rows.setdefault(name, []).append(cell)

    for pictures in columns.values():
        seen = _features(pictures, pairs)
        fewest = min(len(seen), len(reference))
        kept = min(pairs.dimensions, seen.shape[1])
        add(f"{space} KID", kernel_distance(reference, seen, seed=pairs.seed))
        enough = fewest > kept
        add(f"{space} Fréchet", frechet(reference, seen, dimensions=kept) if enough else None)
        found = coverage(reference, seen, neighbours=pairs.neighbours)
        for name in ("precision", "recall", "density", "coverage"):
            add(f"{name} (k={pairs.neighbours})", float(getattr(found, name)))
        if pairs.match is not None:
            for name, cell in _matched(pictures, pairs, pairs.match).items():
                add(name, cell)
    return Table("Distances and text match", tuple(columns), rows)


def _matched(pictures: Tensor, pairs: Pairs, match: TextMatch) -> dict[str, Cell]:
    """R-precision among the captions, of a hundred if there are so many, and the CLIP score."""
    seen = torch.cat([match.pictures(part) for part in pictures.split(pairs.batch)])
    prompts = pairs.prompts
    starts = range(0, len(prompts), pairs.batch)
    texts = torch.cat([match.texts(prompts[at : at + pairs.batch]) for at in starts])
    # Two pictures of one caption must not be each other's distractors.
    said = [frozenset({prompt}) for prompt in prompts]
    commonest = max(prompts.count(prompt) for prompt in set(prompts))
    candidates = min(CANDIDATES, len(prompts) - commonest + 1)
    found: dict[str, Cell] = {}
    if candidates > 1:
        found[f"R-precision of {candidates} ({match.name})"] = r_precision(
            seen, texts, range(len(prompts)), said, candidates=candidates, seed=pairs.seed
        )
    found[f"CLIP score ({match.name})"] = clip_score(seen, texts, seed=pairs.seed)
    return found


def _features(pictures: Tensor, pairs: Pairs) -> Tensor:
    return torch.cat([pairs.space.features(part) for part in pictures.split(pairs.batch)])
