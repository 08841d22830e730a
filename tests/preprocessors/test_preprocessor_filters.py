"""Filters against OpenCV and SciPy, and what resizing keeps."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from safelight.preprocessors.filters import blurred, gradient, grey, resized

RNG = np.random.default_rng(3)
PICTURE = RNG.integers(0, 256, (37, 52, 3), dtype=np.uint8)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 6.0, 23.0])
def test_the_blur_is_scipys_with_mirrored_borders(sigma: float) -> None:
    theirs = ndimage.gaussian_filter(PICTURE.astype(float), (sigma, sigma, 0), mode="mirror")
    assert np.abs(blurred(PICTURE, sigma) - theirs).max() < 1e-9


@pytest.mark.parametrize("sigma", [0.5, 5.0, 6.0])
def test_the_blur_is_opencvs_of_floats(sigma: float) -> None:
    theirs = cv2.GaussianBlur(PICTURE.astype(np.float32), (0, 0), sigma)
    assert np.abs(blurred(PICTURE, sigma) - theirs).max() < 0.02  # OpenCV's kernel is float32


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_a_picture_smaller_than_the_blur_keeps_its_colour_and_shape(shape: tuple[int, int]) -> None:
    flat = np.full((*shape, 3), 77, np.uint8)
    assert np.allclose(blurred(flat, 9.0), 77)
    assert blurred(flat, 9.0).shape == gradient(blurred(flat, 1.0)).shape == (*shape, 3)


def test_no_blur_changes_nothing() -> None:
    assert np.array_equal(blurred(PICTURE, 0.0), PICTURE)


def test_a_ramp_is_as_steep_as_it_is() -> None:
    ramp = np.tile(np.arange(20.0)[None, :, None] * 3, (10, 1, 3))
    assert np.allclose(gradient(ramp), 3.0)


def test_a_hard_map_has_no_new_value_at_another_size() -> None:
    lines = grey(np.where(RNG.random((30, 40)) > 0.5, 255, 0))
    for size in ((80, 64), (17, 13), (40, 31)):
        assert set(np.unique(resized(lines, size, hard=True))) <= {0, 255}
        assert resized(lines, size).shape == (size[1], size[0], 3)


def test_reducing_by_a_whole_factor_takes_means() -> None:
    small = resized(PICTURE[:36], (26, 18))
    means = PICTURE[:36].astype(float).reshape(18, 2, 26, 2, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 1


def test_a_thin_line_does_not_break_on_the_way_down() -> None:
    line = grey(np.eye(64) * 255)
    for side in (32, 21, 16):
        small = resized(line, (side, side), hard=True)[:, :, 0]
        assert (small.diagonal() == 255).all() and set(np.unique(small)) == {0, 255}
        assert not small[0, side // 2 :].any()
