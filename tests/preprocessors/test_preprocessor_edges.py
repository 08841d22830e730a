"""What edges, lines and strokes are of shapes whose outlines are known."""

import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from safelight.errors import RequestError
from safelight.preprocessors.edges import canny, lineart, scribble, soft_edge
from safelight.preprocessors.filters import Pixels

SIDE, CENTRE, RADIUS = 96, 47.5, 30
EDGES = (canny, soft_edge, lineart, scribble)


def disc(colour: tuple[int, int, int] = (20, 30, 40), ground: int = 230) -> Pixels:
    image = Image.new("RGB", (SIDE, SIDE), (ground,) * 3)
    box = (CENTRE - RADIUS, CENTRE - RADIUS, CENTRE + RADIUS, CENTRE + RADIUS)
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    return np.asarray(image)


def distance() -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.hypot(x - CENTRE, y - CENTRE)


def angles(found: np.ndarray) -> set[int]:
    """Tenths of the circle in which there is something."""
    y, x = np.nonzero(found)
    turned = np.arctan2(y - CENTRE, x - CENTRE) / (2 * np.pi) % 1
    return set((turned * 20).astype(int).tolist())


def stroke(step: int = 200, width: int = 3) -> Pixels:
    """A dark vertical line on white."""
    picture = np.full((40, 60, 3), 240, np.uint8)
    picture[:, 30 : 30 + width] = 240 - step
    return picture


def test_a_discs_canny_is_its_outline() -> None:
    found = canny(disc())[:, :, 0]
    assert set(np.unique(found)) == {0, 255}
    assert np.abs(distance()[found > 0] - RADIUS).max() < 2
    assert angles(found) == set(range(20))


def test_canny_is_opencvs_of_the_colours() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 41, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(picture, (5, 5), 1.5)
    ours = canny(smooth, low=30, high=90)
    assert np.array_equal(ours[:, :, 0], cv2.Canny(smooth, 30, 90))
    assert 0 < ours.mean() < 255 and np.array_equal(ours[:, :, 0], ours[:, :, 2])


def test_higher_thresholds_keep_fewer_edges_and_no_new_ones() -> None:
    picture = cv2.GaussianBlur(
        np.random.default_rng(1).integers(0, 256, (60, 60, 3), dtype=np.uint8), (5, 5), 1.2
    )
    many, few = canny(picture, low=20, high=60), canny(picture, low=80, high=240)
    assert 0 < (few > 0).sum() < (many > 0).sum()
    assert not ((few > 0) & (many == 0)).any()


def test_canny_without_opencv_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RequestError, match=r"pip install 'safelight\[control\]'"):
        canny(disc())


def test_canny_refuses_thresholds_in_the_wrong_order() -> None:
    with pytest.raises(RequestError, match="low must not be above high; got 200 and 100"):
        canny(disc(), low=200, high=100)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("value", [0, 127, 255])
def test_a_picture_of_one_colour_has_no_edges(edge: object, value: int) -> None:
    assert not edge(np.full((33, 20, 3), value, np.uint8)).any()  # type: ignore[operator]


@pytest.mark.parametrize("edge", [soft_edge, lineart, scribble])  # canny breaks ties to one side
def test_a_mirrored_picture_has_mirrored_edges(edge: object) -> None:
    picture = disc()[10:, 5:]
    found, turned = edge(picture), edge(np.ascontiguousarray(picture[:, ::-1]))  # type: ignore[operator]
    assert found.any() and np.abs(found.astype(int) - turned[:, ::-1]).max() <= 1


