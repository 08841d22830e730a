"""Fréchet distance between two sets of features, as two Gaussians.

What the literature calls FID is this in the features of one Inception network. Ours are another
net's, so the distance bears that net's name, with the number of pictures and of dimensions: it is
biased upwards by about dimensions squared over pictures, so numbers compare only at equal counts,
and beside the distance of two real sets of that count.

Shapes: N, M pictures, D features, d dimensions kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.errors import RequestError

DIMENSIONS = 64


@dataclass(frozen=True, slots=True)
class FrechetDistance:
    """A distance with the counts that it depends on."""

    value: float
    real: int  # pictures
    drawn: int  # pictures
    dimensions: int
    explained: float  # share of the real features' variance that the kept dimensions hold

    def __str__(self) -> str:
        return f"{self.value:.4g} (N={self.real}/{self.drawn}, d={self.dimensions})"


def frechet(real: Tensor, drawn: Tensor, *, dimensions: int | None = DIMENSIONS) -> FrechetDistance:
    """The Fréchet distance of features real (N, D) and drawn (M, D), after a PCA of the real ones.

    dimensions None, or as many as there are, keeps all. Raises RequestError if a set has no more
    pictures than dimensions are kept, since its covariance would be of lower rank.
    """
    real, drawn = real.detach().double(), drawn.detach().double()
    kept = real.shape[1] if dimensions is None else min(dimensions, real.shape[1])
    fewest = min(len(real), len(drawn))
    if fewest <= kept:
        raise RequestError(
            f"{fewest} pictures are too few for {kept} dimensions; give more pictures, or "
            f"keep fewer than {fewest} dimensions"
        )
    mean = real.mean(dim=0)
    spread, axes = torch.linalg.eigh(covariance(real))  # ascending
    axes = axes[:, -kept:]
    explained = float(spread[-kept:].sum() / spread.sum().clamp(min=1e-300))
    ours, theirs = (real - mean) @ axes, (drawn - mean) @ axes
    value = gaussian_distance(
        ours.mean(dim=0), covariance(ours), theirs.mean(dim=0), covariance(theirs)
    )
    return FrechetDistance(float(value), len(real), len(drawn), kept, explained)


def gaussian_distance(
    one_mean: Tensor, one_covariance: Tensor, other_mean: Tensor, other_covariance: Tensor
) -> Tensor:
    """The squared Wasserstein-2 distance of two Gaussians, a float64 scalar, never negative.

    |m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½). The root is taken of a symmetric matrix, which
    has no imaginary part and needs no full rank. Dowson and Landau 1982
    (doi:10.1016/0047-259X(82)90077-X); Heusel et al. 2017 (arXiv:1706.08500).
    """
    one, other = one_covariance.double(), other_covariance.double()
    half = _root(one)
    # The trace of the root is the sum of the roots of the eigenvalues.
    cross = torch.linalg.eigvalsh(half @ other @ half).clamp(min=0).sqrt().sum()
    shift = (one_mean.double() - other_mean.double()).square().sum()
    distance: Tensor = shift + one.trace() + other.trace() - 2 * cross
    return distance.clamp(min=0)


def covariance(features: Tensor) -> Tensor:
    """The unbiased covariance of features (N, D): (D, D) float64."""
    centred = features.double() - features.double().mean(dim=0)
    return centred.T @ centred / (len(features) - 1)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
