"""Held-out cells follow the published rules, and colours are told apart."""

import hashlib
from itertools import combinations, pairwise

import numpy as np
import pytest

from safelight.training.scenes.colours import (
    BACKGROUNDS,
    NAMES,
    RECOLOURS,
    distance,
    hsv_rgb,
    lab,
    nearest_colour,
    nearest_colours,
)
from safelight.training.scenes.holdout import (
    background_held_out,
    count_held_out,
    digest,
    held_out_families,
    pair_held_out,
    recolour_held_out,
)

# As the published shards of emoji have them: backgrounds of the red apple, lost families.
APPLE = ["red", "purple"]
LOST = {
    "2764": "fxemoji",
    "26EA": "fxemoji",
    "1F4BC": "noto-v1",
    "1F403": "noto-v1",
    "1F37B": "fluent",
    "1F52D": "fluent",
    "1F5D1": "emojitwo",
    "1F629": "emojitwo",
    "2728": "twemoji",
    "1F4D3": "twemoji",
    "1F694": "noto",
    "1F36E": "noto",
}


def test_a_digest_is_the_first_eight_bytes_of_sha_256_big_endian() -> None:
    # SHA-256 of "abc", FIPS 180-4 appendix: ba7816bf 8f01cfea ...
    assert digest("abc") == 0xBA7816BF8F01CFEA


def test_about_a_tenth_of_the_cells_is_held_out() -> None:
    codes = [f"1F{n:03X}" for n in range(2000)]
    for share in (
        np.mean([background_held_out(c, n) for c in codes for n in NAMES]),
        np.mean([recolour_held_out(c, n) for c in codes for n in RECOLOURS]),
        np.mean([count_held_out(c, n) for c in codes for n in (2, 3, 4)]),
        np.mean([pair_held_out(a, b) for a, b in pairwise(codes)]),
    ):
        assert share == pytest.approx(0.1, abs=0.02)


def test_a_pair_is_held_out_in_either_order() -> None:
    for one, other in combinations([f"1F{n:03X}" for n in range(60)], 2):
        assert pair_held_out(one, other) == pair_held_out(other, one)


def test_background_cells_are_hashed_as_published() -> None:
    word = int(hashlib.sha256(b"bg:1F34E:blue").hexdigest()[:16], 16)
    assert background_held_out("1F34E", "blue") == (word % 10 == 0)
    assert [n for n in NAMES if background_held_out("1F34E", n)] == APPLE


def test_only_concepts_of_four_families_lose_one() -> None:
    few = {f"1F{n:03X}": ["a", "b", "c"] for n in range(500)}
    assert held_out_families(few) == {}
    many = {code: ["d", "c", "b", "a", "a"] for code in few}
    lost = held_out_families(many)
    assert len(lost) / len(many) == pytest.approx(1 / 8, abs=0.04)
    assert set(lost.values()) == {"a", "b", "c", "d"}


def test_the_published_families_are_held_out() -> None:
    every = ("emojitwo", "fluent", "fxemoji", "noto", "noto-v1", "twemoji")
    assert held_out_families(dict.fromkeys(LOST, every)) == LOST


def test_lab_agrees_with_published_values() -> None:
    # Bruce Lindbloom's calculator, sRGB, D65.
    assert lab((255, 255, 255)) == pytest.approx([100, 0, 0], abs=0.02)
    assert lab((255, 0, 0)) == pytest.approx([53.2408, 80.0925, 67.2032], abs=0.02)
    assert lab((0, 0, 255)) == pytest.approx([32.2970, 79.1875, -107.8602], abs=0.02)
    assert lab((10, 10, 10)) == pytest.approx([2.7417, 0, 0], abs=0.02)


def test_the_twelve_colours_are_far_apart_and_bear_their_jitter() -> None:
    assert len(NAMES) == 12
    gaps = [float(distance(BACKGROUNDS[a], BACKGROUNDS[b])) for a, b in combinations(NAMES, 2)]
    assert min(gaps) > 35
    jitter = np.random.default_rng(0).integers(-10, 11, (2000, 3))
    for number, rgb in enumerate(BACKGROUNDS.values()):
        assert (nearest_colours((np.array(rgb) + jitter).clip(0, 255)) == number).all()


def test_recolours_lie_at_the_backgrounds_of_their_name() -> None:
    assert {name: nearest_colour(hsv_rgb(*hsv)) for name, hsv in RECOLOURS.items()} == {
        name: name for name in RECOLOURS
    }