@pytest.mark.parametrize("edge", [soft_edge, lineart, scribble])
def test_edges_need_no_opencv(edge: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert edge(disc()).any()  # type: ignore[operator]


# -- soft edges ----------------------------------------------------------------------------------


def test_a_soft_edge_is_brightest_on_the_outline_all_around() -> None:
    found = soft_edge(disc(), gain=0.5)[:, :, 0].astype(int)
    assert angles(found > 0.85 * found.max()) == set(range(20))
    assert np.abs(distance()[found > 0.85 * found.max()] - RADIUS).max() < 2.2
    assert found[np.abs(distance() - RADIUS) > 14].max() < 0.1 * found.max()


def test_a_long_step_is_as_bright_as_it_is_high() -> None:
    picture = np.full((64, 64, 3), 50, np.uint8)
    picture[:, 32:] = 130
    found = soft_edge(picture, detail=4.0, gain=1.0)[32, :, 0]
    assert found.max() == pytest.approx(80, rel=0.03)  # whatever the scale
    assert found[31] == found[32] == found.max()
    double = soft_edge(picture, detail=4.0, gain=2.0)[32, :, 0]
    assert np.abs(double.astype(int) - 2 * found.astype(int)).max() <= 1


def test_soft_edges_do_not_care_which_side_is_dark() -> None:
    picture = disc()
    assert np.abs(soft_edge(picture).astype(int) - soft_edge(255 - picture)).max() <= 1


def test_fine_texture_is_fainter_than_what_bounds_a_thing() -> None:
    picture = np.full((64, 64, 3), 60, np.uint8)
    picture[:, 32:] = 160
    picture[:, 5:25:2] = 160
    found = soft_edge(picture, gain=1.0)[32, :, 0].astype(int)
    assert found[10:20].max() < 0.5 * found[30:34].max()


# -- lines and strokes ---------------------------------------------------------------------------


def drawing() -> Pixels:
    """Lines of several greys, and noise as of a scan."""
    rng = np.random.default_rng(4)
    picture = np.full((50, 70, 3), 245.0)
    picture[10:12], picture[:, 40:43], picture[30:31, 5:30] = 30, (90, 60, 120), 150
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def test_lineart_is_the_formula_of_a1111() -> None:
    x = drawing().astype(np.float32)
    around = cv2.GaussianBlur(x, (0, 0), 6.0)
    depth = np.min(around - x, axis=2).clip(0, 255)
    theirs = (depth / max(16, np.median(depth[depth > 8])) * 127).clip(0, 255).astype(np.uint8)
    difference = np.abs(lineart(drawing())[:, :, 0].astype(int) - theirs)
    assert theirs.max() > 200 and difference.max() <= 1


def test_lineart_draws_dark_lines_white_on_black() -> None:
    found = lineart(stroke())[:, :, 0]
    assert found[:, 30:33].min() > 100 and found[:, :27].max() == found[:, 36:].max() == 0
    assert not lineart(255 - stroke())[:, 30:33].any()
    light = lineart(255 - stroke(), lines="light")[:, :, 0]
    assert np.abs(light.astype(int) - found).max() <= 1


def test_a_faint_line_stays_fainter_than_a_strong_one() -> None:
    assert 0 < lineart(stroke(step=10)).max() < lineart(stroke(step=100)).max()


def test_scribble_is_the_formula_of_a1111_where_bytes_do_not_overflow() -> None:
    x = drawing().astype(np.float32)
    fine, coarse = cv2.GaussianBlur(x, (0, 0), 0.5), cv2.GaussianBlur(x, (0, 0), 5.0)
    dog = (255 - np.min(coarse - fine, axis=2)).clip(0, 255).astype(np.uint8)
    wide = 2 * (255 - dog.astype(int))
    ours = scribble(drawing())[:, :, 0]
    assert np.mean(ours == np.where(wide > 32, 255, 0)) > 0.999  # but for ties in float32
    holes = (wide > 255) & (ours > 0)
    assert holes.any() and not np.where(2 * (255 - dog) > 32, 255, 0)[holes].all()


def test_a_stroke_is_thick_and_hard() -> None:
    found = scribble(stroke())
    assert set(np.unique(found)) == {0, 255}
    columns = np.nonzero(found[20, :, 0])[0]
    assert columns.min() <= 30 and columns.max() >= 32 and len(columns) >= 3
    more = scribble(stroke(step=20), threshold=8)
    assert more.sum() > scribble(stroke(step=20), threshold=64).sum()
