import hashlib
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from safelight.diffusion.brownian import node_seed
from safelight.diffusion.noise import Noise, generator, slerp
from safelight.diffusion.philox import PhiloxGenerator
from safelight.errors import RequestError

SHAPE = (4, 8, 6)
SOURCES = ["cpu", "nv"]


def torch_randn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    rng = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn(shape, generator=rng) for shape in shapes]


# --- one generator per picture ------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_four_pictures_are_four_single_ones(source: str) -> None:
    options = {"subseed_strength": 0.3, "eta_seed_delta": 31337, "multiplier": 1.1}
    seeds, subseeds = [7, 8, 9, 10], [70, 80, 90, 100]
    together = Noise(seeds, SHAPE, source=source, subseeds=subseeds, **options)  # type: ignore
    alone = [
        Noise([seed], SHAPE, source=source, subseeds=[subseed], **options)  # type: ignore
        for seed, subseed in zip(seeds, subseeds, strict=True)
    ]
    for _ in range(3):
        assert torch.equal(together(), torch.cat([noise() for noise in alone]))
    levels = [9.0, 3.3, 0.2, 0.0]
    for high, low in itertools.pairwise(levels):
        batch = together.brownian(high, low)
        assert torch.equal(batch, torch.cat([noise.brownian(high, low) for noise in alone]))


def test_cpu_noise_is_torchs_own_stream() -> None:
    noise = Noise([5], SHAPE)
    for expected in torch_randn(5, SHAPE, SHAPE, SHAPE):
        assert torch.equal(noise()[0], expected)


def test_draws_are_float32_and_repeatable() -> None:
    for source in SOURCES:
        first, again = (Noise([1, 2], SHAPE, source=source) for _ in range(2))  # type: ignore
        for _ in range(2):
            draw = first()
            assert draw.dtype == torch.float32 and draw.shape == (2, *SHAPE)
            assert torch.equal(draw, again())


def test_brownian_and_plain_draws_do_not_disturb_each_other() -> None:
    mixed, plain = Noise([3], SHAPE), Noise([3], SHAPE)
    mixed.brownian(5, 2)
    assert torch.equal(mixed(), plain())
    mixed.brownian(2, 1)
    assert torch.equal(mixed(), plain())


def test_wrong_noise_is_refused() -> None:
    with pytest.raises(RequestError, match="at least one seed"):
        Noise([], SHAPE)
    with pytest.raises(RequestError, match="a subseed for each of 2 seeds; got 1"):
        Noise([1, 2], SHAPE, subseeds=[3])
    with pytest.raises(RequestError, match="unknown noise source 'gpu'; choose cpu or nv"):
        Noise([1], SHAPE, source="gpu")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="a seed must lie between"):
        generator(2**64)


# --- the imitation of CUDA ----------------------------------------------------------------------

