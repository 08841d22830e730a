"""The seam measure is silent where nobody painted and loud on a patch that does not fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canvas_pictures import blob, landscape, thing
from safelight.canvas.continuation import continued, edged
from safelight.canvas.masks import blurred
from safelight.canvas.paste import pasted
from safelight.canvas.seam import Seam, seam
from safelight.errors import RequestError


def test_hardly_a_seam_is_seen_where_nothing_was_painted() -> None:
    """A mask may follow a thing's outline by chance: of 200 masks at most two give an alarm."""
    alarms, ratios = [], []
    for number in range(100):
        pixels = landscape(seed=number)
        hard = blob(96, 80, 7 * number + 1, 0.03 + 0.57 * number / 99)
        for mask in (hard, blurred(hard, 3.0)):
            found = seam(pixels, mask)
            ratios.append(found.ratio)
            if found.words != "no seam":
                alarms.append((number, found))
    assert len(alarms) <= 2, alarms
    assert 0.85 < np.median(ratios) < 1.15
    assert np.quantile(ratios, 0.95) < 1.6


@settings(max_examples=60, deadline=None)
@given(scene=st.integers(0, 200), shape=st.integers(0, 2**32), share=st.floats(0.03, 0.6))
def test_what_was_there_before_is_never_a_seam(scene: int, shape: int, share: float) -> None:
    pixels = landscape(seed=scene)
    for mask in (blob(96, 80, shape, share), blurred(blob(96, 80, shape, share), 3.0)):
        found = seam(pixels, mask, pixels)
        assert found.words in ("no seam", "no border"), found
        assert found.ratio <= 1 + 1e-6, found


def test_the_ratio_of_unpainted_pictures_is_about_one() -> None:
    ratios = [seam(landscape(seed=n), blob(96, 80, n)).ratio for n in range(40)]
    assert 0.9 < np.mean(ratios) < 1.1


@pytest.mark.parametrize("seed", range(5))
def test_a_patch_of_another_picture_is_a_plain_seam(seed: int) -> None:
    pixels, other = landscape(seed=seed), landscape(seed=seed + 50)[::-1]
    mask = np.zeros((80, 96), np.float32)
    mask[10:34, 20:70] = 1
    found = seam(pasted(pixels, other, mask), mask)
    assert found.words == "a plain seam" and found.ratio > 2.5, found


@pytest.mark.parametrize(("amount", "words"), [(12, "a faint seam"), (24, "a plain seam")])
def test_a_shift_of_colour_is_seen_on_a_flat_ground(amount: int, words: str) -> None:
    pixels = thing()
    mask = np.zeros((64, 64), np.float32)
    mask[:, :8] = 1
    lighter = np.minimum(pixels.astype(int) + amount, 255).astype(np.uint8)
    assert seam(pixels, mask).words == "no seam"
    assert seam(pasted(pixels, lighter, mask), mask).words == words


def test_a_soft_border_is_judged_from_further_away() -> None:
    """Over 16 pixels the same step is no jump between neighbours, but it is still there."""
    pixels = landscape(192, 160, 3)
    mask = np.zeros((160, 192), np.float32)
    mask[16:60, 30:150] = 1
    soft, darker = blurred(mask, 4.0), (pixels * 0.6).astype(np.uint8)
    found = seam(pasted(pixels, darker, soft), soft)
    assert found.scale > 1 and found.words != "no seam", found
    assert seam(pixels, soft).words == "no seam"


def test_an_outline_that_was_there_before_is_no_seam() -> None:
    pixels = thing()
    at = np.hypot(*(np.mgrid[:64, :64] - 31.5))
    mask = (at < 64 * 0.36).astype(np.float32)  # exactly the disc
    assert seam(pixels, mask).words == "a plain seam"
    told = seam(pixels, mask, original=pixels)
    assert told.words == "no seam" and told.ratio == pytest.approx(1)


def test_the_border_of_an_extended_picture_is_judged_alike() -> None:
    pixels = landscape(96, 80, 1)
    canvas = np.pad(pixels, ((0, 0), (0, 48), (0, 0)))
    mask = np.zeros((80, 144), np.float32)
    mask[:, 96:] = 1
    assert seam(canvas, mask).words == "a plain seam"  # black beside it
    assert seam(continued(canvas, mask), mask).words == "no seam"
    assert seam(edged(canvas, mask), mask).words == "no seam"


def test_words_allow_for_chance() -> None:
    assert Seam(1, 1, 3.0, 0.8, 9).words == "no seam"
    assert Seam(1, 1, 3.0, 0.3, 9).words == "a faint seam"
    assert Seam(1, 1, 3.0, 0.1, 9).words == "a plain seam"


def test_without_a_border_there_is_no_seam() -> None:
    for value in (0, 1):
        found = seam(landscape(), np.full((80, 96), value, np.float32))
        assert found.pairs == 0 and found.ratio == 1 and found.words == "no border"
    with pytest.raises(RequestError, match="size of its picture"):
        seam(landscape(), np.zeros((8, 8), np.float32))
