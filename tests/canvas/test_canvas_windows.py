"""Extensions are placed exactly; windows cover what is missing from the picture outwards."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from safelight.canvas.extension import Extension, on_canvas, overlapped, placed, unknown
from safelight.canvas.region import Region, whole
from safelight.canvas.windows import endless, weights, windows
from safelight.errors import RequestError

GROWTH = st.integers(0, 150)
EXTENSIONS = st.builds(Extension, GROWTH, GROWTH, GROWTH, GROWTH)
SIZES = st.tuples(st.integers(8, 120), st.integers(8, 120))


# --- the extension ----------------------------------------------------------------------------


def test_extensions_are_read() -> None:
    assert Extension.parse("left=256, right = 64") == Extension(256, 64, 0, 0)
    assert Extension.parse("all=32,top=0") == Extension(32, 32, 0, 32)
    assert str(Extension(256, 0, 0, 8)) == "left=256,bottom=8"


@given(wanted=EXTENSIONS)
def test_an_extension_is_read_back_from_its_text(wanted: Extension) -> None:
    if wanted != Extension():
        assert Extension.parse(str(wanted)) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "such as left=256"),
        ("left", "got 'left'"),
        ("up=3", "got 'up=3'"),
        ("left=-3", "got 'left=-3'"),
        ("left=3,left=4", "left twice"),
        ("left=0", "at least 1 pixel"),
        ("left=9000", "0 to 8192"),
        ("left=1.5", "got 'left=1.5'"),
        ("left=" + "9" * 5000, "such as"),
    ],
)
def test_other_texts_are_refused(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        Extension.parse(text)
    assert len(str(caught.value)) < 300


@given(size=SIZES, wanted=EXTENSIONS, multiple=st.sampled_from([1, 8, 64]))
def test_a_placement_is_whole_cells_and_holds_the_picture(
    size: tuple[int, int], wanted: Extension, multiple: int
) -> None:
    made = placed(size, wanted, multiple)
    assert made.size[0] % multiple == 0 and made.size[1] % multiple == 0
    assert made.picture.size == size
    assert made.picture.inside(made.result) and made.result.inside(whole(made.size))
    got, asked = made.extension, wanted
    for side in ("left", "right", "top", "bottom"):
        more = getattr(got, side) - getattr(asked, side)
        assert 0 <= more < multiple
        assert getattr(asked, side) > 0 or more == 0, "a side that nobody asked for has grown"
    assert made.result.size == (size[0] + got.left + got.right, size[1] + got.top + got.bottom)
    assert bool(made.notes) == (got != asked)
    assert unknown(made).sum() == made.size[0] * made.size[1] - size[0] * size[1]


def test_what_was_rounded_is_said() -> None:
    made = placed((100, 64), Extension(left=30), 8)
    assert made.size == (136, 64) and made.extension.left == 36
    assert "left=36 instead of left=30" in made.notes[0]
    unasked = placed((100, 61), Extension(right=28), 8)
    assert unasked.size == (128, 64) and unasked.result == Region(0, 0, 128, 61)
    with pytest.raises(RequestError, match="8192"):
        placed((8000, 8), Extension(right=400), 8)


def test_the_picture_lies_where_it_is_placed() -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (10, 12, 3), dtype=np.uint8)
    made = placed((12, 10), Extension(4, 0, 6, 0), 8)
    canvas = on_canvas(pixels, made)
    assert (canvas[made.picture.slices] == pixels).all() and canvas.sum() == pixels.sum()
    assert (unknown(made)[made.picture.slices] == 0).all()


@given(size=SIZES, wanted=EXTENSIONS, overlap=st.integers(0, 20))
def test_painting_fades_out_over_the_overlap(
    size: tuple[int, int], wanted: Extension, overlap: int
) -> None:
    missing = unknown(placed(size, wanted, 8))
    made = overlapped(missing, overlap)
    assert (made[missing == 1] == 1).all()
    if not missing.any():
        assert not made.any()
        return
    away = ndimage.distance_transform_edt(missing == 0)
    assert (made[away > overlap] == 0).all()
    assert (made[(away > 0) & (away <= overlap)] > 0).all()
    assert np.allclose(made, np.clip(1 - away / (overlap + 1), 0, 1), atol=1e-4)


# --- windows ----------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    size=SIZES,
    wanted=EXTENSIONS,
    working=st.sampled_from([(64, 64), (48, 64), (96, 32)]),
    overlap=st.integers(1, 16),
)
def test_windows_cover_what_is_missing_from_the_inside_out(
    size: tuple[int, int], wanted: Extension, working: tuple[int, int], overlap: int
) -> None:
    place = placed(size, wanted, 8)
    known = unknown(place) == 0
    found = windows(place, working, overlap)
    for window in found:
        region = window.region
        assert region.size == (min(working[0], place.size[0]), min(working[1], place.size[1]))
        assert region.inside(whole(place.size))
        part = region.of(known)
        assert not part.all(), "a window adds nothing"
        joined = part.sum()
        # A full band of known rows or columns, or all of a picture that is smaller than that
        assert joined >= overlap * min(*region.size, *size) or joined >= size[0] * size[1]
        known[region.slices] = True
    assert known.all()
    assert len(found) == len({window.region for window in found})


def test_a_long_extension_goes_step_by_step() -> None:
    place = placed((64, 64), Extension(left=96, right=96), 8)
    found = windows(place, (64, 64), 16)
    where = {(48, "left"), (0, "left"), (144, "right"), (192, "right")}
    assert {(w.region.left, w.side) for w in found} == where and len(found) == 4
    assert {w.region.left for w in found[:2]} == {48, 144}  # the nearer ones first


def test_a_canvas_of_the_working_size_is_one_window() -> None:
    place = placed((40, 40), Extension(24, 0, 0, 24), 8)
    assert [w.region for w in windows(place, (64, 64), 8)] == [Region(0, 0, 64, 64)]
    assert windows(placed((64, 64), Extension(), 8), (64, 64), 8) == ()
    with pytest.raises(RequestError, match="1 to 32 pixels; got 40"):
        windows(place, (64, 64), 40)


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_strip_goes_on_without_end_and_joins(side: str) -> None:
    along = 0 if side in ("left", "right") else 1
    size = (50, 64) if along == 0 else (64, 50)
    low, high = 0, 50
    for window in islice(endless(size, (64, 64), 16, side), 30):
        region = window.region
        start, end = (region.left, region.right) if along == 0 else (region.top, region.bottom)
        assert region.size == (64, 64) and window.side == side
        if side in ("right", "bottom"):
            assert start == high - 16
            high = end
        else:
            assert end == low + 16
            low = start
    assert high - low == 50 + 30 * 48


def test_a_strip_that_cannot_be_is_refused() -> None:
    with pytest.raises(RequestError, match="height of its windows, 64; got 60"):
        endless((64, 60), (64, 64), 16)
    with pytest.raises(RequestError, match="left, right, top, bottom; got 'up'"):
        endless((64, 64), (64, 64), 16, "up")
    with pytest.raises(RequestError, match="overlap's 16"):
        endless((9, 64), (64, 64), 16)


@settings(deadline=None)
@given(size=SIZES, wanted=EXTENSIONS, overlap=st.integers(1, 16))
def test_weights_of_windows_add_up_to_one(
    size: tuple[int, int], wanted: Extension, overlap: int
) -> None:
    place = placed(size, wanted, 8)
    regions = [w.region for w in windows(place, (64, 64), overlap)]
    total = np.zeros((place.size[1], place.size[0]))
    for weight, region in zip(weights(regions, place.size), regions, strict=True):
        assert (weight > 0).all() and (weight <= 1).all()
        total[region.slices] += weight
    covered = total > 0
    assert np.allclose(total[covered], 1, atol=1e-5)
    with pytest.raises(RequestError, match="inside"):
        weights([Region(0, 0, 9, 9)], (8, 8))
