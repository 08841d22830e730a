"""Objects and backgrounds are found where they were drawn."""

import math

import numpy as np
import pytest
import torch

from evaluation_scenes import disc, noisy, plain, square
from safelight.evaluation.background import (
    background_accuracy,
    background_names,
    border_colour,
    border_spread,
)
from safelight.evaluation.objects import (
    Blob,
    counted,
    crops,
    dominant_hue,
    grouped,
    merged,
    relation,
    segmented,
)
from safelight.measures import colours
from safelight.measures.lab import lab, nearest_name

BACKGROUNDS = list(colours.BACKGROUNDS.items())


def test_colours_on_tensors_are_those_of_the_table() -> None:
    rgb = np.random.default_rng(0).random((200, 3))
    np.testing.assert_allclose(lab(torch.tensor(rgb)).numpy(), colours.lab(rgb * 255), atol=1e-9)
    np.testing.assert_array_equal(
        nearest_name(torch.tensor(rgb)).numpy(), colours.nearest_colours(rgb * 255)
    )


@pytest.mark.parametrize(("name", "rgb"), BACKGROUNDS)
def test_every_background_is_named_behind_an_object_and_under_noise(
    name: str, rgb: tuple[int, int, int]
) -> None:
    other = (250, 218, 50) if name != "yellow" else (30, 100, 220)
    picture = disc(plain(rgb), 0.5, 0.5, 0.45, other)
    # An object that covers two fifths of the border does not hide it.
    covered = square(picture, 0.0, 0.0, 0.8, other)
    assert background_names(noisy([picture, covered], 0.06)) == [name, name]


def test_the_border_colour_is_the_colour_of_a_plain() -> None:
    picture = plain((10, 100, 200))[None]
    expected = torch.tensor([[10.0, 100.0, 200.0]]) / 255
    torch.testing.assert_close(border_colour(picture), expected)
    assert border_spread(picture).item() == 0
    assert border_spread(noisy(picture, 0.3)).item() > 0.1


def test_accuracy_is_the_share_of_right_backgrounds() -> None:
    pictures = torch.stack([plain(colours.BACKGROUNDS[name]) for name in ("red", "teal", "pink")])
    assert background_accuracy(pictures, ["red", "teal", "brown"]) == pytest.approx(2 / 3)


def test_a_disc_is_found_with_its_area_centre_and_box() -> None:
    picture = disc(plain((248, 248, 248), 128), 0.3, 0.6, 0.2, (214, 38, 42))
    (blob,) = segmented(noisy([picture], 0.04)).blobs[0]
    assert blob.area == pytest.approx(math.pi * 0.04, rel=0.03)
    assert (blob.x, blob.y) == pytest.approx((0.3, 0.6), abs=0.01)
    assert (blob.left, blob.top, blob.right, blob.bottom) == pytest.approx(
        (0.1, 0.4, 0.5, 0.8), abs=0.01
    )


def test_what_is_inside_an_object_belongs_to_it() -> None:
    """White teeth in a face on white."""
    ring = disc(plain((248, 248, 248)), 0.5, 0.5, 0.3, (214, 38, 42))
    ring = disc(ring, 0.5, 0.5, 0.2, (248, 248, 248))
    (blob,) = segmented(ring[None]).blobs[0]
    assert blob.area == pytest.approx(math.pi * 0.09, rel=0.03)


def test_a_thin_frame_does_not_make_the_picture_one_object() -> None:
    """As decoders leave it, whose convolutions see zeros past the edge."""
    picture = disc(plain((248, 248, 248)), 0.5, 0.5, 0.2, (214, 38, 42))
    framed = plain((160, 160, 160))
    framed[:, 1:-1, 1:-1] = picture[:, 1:-1, 1:-1]
    (blob,) = segmented(framed[None]).blobs[0]
    assert blob.area == pytest.approx(math.pi * 0.04, rel=0.05)


