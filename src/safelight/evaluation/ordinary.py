"""A model's report on ordinary data: captions with real pictures, of which nothing else is known.

Distances are taken in the features of a named net, with two real sets beside; composition needs
facts (see `evaluate`) and is not judged here.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from safelight.evaluation.pairs import Draw, Pairs, distances, drawn, features, matched, recoded
from safelight.evaluation.reconstruction import Again, reconstruction_table
from safelight.evaluation.report import Cell, Report, Table
from safelight.evaluation.retrieval import CANDIDATES
from safelight.evaluation.sheets import sheet
from safelight.version import __version__

SHOWN = 64
MODEL, REAL, CODEC = "model", "real pictures", "codec ceiling"


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
    pictures = drawn(draw, pairs)
    columns = {MODEL: pictures, REAL: pairs.real}
    if again is not None:
        columns[CODEC] = recoded(again, pairs)
    if unguided is not None:
        columns["no guidance"] = drawn(unguided, pairs)
    generator = torch.Generator().manual_seed(pairs.seed)
    other = torch.randperm(len(pictures), generator=generator).roll(1)
    columns["shuffled captions"] = pictures[other.to(pictures.device)]
    tables = [_distance_table(columns, pairs)]
    if again is not None:
        tables.append(reconstruction_table(pairs, again))
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
    reference = features(pairs.reference, pairs)
    rows: dict[str, list[Cell]] = {}
    for pictures in columns.values():
        found = distances(features(pictures, pairs), reference, pairs)
        cells: dict[str, Cell] = {
            f"{pairs.space.name} KID": found.kernel,
            f"{pairs.space.name} Fréchet": found.frechet,
        }
        for name in ("precision", "recall", "density", "coverage"):
            value = None if found.coverage is None else float(getattr(found.coverage, name))
            cells[f"{name} (k={pairs.neighbours})"] = value
        for name, cell in {**cells, **_matched(pictures, pairs)}.items():
            rows.setdefault(name, []).append(cell)
    return Table("Distances and text match", tuple(columns), rows)


def _matched(pictures: Tensor, pairs: Pairs) -> dict[str, Cell]:
    """R-precision among the captions, of a hundred if there are so many, and the CLIP score."""
    if pairs.match is None:
        return {}
    prompts, name = pairs.prompts, pairs.match.name
    # Two pictures of one caption must not be each other's distractors.
    said = [frozenset({prompt}) for prompt in prompts]
    commonest = max(prompts.count(prompt) for prompt in set(prompts))
    candidates = min(CANDIDATES, len(prompts) - commonest + 1)
    precise, clip = matched(pictures, pairs, said, candidates)
    found: dict[str, Cell] = {}
    if precise is not None:
        found[f"R-precision of {candidates} ({name})"] = precise
    return {**found, f"CLIP score ({name})": clip}