# A1111's modules/rng_philox.py, docstring
CUDA_SEED_0 = [
    [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
    [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
    [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
]


def test_philox_gives_the_published_numbers() -> None:
    drawn = PhiloxGenerator(0).randn((3, 4))
    assert torch.allclose(drawn, torch.tensor(CUDA_SEED_0), rtol=0, atol=1e-7)


def philox_by_hand(counter: list[int], seed: int) -> list[int]:
    """Salmon et al. 2011, section 4.2, one counter in plain integers."""
    c, key = list(counter), [seed % 2**32, seed >> 32]
    for _ in range(10):
        high0, low0 = divmod(c[0] * 0xD2511F53, 2**32)
        high1, low1 = divmod(c[2] * 0xCD9E8D57, 2**32)
        c = [high1 ^ c[1] ^ key[0], low1, high0 ^ c[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return c


def test_philox_agrees_with_integers_for_wide_seeds_and_later_draws() -> None:
    # known answers of the authors' Random123, kat_vectors philox4x32 10
    assert philox_by_hand([0] * 4, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 2**32 - 1
    known = [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert philox_by_hand([ones] * 4, 2**64 - 1) == known
    for seed in (0, 123, 2**40 + 17, 2**64 - 1):
        stream = PhiloxGenerator(seed)
        for draw in range(3):
            got = stream.randn((2, 3)).flatten()
            for i in range(6):
                x, y, _, _ = philox_by_hand([draw, 0, i, 0], seed)
                u, v = (x + 0.5) / 2**32, (y + 0.5) / 2**32
                expected = math.sqrt(-2 * math.log(u)) * math.sin(2 * math.pi * v)
                assert float(got[i]) == pytest.approx(expected, abs=1e-6)


def test_philox_is_normal() -> None:
    drawn = PhiloxGenerator(42).randn((200_000,)).double()
    assert drawn.mean().abs() < 0.01 and drawn.std() == pytest.approx(1, abs=0.01)
    assert (drawn**4).mean() == pytest.approx(3, abs=0.06)


# --- variation, resizing, ENSD ------------------------------------------------------------------


def test_subseeds_turn_one_noise_into_another() -> None:
    (start,), (end,) = torch_randn(1, SHAPE), torch_randn(2, SHAPE)

    def at(strength: float) -> Tensor:
        return Noise([1], SHAPE, subseeds=[2], subseed_strength=strength)()[0]

    assert torch.equal(at(0), start)
    assert torch.allclose(at(1), end, atol=1e-6)
    middle = at(0.4)
    norms = (start.norm(dim=1), middle.norm(dim=1), end.norm(dim=1))
    # on the arc between, so neither shorter nor longer than both by much more than they differ
    assert not torch.equal(middle, start) and not torch.equal(middle, end)
    assert (norms[1] <= torch.maximum(norms[0], norms[2]) + 1e-5).all()


def test_slerp_turns_each_column_evenly() -> None:
    start, end = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(4))
    start, end = (t / t.norm(dim=1, keepdim=True) for t in (start, end))
    whole = (start * end).sum(1).acos()
    for strength in (0.25, 0.5, 0.9):
        mixed = slerp(strength, start, end)
        assert torch.allclose(mixed.norm(dim=1), torch.ones_like(whole), atol=1e-5)
        turned = (start * mixed).sum(1).clamp(-1, 1).acos()
        assert torch.allclose(turned, strength * whole, atol=2e-3)


def test_slerp_of_nearly_equal_noise_is_linear() -> None:
    start, other = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(4))
    end = start + 0.01 * other
    assert torch.allclose(slerp(0.3, start, end), 0.7 * start + 0.3 * end, atol=1e-6)
    assert torch.equal(slerp(0.5, start, start), start)


def test_slerp_of_parallel_columns_is_finite() -> None:
    # with one row all columns are parallel, and some point the other way
    start, end = torch.randn(2, 4, 1, 16, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(slerp(0.3, start, end), 0.7 * start + 0.3 * end, atol=1e-6)


def test_later_draws_ignore_the_subseed_and_the_multiplier() -> None:
    plain = Noise([1], SHAPE)
    varied = Noise([1], SHAPE, subseeds=[2], subseed_strength=0.5, multiplier=2.0)
    assert not torch.equal(plain(), varied())
    assert torch.equal(plain(), varied())


def test_the_multiplier_scales_the_first_draw() -> None:
    assert torch.equal(Noise([1], SHAPE, multiplier=1.25)(), 1.25 * Noise([1], SHAPE)())


def test_eta_draws_come_from_the_seed_plus_delta() -> None:
    noise = Noise([1], SHAPE, eta_seed_delta=31337)
    assert torch.equal(noise()[0], torch_randn(1, SHAPE)[0])
    for expected in torch_randn(31338, SHAPE, SHAPE):
        assert torch.equal(noise()[0], expected)


@pytest.mark.parametrize("other", [(4, 4), (8, 4), (12, 10), (5, 11), (8, 6)])
def test_noise_of_another_size_fills_the_centre(other: tuple[int, int]) -> None:
    noise = Noise([1], SHAPE, resize_from=other)()[0]
    (inner,), (outer,) = torch_randn(1, (SHAPE[0], *other)), torch_randn(1, SHAPE)
    (h, w), (oh, ow) = SHAPE[1:], other
    if oh <= h and ow <= w:
        top, left = (h - oh) // 2, (w - ow) // 2
        assert torch.equal(noise[:, top : top + oh, left : left + ow], inner)
        outer[:, top : top + oh, left : left + ow] = inner
        assert torch.equal(noise, outer)
    elif oh >= h and ow >= w:
        top, left = (oh - h) // 2, (ow - w) // 2
        assert torch.equal(noise, inner[:, top : top + h, left : left + w])
    else:  # lower and wider: floors of odd differences are A1111's
        assert torch.equal(noise[:, 1 : 1 + oh, : ow - 6], inner[:, :, 3 : ow - 3])
        assert torch.equal(noise[:, 0], outer[:, 0])
    assert torch.equal(Noise([1], SHAPE, resize_from=SHAPE[1:])(), Noise([1], SHAPE)())


# --- Brownian paths -----------------------------------------------------------------------------

LEVELS = st.floats(min_value=0, max_value=2e4, allow_nan=False)


def scaled(noise: Noise, start: float, end: float) -> Tensor:
    return noise.brownian(start, end).double() * math.sqrt(abs(end - start))


@settings(deadline=None, max_examples=40)
@given(a=LEVELS, b=LEVELS, c=LEVELS, seed=st.integers(0, 2**32))
def test_increments_over_parts_add_up_to_the_whole(a: float, b: float, c: float, seed: int) -> None:
    noise = Noise([seed], (1, 2, 3))
    whole, first, second = scaled(noise, a, c), scaled(noise, a, b), scaled(noise, b, c)
    assert torch.allclose(whole, first + second, rtol=0, atol=1e-4 * math.sqrt(max(a, b, c, 1)))


def test_the_path_does_not_depend_on_what_was_asked_before() -> None:
    levels = [14.6, 9.1, 5.47, 3.0, 1.75, 0.9, 0.03, 0.0]
    steps = list(itertools.pairwise(levels))
    forwards, backwards = Noise([5], SHAPE), Noise([5], SHAPE)
    there = {step: forwards.brownian(*step) for step in steps}
    back = {step: backwards.brownian(*step) for step in reversed(steps)}
    for step in steps:
        assert torch.equal(there[step], back[step])
        assert torch.equal(there[step], Noise([5], SHAPE).brownian(*step))


def test_increments_turn_their_sign_with_the_direction() -> None:
    noise = Noise([5], SHAPE)
    assert torch.equal(noise.brownian(3, 1), -noise.brownian(1, 3))
    assert not noise.brownian(3, 3).any()


def test_increments_accept_tensors() -> None:
    noise = Noise([5], SHAPE)
    high, low = torch.tensor(3.25, dtype=torch.float64), torch.tensor(1.5)
    assert torch.equal(noise.brownian(high, low), noise.brownian(3.25, 1.5))


def test_increments_have_unit_variance_and_disjoint_ones_are_independent() -> None:
    noise = Noise([11], (1, 100, 200))
    levels = [1e4, 20.0, 14.6, 14.5, 7.0, 1.0, 0.98, 0.5, 0.04, 0.029, 1e-4, 0.0]
    parts = torch.stack([noise.brownian(*step).flatten() for step in itertools.pairwise(levels)])
    covariance = parts.double().cov()
    # 20,000 samples: deviations of 0.007 off and 0.01 on the diagonal
    assert torch.allclose(covariance, torch.eye(len(parts)).double(), atol=0.045)
    assert parts.mean(1).abs().max() < 0.035


def test_levels_in_a_step_follow_the_bridge_of_its_ends() -> None:
    # given both ends, W(b) is normal around the chord with variance (b - a)(c - b)/(c - a)
    noise = Noise([12], (1, 100, 200))
    a, b, c = 2.0, 3.1, 7.7
    chord = (b - a) / (c - a) * scaled(noise, a, c)
    rest = scaled(noise, a, b) - chord
    assert rest.var() == pytest.approx((b - a) * (c - b) / (c - a), rel=0.05)
    assert torch.stack([rest.flatten(), chord.flatten()]).corrcoef()[0, 1].abs() < 0.035


def test_float32_levels_walk_nearly_the_same_path() -> None:
    noise = Noise([13], SHAPE)
    high, low = torch.tensor([14.614641, 9.102934], dtype=torch.float64)
    exact, rounded = noise.brownian(high, low), noise.brownian(high.float(), low.float())
    assert torch.allclose(exact, rounded, rtol=0, atol=3e-3)


def test_pictures_walk_different_paths() -> None:
    parts = Noise([1, 2], (1, 100, 200)).brownian(5, 2).flatten(1)
    assert parts.corrcoef()[0, 1].abs() < 0.035


def test_nodes_have_the_documented_seeds() -> None:
    digest = hashlib.blake2b(b"brownian/42/3/2/1", digest_size=8).digest()
    assert node_seed(42, 3, 2, 1) == int.from_bytes(digest, "big") >> 1
    # W(2^-10) is the first increment of the lowest interval
    increment = Noise([42], SHAPE).brownian(0, 2**-10)[0]
    assert torch.equal(increment, torch_randn(node_seed(42, -11, 0, 0), SHAPE)[0])
