"""Fidelity and variety apart: precision and recall, density and coverage of feature sets.

Each set stands for the union of balls around its pictures that reach to their k-th neighbour.

Shapes: N real, M drawn pictures, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.errors import RequestError

_ROWS = 1024  # of a distance matrix at a time


@dataclass(frozen=True, slots=True)
class Coverage:
    """How two sets lie to each other; all but density are shares."""

    precision: float  # of drawn pictures that lie among the real ones
    recall: float  # of real pictures that lie among the drawn ones
    density: float  # real balls that hold a drawn picture, over k: above 1 in crowded places
    coverage: float  # of real pictures whose ball holds a drawn one
    neighbours: int
    real: int
    drawn: int


def coverage(real: Tensor, drawn: Tensor, *, neighbours: int = 5) -> Coverage:
    """Precision, recall, density and coverage of features real (N, D) and drawn (M, D).

    Precision and recall: Kynkäänniemi et al. 2019 (arXiv:1904.06991), who take 3 neighbours.
    Density and coverage: Naeem et al. 2020 (arXiv:2002.09797), who take 5; unlike those they are
    not carried away by one outlier with a large ball.
    Raises RequestError if a set has no more pictures than neighbours.
    """
    fewest = min(len(real), len(drawn))
    if not 1 <= neighbours < fewest:
        raise RequestError(
            f"{neighbours} neighbours were asked of {fewest} pictures; ask for 1 to {fewest - 1}"
        )
    real, drawn = real.detach().double(), drawn.detach().double()
    real_reach, drawn_reach = reach(real, neighbours), reach(drawn, neighbours)
    balls = 0.0  # pairs of a real ball and a drawn picture in it
    held = torch.zeros(len(drawn), dtype=torch.bool, device=real.device)
    found, covered = [], []
    for start in range(0, len(real), _ROWS):
        rows = slice(start, start + _ROWS)
        apart = _distances(real[rows], drawn)
        inside = apart <= real_reach[rows, None]
        balls += float(inside.sum())
        held |= inside.any(dim=0)
        covered.append(inside.any(dim=1))
        found.append((apart <= drawn_reach).any(dim=1))
    return Coverage(
        precision=float(held.double().mean()),
        recall=float(torch.cat(found).double().mean()),
        density=balls / (neighbours * len(drawn)),
        coverage=float(torch.cat(covered).double().mean()),
        neighbours=neighbours,
        real=len(real),
        drawn=len(drawn),
    )


def reach(features: Tensor, neighbours: int) -> Tensor:
    """The distance of each (N, D) to its k-th nearest other: (N,) float64."""
    far = []
    for rows in features.double().split(_ROWS):
        apart = _distances(rows, features.double())
        far.append(apart.kthvalue(neighbours + 1, dim=1).values)  # the nearest is itself
    return torch.cat(far)


def _distances(one: Tensor, other: Tensor) -> Tensor:
    # Through products, near pictures would lose all digits: their ball would miss its own rim.
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
