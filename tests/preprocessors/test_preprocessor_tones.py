"""Laws of inverting, cutting, blurring, coarsening and shuffling."""

import numpy as np
import pytest

from safelight.preprocessors.shuffle import shuffled
from safelight.preprocessors.tones import blurry, colour, inverted, thresholded, tile, unchanged

RNG = np.random.default_rng(8)
NOISE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_none_is_a_copy() -> None:
    made = unchanged(NOISE)
    assert np.array_equal(made, NOISE) and not np.shares_memory(made, NOISE)


def test_inverting_twice_changes_nothing() -> None:
    assert np.array_equal(inverted(inverted(NOISE)), NOISE)
    assert np.array_equal(inverted(NOISE).astype(int) + NOISE, np.full(NOISE.shape, 255))


def test_threshold_is_white_where_all_channels_are_above_it() -> None:
    found = thresholded(NOISE, level=90)
    above = (NOISE > 90).all(axis=2)
    assert np.array_equal(found == 255, np.repeat(above[:, :, None], 3, axis=2))
    assert set(np.unique(found)) == {0, 255}


def test_blur_keeps_the_mean_and_loses_contrast() -> None:
    found = blurry(NOISE, sigma=3.0)
    assert abs(found.mean() - NOISE.mean()) < 2 and found.std() < 0.3 * NOISE.std()
    assert np.array_equal(blurry(NOISE, sigma=0.01), NOISE)


def test_tile_of_factor_one_is_the_picture() -> None:
    assert np.array_equal(tile(NOISE), NOISE)


def test_tile_keeps_large_shapes_and_loses_texture() -> None:
    picture = NOISE // 8
    picture[:, 32:] += 150
    found = tile(picture, factor=8.0)
    assert found.shape == picture.shape
    assert found[:, 48:].mean() - found[:, :16].mean() == pytest.approx(150, abs=5)
    assert found[:, 48:].std() < 0.5 * picture[:, 48:].std()
    assert tile(picture, factor=64.0).shape == picture.shape


def test_each_cell_of_the_grid_is_the_mean_of_its_pixels() -> None:
    found = colour(NOISE, cell=16)
    means = NOISE.reshape(3, 16, 4, 16, 3).astype(float).mean((1, 3))
    cells = found.reshape(3, 16, 4, 16, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    assert np.abs(cells[:, 0, :, 0] - means).max() <= 1


def test_the_grid_has_a_cell_even_if_the_picture_is_smaller() -> None:
    found = colour(NOISE, cell=500)
    assert (found == found[0, 0]).all()
    assert colour(NOISE[:37, :50], cell=16).shape == (37, 50, 3)


# -- shuffle -------------------------------------------------------------------------------------


def test_shuffle_follows_its_seed() -> None:
    assert np.array_equal(shuffled(NOISE, seed=5), shuffled(NOISE, seed=5))
    assert not np.array_equal(shuffled(NOISE, seed=5), shuffled(NOISE, seed=6))


def test_shuffle_has_no_colour_that_the_picture_has_not() -> None:
    flat = np.full((40, 30, 3), (10, 200, 90), np.uint8)
    assert np.array_equal(shuffled(flat), flat)
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 255
    found = shuffled(halves)
    # linear between neighbours: nearly every pixel is one of the two, and both are there
    assert np.isin(found, (0, 255)).mean() > 0.9
    assert 0.1 < (found > 127).mean() < 0.9


def test_shuffle_takes_from_border_to_border_along_a_smooth_flow() -> None:
    height, width = 50, 70
    places = np.zeros((height, width, 3), np.uint8)
    places[:, :, 0] = np.arange(width)[None, :]
    places[:, :, 1] = np.arange(height)[:, None]
    found = shuffled(places, seed=2).astype(int)
    # each pixel says where it came from
    assert (found[:, :, 0].min(), found[:, :, 0].max()) == (0, width - 1)
    assert (found[:, :, 1].min(), found[:, :, 1].max()) == (0, height - 1)
    assert max(np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1)) < 12
    moved = np.abs(found[:, :, :2] - places[:, :, :2].astype(int)).mean()
    assert moved > 8


def test_more_patches_make_a_rougher_flow() -> None:
    places = np.zeros((96, 96, 3), np.uint8)
    places[:, :, 0] = np.arange(96)[None, :] * 2
    rough = [
        np.abs(np.diff(shuffled(places, patches=n).astype(int), axis=1)).mean() for n in (1, 8)
    ]
    assert rough[1] > 2 * rough[0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (3, 2)])
def test_shuffle_takes_the_smallest_pictures(shape: tuple[int, int]) -> None:
    assert (
        shuffled(np.full((*shape, 3), 9, np.uint8), patches=4).tolist()
        == [[[9, 9, 9]] * shape[1]] * shape[0]
    )


def test_the_flow_is_the_same_on_every_machine() -> None:
    # recorded with this library: the numbers come from Python's own generator and Pillow's filter
    ramp = np.zeros((8, 8, 3), np.uint8)
    ramp[:, :, 0] = np.arange(8) * 30
    ramp[:, :, 1] = np.arange(8)[:, None] * 30
    assert shuffled(ramp, seed=1)[::3, ::3, :2].tolist() == [
        [[0, 178], [58, 184], [151, 161]],
        [[70, 164], [85, 139], [152, 136]],
        [[169, 81], [74, 11], [87, 69]],
    ]
