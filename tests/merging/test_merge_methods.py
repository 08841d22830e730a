"""Each way of merging equals its formula, written once more, on whole tensors."""

import numpy as np
import pytest
import torch
from torch import Tensor

from safelight.merging import methods
from safelight.merging.methods import (
    added_difference,
    dropped,
    elected,
    place_seed,
    spherical,
    weighted_sum,
)

F32 = torch.float32


def drawn(*shape: int, count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


@pytest.fixture(params=[methods.PIECE, 7], ids=["whole", "in pieces"])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are one piece, and the same tensors in many."""
    monkeypatch.setattr(methods, "PIECE", request.param)


pytestmark = pytest.mark.usefixtures("_pieces")


def test_a_sum_is_the_weighted_sum() -> None:
    a, b, c = drawn(5, 6, 3, count=3)
    ours = weighted_sum([a, b, c], (0.5, 0.8, -0.3), F32)
    assert torch.allclose(ours, 0.5 * a + 0.8 * b - 0.3 * c, atol=1e-6)
    assert ours.shape == a.shape and ours.dtype == F32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights", [(0.3, 0.7), (0.1, 0.9), (1.7, -0.7), (1 / 3, 2 / 3)])
def test_a_model_summed_with_itself_keeps_its_bits(
    dtype: torch.dtype, weights: tuple[float, float]
) -> None:
    (a,) = drawn(1000, count=1)
    a = a.to(dtype)
    signed = -0.0 if min(weights) > 0 else 0.0  # -0 minus -0 is 0
    a[:3] = torch.tensor([0.0, signed, torch.finfo(dtype).tiny])
    bits = torch.int32 if dtype == F32 else torch.int16
    assert torch.equal(weighted_sum([a, a], weights, dtype).view(bits), a.view(bits))


def test_what_has_no_weight_is_not_even_looked_at() -> None:
    a, b = drawn(10, count=2)
    b[3] = float("inf")
    assert torch.equal(weighted_sum([a, b], (1.0, 0.0), F32), a)


def test_a_difference_is_added_to_the_first_model() -> None:
    a, b, c, base = drawn(4, 9, count=4)
    ours = added_difference(a, [b, c], base, (0.7, -0.4), dtype=F32)
    assert torch.allclose(ours, a + 0.7 * (b - base) - 0.4 * (c - base), atol=1e-6)


def test_types_of_models_may_differ() -> None:
    a, b, base = drawn(33, count=3)
    ours = added_difference(a.half(), [b.bfloat16()], base, (1.0,), dtype=torch.float16)
    wanted = a.half().double() + (b.bfloat16().double() - base.double())
    assert torch.equal(ours, wanted.half())


# -- slerp -----------------------------------------------------------------------------------------


def arc(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation as it is usually written, by the arc cosine."""
    u, v = a.double().flatten(), b.double().flatten()
    cosine = (u @ v / (u.norm() * v.norm())).clamp(-1, 1)
    angle = torch.arccos(cosine)
    shares = torch.sin((1 - t) * angle) / torch.sin(angle), torch.sin(t * angle) / torch.sin(angle)
    return (shares[0] * u + shares[1] * v).view_as(a).float()


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 0.9, 1.0, 1.3])
def test_slerp_goes_along_the_arc(t: float) -> None:
    a, b = drawn(8, 8, 3, 3, count=2)
    assert torch.allclose(spherical(a, b, t, F32), arc(a, b, t), atol=1e-6)


def test_slerp_keeps_the_length_that_both_have() -> None:
    a, b = (tensor / tensor.norm() for tensor in drawn(500, count=2))
    lengths = [float(spherical(a, b, t, F32).norm()) for t in (0.2, 0.5, 0.8)]
    assert lengths == pytest.approx([1, 1, 1], abs=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-9, -1.0, 0.0])
def test_slerp_takes_the_straight_line_where_there_is_no_arc(factor: float) -> None:
    (a,) = drawn(50, count=1)
    b = a * factor
    assert torch.allclose(spherical(a, b, 0.25, F32), 0.75 * a + 0.25 * b, atol=1e-7)


def test_slerp_of_nearly_the_same_directions_is_still_the_arc() -> None:
    a, noise = drawn(2000, count=2)
    b = a + 1e-3 * noise  # an angle at which many programs give up and go straight
    assert torch.allclose(spherical(a, b, 0.5, F32), arc(a, b, 0.5), atol=1e-6)


# -- TIES ------------------------------------------------------------------------------------------


