"""Products of a rank are the best there are, and the rank is the least that is enough."""

import pytest
import torch
from torch import Tensor

from models_tiny import random
from safelight.errors import RequestError
from safelight.merging.low_rank import Factors, RankRule, Tally, checked_rule, factored, refactored

SHAPES = [(12, 30), (30, 12), (16, 16)]


def product(factors: Factors) -> Tensor:
    return factors.up.double() @ factors.down.double()


def best(matrix: Tensor, rank: int) -> Tensor:
    """Eckart and Young's, by torch's SVD."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_a_product_is_the_best_of_its_rank(shape: tuple[int, int], rank: int) -> None:
    matrix = random(*shape)
    factors = factored(matrix, RankRule(rank))
    assert factors.up.shape == (shape[0], rank) and factors.down.shape == (rank, shape[1])
    assert torch.allclose(product(factors), best(matrix, rank), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_of_low_rank_comes_back_whole(shape: tuple[int, int]) -> None:
    matrix = random(shape[0], 3) @ random(3, shape[1], seed=2)
    for rule in (RankRule(3), RankRule(8), RankRule(energy=1.0)):
        factors = factored(matrix, rule)
        assert torch.allclose(product(factors).float(), matrix, atol=1e-5)


def test_the_singular_values_are_shared_evenly() -> None:
    factors = factored(random(20, 50), RankRule(6))
    near, far = factors.up.norm(dim=0), factors.down.norm(dim=1)
    assert torch.allclose(near, far, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_a_product_is_reduced_as_its_matrix_would_be(rank: int) -> None:
    up, down = random(20, 9), random(9, 40, seed=2)
    factors = refactored(up, down, RankRule(rank))
    assert factors.rank == rank
    assert torch.allclose(product(factors), best(up @ down, rank), atol=1e-4)


@pytest.mark.parametrize("up_rank", [25, 60])
def test_more_ranks_than_the_matrix_has_are_no_ranks(up_rank: int) -> None:
    up, down = random(20, up_rank), random(up_rank, 40, seed=2)
    factors = refactored(up, down, RankRule(up_rank))
    assert factors.rank == 20
    assert torch.allclose(product(factors).float(), up @ down, atol=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_energy_and_norm_keep_the_least_rank_that_is_enough(share: float) -> None:
    matrix = random(24, 40)
    values = torch.linalg.svdvals(matrix.double())
    kept = values.square().cumsum(0) / values.square().sum()
    least = next(n + 1 for n in range(len(values)) if float(kept[n]) >= share)
    assert factored(matrix, RankRule(energy=share)).rank == least
    assert factored(matrix, RankRule(frobenius=share**0.5)).rank == least
    factors = factored(matrix, RankRule(energy=share))
    assert factors.kept / factors.whole == pytest.approx(float(kept[least - 1]), abs=1e-6)


def test_a_rank_bounds_a_share() -> None:
    assert factored(random(24, 40), RankRule(3, energy=0.99)).rank == 3
    assert factored(random(24, 40), RankRule(3, conv_rank=5), conv=True).rank == 5


def test_nothing_is_of_rank_1() -> None:
    for factors in (
        factored(torch.zeros(4, 6), RankRule(energy=0.9)),
        refactored(torch.zeros(4, 3), torch.zeros(3, 6), RankRule(energy=0.9)),
    ):
        assert factors.rank == 1 and not product(factors).any()


def test_a_tally_tells_the_share_of_the_norm() -> None:
    tally = Tally()
    tally.add(Factors(torch.zeros(2, 1), torch.zeros(1, 2), kept=3.0, whole=4.0))
    tally.add(Factors(torch.zeros(2, 3), torch.zeros(3, 2), kept=6.0, whole=12.0))
    assert tally.said() == "2 layers of rank 1 to 3 keep 75.00 % of the norm"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank": 0}, "--rank must be 1 or more; got 0"),
        ({"rank": 4, "conv_rank": -1}, "--conv-rank must be 1 or more"),
        ({"energy": 1.5}, "--energy must be above 0 and at most 1; got 1.5"),
        ({"frobenius": 0.0}, "--frobenius must be above 0"),
        ({"energy": 0.5, "frobenius": 0.5}, "two ways to say the same"),
        ({"conv_rank": 4}, "--conv-rank is beside --rank"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_said(values: dict[str, float], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        checked_rule(**values)  # type: ignore[arg-type]
