"""The three resize modes are A1111's, pixel for pixel; masks go with their pictures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from safelight.canvas.resize import RESIZES, mask_resized_by, resized_by
from safelight.errors import RequestError

SIDES = st.integers(3, 60)


def noise(width: int, height: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(width * 100 + height)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def line_by_line(mode: str, image: Image.Image, width: int, height: int) -> Image.Image:
    """A1111's rule written out anew: whole numbers for sizes, and borders line by line."""
    if mode == "just":
        return image.resize((width, height), Image.Resampling.LANCZOS)
    own = image.width / image.height
    wide = width / height > own if mode == "crop" else width / height < own
    if wide:
        inner = image.resize(
            (width, max(image.height * width // image.width, 1)), Image.Resampling.LANCZOS
        )
    else:
        inner = image.resize(
            (max(image.width * height // image.height, 1), height), Image.Resampling.LANCZOS
        )
    x, y = width // 2 - inner.width // 2, height // 2 - inner.height // 2
    pixels = np.asarray(inner).astype(np.float64)
    frame = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            r, c = row - y, column - x
            if 0 <= r < inner.height and 0 <= c < inner.width:
                frame[row, column] = pixels[r, c]
            elif 0 <= c < inner.width:  # bicubic at the picture's very edge: 9/8 and -1/8
                first, second = (0, 1) if r < 0 else (-1, -2)
                frame[row, column] = edge(pixels[:, c], first, second)
            else:
                first, second = (0, 1) if c < 0 else (-1, -2)
                frame[row, column] = edge(pixels[r], first, second)
    return Image.fromarray(frame.round().clip(0, 255).astype(np.uint8))


def edge(line: NDArray[np.float64], first: int, second: int) -> NDArray[np.float64]:
    if len(line) == 1:
        return line[0]
    return 1.125 * line[first] - 0.125 * line[second]


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(sorted(RESIZES)), own=st.tuples(SIDES, SIDES), to=st.tuples(SIDES, SIDES)
)
def test_every_mode_is_a1111s(mode: str, own: tuple[int, int], to: tuple[int, int]) -> None:
    pixels = noise(*own)
    made = resized_by(mode, pixels, to)
    assert made.shape == (to[1], to[0], 3) and made.dtype == np.uint8
    wanted = np.asarray(line_by_line(mode, Image.fromarray(pixels), *to))
    assert np.abs(made.astype(int) - wanted).max() <= 1


@given(mode=st.sampled_from(sorted(RESIZES)), size=st.tuples(SIDES, SIDES))
def test_a_picture_of_the_right_size_stays_as_it_is(mode: str, size: tuple[int, int]) -> None:
    pixels = noise(*size)
    assert (resized_by(mode, pixels, size) == pixels).all()


@given(own=st.tuples(SIDES, SIDES), to=st.tuples(SIDES, SIDES))
def test_no_mode_leaves_black_behind(own: tuple[int, int], to: tuple[int, int]) -> None:
    """A1111 leaves the last row black where the border is odd; we go on to the end."""
    white = np.full((own[1], own[0], 3), 255, np.uint8)
    for mode in RESIZES:
        assert (resized_by(mode, white, to) == 255).all(), mode


@given(own=st.tuples(SIDES, SIDES), to=st.tuples(SIDES, SIDES))
def test_a_mask_is_resized_like_its_picture(own: tuple[int, int], to: tuple[int, int]) -> None:
    levels = noise(*own)[..., 0]
    mask = levels.astype(np.float32) / 255
    for mode in RESIZES:
        grey = resized_by(mode, np.repeat(levels[..., None], 3, 2), to)[..., 0]
        made = mask_resized_by(mode, mask, to)
        assert made.dtype == np.float32 and made.min() >= 0 and made.max() <= 1
        assert np.allclose(made * 255, grey, atol=1e-3)


def test_what_is_no_mode_or_no_size_is_refused() -> None:
    pixels = noise(4, 4)
    with pytest.raises(RequestError, match="just, crop, fill; got 'zoom'"):
        resized_by("zoom", pixels, (8, 8))
    with pytest.raises(RequestError, match="0 x 8"):
        resized_by("crop", pixels, (0, 8))