def test_specks_are_no_objects_and_an_empty_picture_has_none() -> None:
    speck = square(plain((248, 248, 248)), 0.5, 0.5, 0.02, (0, 0, 0))
    segments = segmented(torch.stack([speck, plain((14, 14, 14))]))
    assert segments.blobs == ((), ()) and not segments.labels.any()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_discs_are_counted_with_their_crumbs(count: int) -> None:
    picture = plain((30, 100, 220), 128)
    for i in range(count):
        x, y = 0.2 + 0.3 * (i % 3), 0.25 + 0.4 * (i // 3)
        picture = disc(picture, x, y, 0.09, (250, 218, 50))
        picture = disc(picture, x + 0.03, y - 0.17, 0.035, (250, 218, 50))  # a leaf beside it
    blobs = segmented(noisy([picture], 0.04)).blobs[0]
    assert len(blobs) == 2 * count
    assert len(counted(blobs)) == count
    assert sum(b.area for b in counted(blobs)) == pytest.approx(sum(b.area for b in blobs))


def test_a_crumb_joins_the_object_nearest_to_it() -> None:
    left = Blob((1,), 0.2, 0.25, 0.5, 0.1, 0.3, 0.4, 0.7)
    right = Blob((2,), 0.1, 0.75, 0.5, 0.6, 0.4, 0.9, 0.6)
    crumb = Blob((3,), 0.01, 0.55, 0.5, 0.53, 0.48, 0.57, 0.52)
    one, other = grouped([crumb, left, right], 2)
    assert one == left and other == merged([right, crumb])
    assert other.left == 0.53 and other.right == 0.9 and other.parts == (2, 3)
    assert other.x == pytest.approx((0.75 * 0.1 + 0.55 * 0.01) / 0.11)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.2, 0.5, "left"),
        (0.8, 0.5, "right"),
        (0.5, 0.2, "above"),
        (0.5, 0.8, "below"),
        (0.55, 0.52, None),
    ],
)
def test_relations_are_those_of_the_page(x: float, y: float, expected: str | None) -> None:
    middle = Blob((1,), 0.1, 0.5, 0.5, 0.4, 0.4, 0.6, 0.6)
    assert relation(Blob((2,), 0.1, x, y, 0, 0, 0, 0), middle) == expected


def test_relations_of_two_turn_round_when_they_change_places() -> None:
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above", None: None}
    generator = torch.Generator().manual_seed(0)
    for x, y, u, v in torch.rand(100, 4, generator=generator).tolist():
        one, other = (Blob((1,), 0.1, a, b, 0, 0, 0, 0) for a, b in ((x, y), (u, v)))
        assert relation(one, other) == opposite[relation(other, one)]


def test_a_crop_shows_its_object_alone_in_the_middle() -> None:
    picture = disc(plain((248, 248, 248), 128), 0.25, 0.5, 0.15, (214, 38, 42))
    picture = square(picture, 0.75, 0.5, 0.1, (30, 100, 220))
    segments = segmented(picture[None])
    cut = crops(picture[None], segments, [(0, b) for b in segments.blobs[0]], size=32)
    assert cut.shape == (2, 3, 32, 32)
    for one, centre in zip(cut, ((214, 38, 42), (30, 100, 220)), strict=True):
        torch.testing.assert_close(one[:, 16, 16], plain(centre)[:, 0, 0], atol=1e-4, rtol=0)
        again = segmented(one[None]).blobs[0]
        assert len(again) == 1 and again[0].side == pytest.approx(0.8, abs=0.07)
        assert again[0].x == pytest.approx(0.5, abs=0.03)
    blue = (cut[0, 2] - cut[0, 0]) > 0.5
    assert not blue.any()


def test_a_crop_past_the_edge_continues_the_background() -> None:
    picture = disc(plain((46, 152, 62), 64), 0.1, 0.9, 0.3, (250, 218, 50))
    segments = segmented(picture[None])
    (cut,) = crops(picture[None], segments, [(0, segments.blobs[0][0])], size=32)
    torch.testing.assert_close(cut[:, -1, 0], plain((46, 152, 62))[:, 0, 0], atol=1e-3, rtol=0)


def test_no_blobs_give_no_crops() -> None:
    picture = plain((0, 0, 0))[None]
    assert crops(picture, segmented(picture), [], size=16).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("name", colours.RECOLOUR_NAMES)
def test_a_recoloured_object_has_its_hue_lit_or_in_shade(name: str) -> None:
    hue, saturation, value = colours.RECOLOURS[name]
    picture = disc(plain((128, 128, 128)), 0.5, 0.5, 0.35, colours.hsv_rgb(hue, saturation, value))
    picture = disc(picture, 0.4, 0.4, 0.1, colours.hsv_rgb(hue, saturation, value * 0.8))
    picture = disc(picture, 0.6, 0.6, 0.1, (250, 250, 250))
    segments = segmented(noisy([picture], 0.03))
    assert dominant_hue(picture[None], segments, 0, segments.blobs[0][0]) == name


def test_a_white_object_has_no_hue() -> None:
    picture = disc(plain((14, 14, 14)), 0.5, 0.5, 0.3, (240, 240, 240))
    segments = segmented(picture[None])
    assert dominant_hue(picture[None], segments, 0, segments.blobs[0][0]) is None