def trim_elect_merge(
    base: Tensor, others: list[Tensor], weights: list[float], density: float
) -> Tensor:
    """TIES place by place, in plain Python, as its paper's algorithm 1 says it."""
    vectors = []
    for other in others:
        tau = (other.double() - base.double()).flatten().tolist()
        keep = int(density * len(tau))
        order = sorted(range(len(tau)), key=lambda i: -abs(tau[i]))
        largest = set(order[:keep])
        vectors.append([value if i in largest else 0.0 for i, value in enumerate(tau)])
    merged = []
    for place in zip(*vectors, strict=True):
        weighed = [w * v for w, v in zip(weights, place, strict=True)]
        up = sum(weighed) >= 0
        agreeing = [v for v in weighed if (v > 0 if up else v < 0)]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return (base.double() + torch.tensor(merged).double().view_as(base)).float()


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
def test_ties_trims_elects_and_merges(density: float) -> None:
    base, *others = drawn(6, 5, 3, count=4)
    weights = [1.0, 0.6, -0.5]
    ours = elected(base, others, weights, density=density, dtype=F32)
    assert torch.allclose(ours, trim_elect_merge(base, others, weights, density), atol=1e-6)


def test_ties_keeps_exactly_its_share_even_of_equal_magnitudes() -> None:
    base = torch.zeros(100)
    other = torch.tensor([1.0, -1.0] * 50)
    ours = elected(base, [other], [1.0], density=0.3, dtype=F32)
    assert int((ours != 0).sum()) == 30


def test_ties_of_one_model_without_trimming_is_that_model() -> None:
    base, other = drawn(40, count=2)
    assert torch.equal(elected(base, [other], [1.0], density=1.0, dtype=F32), other)


# -- DARE ------------------------------------------------------------------------------------------


def test_dare_keeps_each_place_larger_or_drops_it() -> None:
    base, other = drawn(20_000, count=2)
    ours = dropped(base, [other], [0.6], density=0.25, seeds=[3], elect=False, dtype=F32)
    learned = (ours - base) / (other - base)
    kept = learned.abs() > 1e-6
    assert torch.allclose(learned[kept], torch.tensor(0.6 / 0.25), atol=1e-2)
    assert float(kept.float().mean()) == pytest.approx(0.25, abs=0.02)


def test_dare_is_right_on_average() -> None:
    base, a, b = drawn(60, count=3)
    runs = [
        dropped(base, [a, b], [0.7, 0.3], density=0.5, seeds=[n, n + 9_000], elect=False, dtype=F32)
        for n in range(4_000)
    ]
    wanted = base + 0.7 * (a - base) + 0.3 * (b - base)
    assert torch.allclose(torch.stack(runs).mean(0), wanted, atol=0.15)


def test_dare_drops_by_its_seeds_alone() -> None:
    base, a, b = drawn(300, count=3)

    def ran(*seeds: int) -> Tensor:
        return dropped(base, [a, b], [1, 1], density=0.5, seeds=seeds, elect=False, dtype=F32)

    assert torch.equal(ran(1, 2), ran(1, 2))
    assert not torch.equal(ran(1, 2), ran(1, 3))
    assert not torch.equal(ran(1, 2), ran(2, 1))


def test_dare_ties_elects_of_what_was_not_dropped() -> None:
    base, a, b = drawn(400, count=3)
    apart = [
        dropped(base, [other], [1.0], density=0.5, seeds=[seed], elect=False, dtype=F32)
        for other, seed in ((a, 5), (b, 6))
    ]
    ours = dropped(base, [a, b], [0.8, 0.5], density=0.5, seeds=[5, 6], elect=True, dtype=F32)
    assert torch.allclose(ours, trim_elect_merge(base, apart, [0.8, 0.5], 1.0), atol=1e-5)


def test_every_place_has_a_seed_of_its_own() -> None:
    seeds = {
        place_seed(seed, model, part, name)
        for seed in (0, 1)
        for model in (0, 1)
        for part in ("unet", "vae")
        for name in ("a.weight", "b.weight")
    }
    assert len(seeds) == 16 and all(0 <= seed < 2**63 for seed in seeds)


def test_numbers_agree_with_numpy_to_the_last_digit() -> None:
    a, b = drawn(1000, count=2)
    wanted = (0.25 * a.double().numpy() + 0.75 * b.double().numpy()).astype(np.float32)
    assert np.array_equal(weighted_sum([a, b], (0.25, 0.75), F32).numpy(), wanted)
