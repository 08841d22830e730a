"""Distances of feature sets: closed forms, other implementations, and what each must tell apart."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from safelight.errors import RequestError
from safelight.evaluation.coverage import coverage, reach
from safelight.evaluation.frechet import covariance, frechet, gaussian_distance
from safelight.evaluation.intervals import Share, bootstrap, wilson
from safelight.evaluation.kernel import kernel_distance


def normals(count: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def skewed(width: int, seed: int) -> Tensor:
    return normals(width, width, seed) / math.sqrt(width)


# Fréchet ------------------------------------------------------------------------------------


def test_identical_sets_are_zero_apart() -> None:
    x = normals(200, 8)
    assert frechet(x, x, dimensions=None).value < 1e-9


def test_a_shift_costs_its_square() -> None:
    x = normals(300, 8)
    shift = torch.arange(8.0).double()
    assert frechet(x, x + shift, dimensions=None).value == pytest.approx(140.0, rel=1e-9)


def test_independent_dimensions_have_a_closed_form() -> None:
    """For diagonal covariances, the sum of the squared differences of deviations."""
    a, b = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([3.0, 0.5, 1.0]).double()
    zero = torch.zeros(3).double()
    distance = gaussian_distance(zero, torch.diag(a**2), zero, torch.diag(b**2))
    assert distance.item() == pytest.approx(4 + 2.25 + 1)


def test_the_root_is_that_of_scipy() -> None:
    x, y = normals(400, 6, 1) @ skewed(6, 2), normals(500, 6, 3) @ skewed(6, 4) + 0.3
    one, other = covariance(x).numpy(), covariance(y).numpy()
    root = linalg.sqrtm(one @ other)
    shift = (x.mean(0) - y.mean(0)).numpy()
    expected = shift @ shift + np.trace(one + other - 2 * np.real(root))
    assert frechet(x, y, dimensions=None).value == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(one, np.cov(x.numpy().T), rtol=1e-12)


def test_turning_both_sets_changes_nothing_even_with_fewer_dimensions() -> None:
    x, y = normals(300, 10, 1) @ skewed(10, 2), normals(300, 10, 3)
    turn = torch.linalg.qr(normals(10, 10, 5)).Q
    straight, turned = frechet(x, y, dimensions=4), frechet(x @ turn, y @ turn, dimensions=4)
    assert straight.value == pytest.approx(turned.value, rel=1e-8)
    assert straight.dimensions == 4 and 0 < straight.explained < 1


def test_the_kept_dimensions_are_those_in_which_the_real_set_varies() -> None:
    x, y = normals(300, 6, 1), normals(300, 6, 2)
    scale = torch.tensor([5.0, 3.0, 1e-3, 1e-3, 1e-3, 1e-3]).double()
    both = frechet(x * scale, y * scale, dimensions=2)
    alone = frechet(x[:, :2] * scale[:2], y[:, :2] * scale[:2], dimensions=None)
    assert both.value == pytest.approx(alone.value, rel=1e-3) and both.explained > 0.999


def test_the_bias_of_few_pictures_is_as_large_as_stated() -> None:
    """Two sets of one Gaussian: 1.14 at d=64, N=2000 (known), and falling with N."""
    far, near = (frechet(normals(n, 64, n), normals(n, 64, n + 1)).value for n in (500, 2000))
    assert near == pytest.approx(1.14, rel=0.1) and far == pytest.approx(4.3, rel=0.1)


def test_too_few_pictures_for_the_dimensions_are_refused() -> None:
    with pytest.raises(RequestError, match="64 pictures are too few for 64 dimensions"):
        frechet(normals(200, 80), normals(64, 80))


# Kernel -------------------------------------------------------------------------------------


def test_the_kernel_distance_is_the_sum_over_pairs() -> None:
    x, y = normals(12, 3, 1), normals(9, 3, 2) + 0.5

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = [
        sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j)
        / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    between = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    assert kernel_distance(x, y).value == pytest.approx(sum(within) - 2 * between, rel=1e-9)


def test_it_is_unbiased_where_the_frechet_distance_is_not() -> None:
    values = [
        kernel_distance(normals(40, 8, 2 * s), normals(40, 8, 2 * s + 1), draws=2).value
        for s in range(200)
    ]
    mean, deviation = np.mean(values), np.std(values) / math.sqrt(len(values))
    assert abs(mean) < 3 * deviation and min(values) < 0


def test_a_shift_in_one_dimension_has_a_closed_form() -> None:
    """(xy + 1)³ compares the first three moments, weighted 3, 3, 1."""
    x, y = normals(1500, 1, 1), normals(1500, 1, 2) + 1.0
    # moments of N(0, 1): 0, 1, 0; of N(1, 1): 1, 2, 4
    expected = 3 * 1**2 + 3 * 1**2 + 1 * 4**2
    found = kernel_distance(x, y, draws=200)
    assert found.low < expected < found.high and found.value == pytest.approx(expected, rel=0.2)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for s in range(60):
        found = kernel_distance(normals(60, 1, 2 * s), normals(60, 1, 2 * s + 1) + 1.0, draws=150)
        held += found.low < 22 < found.high
    assert held >= 48  # 57 of 60 in expectation; skewed statistics hold a little less


def test_the_same_seed_gives_the_same_interval() -> None:
    x, y = normals(30, 4, 1), normals(30, 4, 2)
    assert kernel_distance(x, y, seed=1) == kernel_distance(x, y, seed=1)
    assert kernel_distance(x, y, seed=1).low != kernel_distance(x, y, seed=2).low
    with pytest.raises(RequestError, match="two pictures"):
        kernel_distance(x[:1], y)


# Precision and recall -----------------------------------------------------------------------


def modes(count: int, seed: int, *, of: int = 4, far: float = 20.0) -> Tensor:
    """Pictures around the corners of a square."""
    corners = torch.tensor([[0.0, 0], [far, 0], [0, far], [far, far]]).double()[:of]
    return normals(count, 2, seed) + corners.repeat(math.ceil(count / of), 1)[:count]


def test_dropped_modes_cost_recall_and_not_precision() -> None:
    real, fewer = modes(400, 1), modes(400, 2, of=2)
    found = coverage(real, fewer, neighbours=3)
    assert found.precision > 0.9 and found.recall == pytest.approx(0.5, abs=0.06)
    assert found.coverage == pytest.approx(0.5, abs=0.06) and found.density > 0.9


def test_stray_pictures_cost_precision_and_not_recall() -> None:
    real = modes(400, 1, of=2)
    drawn = torch.cat([modes(400, 2, of=2), modes(400, 3, of=2) + 500])
    found = coverage(real, drawn, neighbours=3)
    assert found.precision == pytest.approx(0.5, abs=0.06) and found.recall > 0.9


def test_precision_and_recall_change_places_with_the_sets() -> None:
    x, y = normals(150, 3, 1), normals(120, 3, 2) * 0.7
    there, back = coverage(x, y), coverage(y, x)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    assert there.precision != there.recall


def test_a_set_against_itself_is_full() -> None:
    x = normals(100, 3)
    found = coverage(x, x)
    assert found.precision == found.recall == found.coverage == 1


def test_all_four_are_those_of_plain_loops() -> None:
    x, y, k = normals(30, 2, 1), normals(25, 2, 2) + 0.4, 3
    apart = torch.cdist(x, y).numpy()
    balls_x, balls_y = (np.sort(torch.cdist(z, z).numpy(), axis=1)[:, k] for z in (x, y))
    found = coverage(x, y, neighbours=k)
    assert found.precision == np.mean([any(apart[:, j] <= balls_x) for j in range(25)])
    assert found.recall == np.mean([any(apart[i] <= balls_y) for i in range(30)])
    assert found.density == pytest.approx((apart <= balls_x[:, None]).sum() / (k * 25))
    assert found.coverage == np.mean([any(apart[i] <= balls_x[i]) for i in range(30)])
    np.testing.assert_allclose(reach(x, k).numpy(), balls_x)


def test_more_neighbours_than_pictures_are_refused() -> None:
    with pytest.raises(RequestError, match="5 neighbours were asked of 5 pictures"):
        coverage(normals(5, 2), normals(9, 2))


# Intervals ----------------------------------------------------------------------------------


def test_wilson_is_the_textbook_one() -> None:
    """The ends solve |p̂ − p| = z √(p (1 − p) / n)."""
    for right, of in ((1, 10), (5, 10), (37, 64), (99, 100)):
        for end in wilson(right, of):
            z = abs(right / of - end) / math.sqrt(end * (1 - end) / of)
            assert z == pytest.approx(1.959964, rel=1e-6)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1 and wilson(0, 0) == (0, 1)


def test_shares_say_how_many_of_how_many() -> None:
    assert str(Share(3, 4)) == "75.0 % [30.1, 95.4] of 4" and math.isnan(Share(0, 0).value)


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_standard_error() -> None:
    x = normals(400, 1)[:, 0]
    found = bootstrap(x, seed=3, draws=2000)
    assert found.value == pytest.approx(float(x.mean()))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * float(x.std()) / 20, rel=0.1)
