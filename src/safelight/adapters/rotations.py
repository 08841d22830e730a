"""Changes that turn a weight: OFT by blocks, and BOFT by a butterfly of blocks.

A rotation is the Cayley transform of a skew matrix, R = (I + Q)(I - Q)^-1 with Q = B - B^T, so any
B (b, b) makes one. OFT: Qiu et al. 2023 (arXiv:2306.07280); BOFT: Liu et al. 2023
(arXiv:2311.06243); the series: Qiu et al. 2025 (arXiv:2506.19847).

LyCORIS and kohya turn the output features, PEFT the input features (times the kernel). A strength m
takes every factor m of its way from the identity, as LyCORIS and ComfyUI do.
"""

from collections.abc import Sequence
from math import prod
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from safelight.models.deltas import Delta

Side = Literal["output", "input"]
Order = Literal["lycoris", "peft"]


class Orthogonal(Delta):
    """W' = rescale · R W, R block-diagonal along one side of the weight: OFT (`oft_blocks`).

    blocks (n, b, b), n b = out, or in · k · k where `side` is "input"; one block may serve all
    places. R is turned as in LyCORIS' files: R^T from the left of W, or R from the right.
    constraint: the greatest norm of all Q together; 0 is none. LyCORIS and kohya store it by the
        feature, in `alpha`: constraint = alpha · out.
    rescale: (out,) factors, such as LyCORIS' `rescale`; None is 1.
    terms: the length of the series that PEFT takes for the Cayley transform; None is exact.
    """

    kind = "OFT"
    additive: ClassVar[bool] = False

    def __init__(
        self,
        blocks: Tensor,
        *,
        constraint: float = 0.0,
        rescale: Tensor | None = None,
        side: Side = "output",
        terms: int | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.Parameter(blocks)
        self.rescale = None if rescale is None else nn.Parameter(rescale)
        self.constraint, self.side, self.terms = constraint, side, terms

    @classmethod
    def packed(cls, entries: Tensor, *, terms: int | None = None) -> Self:
        """PEFT's `oft_R`: (n, b (b - 1) / 2), the entries of Q above its diagonal.

        terms: its num_cayley_neumann_terms where use_cayley_neumann is set, as it is by default
            since 0.18; None is the exact transform. Between the two, the sign of Q differs.
        """
        size = packed_size(entries.shape[1])
        rows, columns = torch.triu_indices(size, size, 1)
        blocks = entries.new_zeros(entries.shape[0], size, size)
        blocks[:, rows, columns] = entries
        return cls(blocks if terms is None else blocks.mT, side="input", terms=terms)

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        matrix = _sided(weight.float(), self.side)
        turns = cayley(self.blocks.float(), self.constraint, self.terms)
        turned = _by_blocks(matrix, _weakened(turns.mT, strength))
        whole = _unsided(turned, weight.shape, self.side)
        return _rescaled(whole, self.rescale, strength) - weight.float()

    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        if self.blocks.ndim != 3 or self.blocks.shape[1] != self.blocks.shape[2]:
            return False
        length, (count, size) = _length(shape, self.side), self.blocks.shape[:2]
        shared = count == 1 and size > 0 and length % size == 0
        return (count * size == length or shared) and _rescale_fits(self.rescale, shape)

    def extra_repr(self) -> str:
        return f"{self.side} side, {super().extra_repr()}"


class Butterfly(Delta):
    """W' = rescale · B_m ... B_1 W, each B a permuted block-diagonal rotation: BOFT.

    blocks (m, n, b, b), n b = out, or in · k · k where `side` is "input". Factor i turns places
    that lie 2^i b / 2 apart. constraint and rescale as for `Orthogonal`.
    order: how the places that a block turns lie in it: in pairs (LyCORIS), or one half after the
        other (PEFT).
    """

    kind = "BOFT"
    additive: ClassVar[bool] = False

    def __init__(
        self,
        blocks: Tensor,
        *,
        constraint: float = 0.0,
        rescale: Tensor | None = None,
        side: Side = "output",
        order: Order = "lycoris",
    ) -> None:
        super().__init__()
        self.blocks = nn.Parameter(blocks)
        self.rescale = None if rescale is None else nn.Parameter(rescale)
        self.constraint, self.side, self.order = constraint, side, order

    @classmethod
    def of_peft(cls, blocks: Tensor, rescale: Tensor) -> Self:
        """PEFT's `boft_R` (m, n, b, b) and `boft_s`, of which it takes half of B - B^T."""
        return cls(0.5 * blocks.mT, rescale=rescale.flatten(), side="input", order="peft")

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        matrix = _sided(weight.float(), self.side)
        turns = _weakened(cayley(self.blocks.float(), self.constraint), strength)
        size = self.blocks.shape[-1]
        for factor, turn in enumerate(turns):
            places = _places(len(matrix), size, factor, self.order).to(matrix.device)
            matrix = matrix.index_copy(0, places, _by_blocks(matrix[places], turn))
        whole = _unsided(matrix, weight.shape, self.side)
        return _rescaled(whole, self.rescale, strength) - weight.float()

    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        if self.blocks.ndim != 4 or self.blocks.shape[2] != self.blocks.shape[3]:
            return False
        factors, count, size, _ = self.blocks.shape
        whole = count * size == _length(shape, self.side)
        halves = factors == 1 or (size % 2 == 0 and count % 2 ** (factors - 1) == 0)
        return factors > 0 and whole and halves and _rescale_fits(self.rescale, shape)

    def extra_repr(self) -> str:
        return f"{self.side} side, {super().extra_repr()}"


def cayley(blocks: Tensor, constraint: float = 0.0, terms: int | None = None) -> Tensor:
    """Rotations (..., b, b) of any matrices: (I + Q)(I - Q)^-1 with Q = B - B^T.

    constraint: Q is shortened to this norm, that of all blocks together; 0 leaves it.
    terms: so many terms of its series I + 2 Q + 2 Q² + ..., from three on the last without its 2.
    """
    skew = blocks - blocks.mT
    if constraint > 0:
        norm = torch.linalg.vector_norm(skew) + 1e-8
        skew = skew * (constraint / norm).clamp(max=1)
    unit = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
    if terms is None:
        # (I - Q)^-1 and I + Q commute.
        solved: Tensor = torch.linalg.solve(unit - skew, unit + skew)
        return solved
    # PEFT's series of three terms is that of four.
    highest = max(terms - 1, 3) if terms > 2 else terms - 1
    total, power = unit.expand_as(skew), skew
    for exponent in range(1, highest + 1):
        total = total + (1 if exponent == highest > 1 else 2) * power
        power = power @ skew
    return total


def packed_size(entries: int) -> int:
    """The size of a skew matrix with so many entries above its diagonal; 0 if there is none."""
    size = round((1 + (1 + 8 * entries) ** 0.5) / 2)
    return size if size * (size - 1) // 2 == entries else 0


def _weakened(turns: Tensor, strength: float) -> Tensor:
    if strength == 1:
        return turns
    unit = torch.eye(turns.shape[-1], dtype=turns.dtype, device=turns.device)
    return unit + strength * (turns - unit)


def _by_blocks(matrix: Tensor, turns: Tensor) -> Tensor:
    """Each b rows of a matrix (L, C) turned by their own rotation (n, b, b), or all by one."""
    size = turns.shape[-1]
    return (turns @ matrix.reshape(-1, size, matrix.shape[1])).reshape(matrix.shape)


def _places(length: int, size: int, factor: int, order: Order) -> Tensor:
    """Which rows of (length, C) the blocks of a factor turn: (length,)."""
    rows = torch.arange(length)
    if size % 2:  # a single factor, whose blocks have no halves to pair
        return rows
    if order == "lycoris":
        return rows.reshape(-1, 2, 2**factor * size // 2).mT.reshape(-1)
    return rows.reshape(-1, 2, 2**factor, size // 2).transpose(1, 2).reshape(-1)


def _length(shape: Sequence[int], side: Side) -> int:
    return shape[0] if side == "output" else prod(shape[1:])


def _sided(weight: Tensor, side: Side) -> Tensor:
    """The weight as a matrix whose rows are what is turned."""
    matrix = weight.flatten(1)
    return matrix if side == "output" else matrix.mT


def _unsided(matrix: Tensor, shape: Sequence[int], side: Side) -> Tensor:
    return (matrix if side == "output" else matrix.mT).reshape(tuple(shape))


def _rescaled(weight: Tensor, rescale: Tensor | None, strength: float) -> Tensor:
    if rescale is None:
        return weight
    factors = 1 + strength * (rescale.float().flatten() - 1)
    return weight * factors[(...,) + (None,) * (weight.ndim - 1)]


def _rescale_fits(rescale: Tensor | None, shape: Sequence[int]) -> bool:
    return rescale is None or rescale.numel() == shape[0]
