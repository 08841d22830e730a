"""Kernel distance between two sets of features: unbiased, so small sets may be compared.

Shapes: N, M pictures, D features, R bootstrap draws.
"""

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.evaluation.intervals import Estimate, percentiles


def kernel_distance(
    real: Tensor, drawn: Tensor, *, seed: int = 0, draws: int = 500, degree: int = 3
) -> Estimate:
    """The squared MMD of features (N, D) and (M, D) under the kernel (x·y / D + 1)^degree.

    With degree 3 the distance called KID; our features are another net's. Unbiased: about zero, and
    as often below it, for two sets of one distribution. The interval is of a bootstrap over
    pictures in which a picture is never compared with itself, so its centre is unbiased as well.
    Bińkowski et al. 2018 (arXiv:1801.01401); Gretton et al. 2012, lemma 6.
    Raises RequestError if a set has fewer than two pictures.
    """
    fewest = min(len(real), len(drawn))
    if fewest < 2:
        raise RequestError(f"a kernel distance needs two pictures of each kind; got {fewest}")
    x, y = real.detach().double(), drawn.detach().double()
    within_x, within_y, between = (_kernel(a, b, degree) for a, b in ((x, x), (y, y), (x, y)))
    within_x.fill_diagonal_(0)
    within_y.fill_diagonal_(0)

    def distance(p: Tensor, q: Tensor) -> Tensor:
        """For the weights p (R, N) and q (R, M) of the pictures: (R,)."""
        return _mean_within(within_x, p) + _mean_within(within_y, q) - 2 * _mean(between, p, q)

    ones = [torch.ones(1, len(z), dtype=x.dtype, device=x.device) for z in (x, y)]
    value = float(distance(*ones)[0])
    generator = torch.Generator().manual_seed(seed)
    weights = [_weights(len(z), draws, generator).to(x) for z in (x, y)]
    low, high = percentiles(distance(*weights).cpu())
    return Estimate(value, low, high, fewest)


def _kernel(x: Tensor, y: Tensor, degree: int) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** degree


def _mean_within(kernel: Tensor, weights: Tensor) -> Tensor:
    """The mean over pairs of different pictures, each with the product of its weights."""
    pairs = weights.sum(dim=1) ** 2 - weights.square().sum(dim=1)
    return ((weights @ kernel) * weights).sum(dim=1) / pairs


def _mean(kernel: Tensor, p: Tensor, q: Tensor) -> Tensor:
    return ((p @ kernel) * q).sum(dim=1) / (p.sum(dim=1) * q.sum(dim=1))


def _weights(count: int, draws: int, generator: torch.Generator) -> Tensor:
    """How often each of `count` pictures is drawn with replacement: (draws, count)."""
    picks = torch.randint(count, (draws, count), generator=generator)
    return torch.zeros(draws, count).scatter_add_(1, picks, torch.ones(draws, count))
