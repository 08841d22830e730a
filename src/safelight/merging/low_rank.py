"""A matrix as a product of two narrow ones: the best of a rank, and which rank is enough.

By Eckart and Young 1936 no product of that rank is nearer in the Frobenius norm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from safelight.errors import RequestError


@dataclass(frozen=True, slots=True)
class RankRule:
    """Which rank is enough; `checked_rule` makes one.

    rank: that one, or at most that one where another rule is given.
    energy: the least rank that keeps this share of the squares of the singular values.
    frobenius: the least rank that keeps this share of the norm, the square root of the energy.
    conv_rank: instead of `rank` for convolutions with a kernel; None is the same.
    """

    rank: int | None = None
    energy: float | None = None
    frobenius: float | None = None
    conv_rank: int | None = None

    @property
    def share(self) -> float | None:
        """The share of energy to keep; None if the rank alone decides."""
        return self.energy if self.frobenius is None else self.frobenius**2

    def enough(self, values: Tensor, *, conv: bool = False) -> int:
        """How many of these singular values (n,), descending, to keep: 1 or more."""
        most = self.rank if self.conv_rank is None or not conv else self.conv_rank
        count = len(values) if most is None else min(most, len(values))
        if self.share is not None:
            kept = values.double().square().cumsum(0)
            reached = kept >= self.share * kept[-1] * (1 - 1e-12)
            count = min(count, int(reached.int().argmax()) + 1)
        return max(count, 1)

    def to_json(self) -> dict[str, object]:
        """What was stated, for a recipe."""
        names = ("rank", "conv_rank", "energy", "frobenius")
        values: Mapping[str, object] = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


def checked_rule(
    rank: int | None = None,
    energy: float | None = None,
    frobenius: float | None = None,
    conv_rank: int | None = None,
) -> RankRule:
    """A rule that can be followed. Raises RequestError."""
    for name, value in (("rank", rank), ("conv-rank", conv_rank)):
        if value is not None and value < 1:
            raise RequestError(f"--{name} must be 1 or more; got {value}.")
    if energy is not None and frobenius is not None:
        raise RequestError("--energy and --frobenius are two ways to say the same; give one.")
    for name, share in (("energy", energy), ("frobenius", frobenius)):
        if share is not None and not 0 < share <= 1:
            raise RequestError(f"--{name} must be above 0 and at most 1; got {share}.")
    if conv_rank is not None and rank is None and energy is None and frobenius is None:
        raise RequestError("--conv-rank is beside --rank; give that too.")
    return RankRule(rank, energy, frobenius, conv_rank)


@dataclass(frozen=True, slots=True)
class Factors:
    """up (out, r) @ down (r, in), float32, which share their singular values evenly.

    kept, whole: the squares of the singular values that are in it, and of all.
    """

    up: Tensor
    down: Tensor
    kept: float
    whole: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def factored(matrix: Tensor, rule: RankRule, *, conv: bool = False) -> Factors:
    """The best product for a matrix (out, in) by a rule. Exact where the rank is reached.

    The smaller of the matrix's two Gram matrices is diagonalised in float64, which is quicker than
    its SVD by far and finds values down to 1e-8 of the largest: below what float32 holds of it.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    tall = (matrix if wide else matrix.mT).to(torch.float64)  # (n, m), n <= m
    squares, vectors = torch.linalg.eigh(tall @ tall.mT)
    values = squares.flip(0).clamp(min=0).sqrt()
    count = rule.enough(values, conv=conv)
    left = vectors.flip(1)[:, :count]  # (n, r)
    right = left.mT @ tall  # (r, m): the projection, so nothing is lost but what is cut off
    roots = right.norm(dim=1).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    near, far = left * roots, right / roots[:, None]
    up, down = (near, far) if wide else (far.mT, near.mT)
    kept = float(values[:count].square().sum())
    return Factors(up.float().contiguous(), down.float().contiguous(), kept, float((tall**2).sum()))


def refactored(up: Tensor, down: Tensor, rule: RankRule, *, conv: bool = False) -> Factors:
    """The best product for another product up (out, r) @ down (r, in), never multiplied out."""
    q_up, r_up = torch.linalg.qr(up.to(torch.float64))
    q_down, r_down = torch.linalg.qr(down.to(torch.float64).mT)
    u, values, v = torch.linalg.svd(r_up @ r_down.mT, full_matrices=False)
    count = rule.enough(values, conv=conv)
    roots = values[:count].sqrt()
    new_up = q_up @ (u[:, :count] * roots)
    new_down = (q_down @ (v[:count].mT * roots)).mT
    kept, whole = (float(part.square().sum()) for part in (values[:count], values))
    return Factors(new_up.float().contiguous(), new_down.float().contiguous(), kept, whole)


@dataclass(slots=True)
class Tally:
    """How much of all differences together is kept, counted as layers go by."""

    kept: float = 0.0
    whole: float = 0.0
    least: int = 0
    most: int = 0
    layers: int = 0

    def add(self, factors: Factors) -> None:
        self.kept += factors.kept
        self.whole += factors.whole
        self.least = min(self.least or factors.rank, factors.rank)
        self.most = max(self.most, factors.rank)
        self.layers += 1

    def said(self) -> str:
        """In words: layers, ranks, and the share of the differences' norm that is kept."""
        ranks = str(self.least) if self.least == self.most else f"{self.least} to {self.most}"
        share = sqrt(min(self.kept / self.whole, 1.0)) if self.whole else 1.0
        return f"{self.layers} layers of rank {ranks} keep {100 * share:.2f} % of the norm"
