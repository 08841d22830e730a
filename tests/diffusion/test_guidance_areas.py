"""Regions of prompts: boxes as people write them, and masks that share every place."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from guidance_toy import NEGATIVE, OTHER, POSITIVE, SD, SIGMA, Toy, latents, near
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import (
    Box,
    Window,
    guided,
    parse_box,
    region_masks,
    regions,
)
from safelight.errors import RequestError


@pytest.mark.parametrize(
    ("text", "edges"),
    [
        ("0,0,256,512", (0, 0, 256, 512)),
        (" 8, 16 ,24,32 ", (8, 16, 24, 32)),
        ("0,0,0.5,1", (0, 0, 256, 512)),
        ("0,0,1,1", (0, 0, 512, 512)),
        ("25%,0,50%,100%", (128, 0, 256, 512)),
        (".25,0,1,.5", (128, 0, 512, 256)),
        ("left", (0, 0, 256, 512)),
        ("Bottom", (0, 256, 512, 512)),
        ("middle", (128, 128, 384, 384)),
        ("all", (0, 0, 512, 512)),
    ],
)
def test_a_box_is_read_in_pixels_in_parts_and_by_name(
    text: str, edges: tuple[int, int, int, int]
) -> None:
    assert parse_box(text, 512, 512) == Box(*edges)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,256", "cannot read the box"),
        ("west", "one of all, left, right, top, bottom, middle"),
        ("0,0,a,1", "cannot read the box"),
        ("0,0,nan,1", "cannot read the box"),
        ("0,0,0.5,512", "reaches outside"),
        ("0,0,600,512", "reaches outside"),
        ("256,0,256,512", "goes from its left and top"),
        ("-8,0,256,512", "goes from its left and top"),
        ("0.5,0,0.5001,1", "goes from its left and top"),
    ],
)
def test_other_boxes_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_box(text, 512, 512)


def test_the_window_of_a_box_is_what_it_touches() -> None:
    assert Box(8, 0, 17, 16).window(8) == Window(0, 1, 2, 2)


def total(masks: list[Tensor]) -> Tensor:
    return torch.stack(masks).sum(0)


@pytest.mark.parametrize("feather", [0, 1, 16, 40])
@pytest.mark.parametrize("background", [None, 0.0, 0.3, 1.0])
def test_masks_add_up_to_one_everywhere(feather: int, background: float | None) -> None:
    areas = [Box(0, 0, 40, 64), Box(30, 0, 128, 64)]
    masks = region_masks(areas, 128, 64, feather=feather, weights=[1.0, 2.5], background=background)
    assert len(masks) == 2 + (background is not None)
    assert all(mask.shape == (1, 1, 8, 16) and (mask >= 0).all() for mask in masks)
    assert torch.allclose(total(masks), torch.ones(1, 1, 8, 16))


def test_a_box_counts_the_share_of_a_latent_that_it_covers() -> None:
    (mask, rest) = region_masks([Box(4, 0, 16, 16)], 32, 16, background=0.0)
    assert mask[0, 0].tolist() == [[0.5, 1, 0, 0]] * 2
    assert torch.equal(rest, 1 - mask)


def test_the_background_has_its_share_of_the_areas_and_all_the_rest() -> None:
    mask, rest = region_masks([Box(0, 0, 16, 16)], 32, 16, background=0.25)
    assert mask[0, 0, 0].tolist() == [0.75, 0.75, 0, 0]
    assert rest[0, 0, 0].tolist() == [0.25, 0.25, 1, 1]


def test_where_areas_overlap_their_weights_decide() -> None:
    a, b = region_masks([Box(0, 0, 32, 16), Box(16, 0, 32, 16)], 32, 16, weights=[1.0, 3.0])
    assert a[0, 0, 0].tolist() == [1, 1, 0.25, 0.25]
    assert b[0, 0, 0].tolist() == [0, 0, 0.75, 0.75]


def test_a_feather_is_a_ramp_across_the_edge_half_of_it_inside() -> None:
    left, right = region_masks([Box(0, 0, 64, 8), Box(64, 0, 128, 8)], 128, 8, feather=6)
    hard = region_masks([Box(0, 0, 64, 8), Box(64, 0, 128, 8)], 128, 8)[0]
    assert hard[0, 0, 0].tolist() == [1] * 8 + [0] * 8
    assert torch.allclose(left, right.flip(3))
    wide = region_masks([Box(0, 0, 64, 64), Box(64, 0, 128, 64)], 128, 64, feather=32)[0][0, 0, 4]
    assert wide[:6].eq(1).all() and wide[10:].eq(0).all()
    ramp = wide[6:10]
    assert (ramp.diff() < 0).all() and abs(float(ramp[1] + ramp[2]) - 1) < 1e-6


def test_the_border_of_the_picture_is_no_edge_unless_it_goes_round() -> None:
    boxes = [Box(0, 0, 64, 8), Box(64, 0, 128, 8)]
    plain = region_masks(boxes, 128, 8, feather=8)[0][0, 0, 0]
    round_about = region_masks(boxes, 128, 8, feather=8, wrap_x=True)[0][0, 0, 0]
    assert plain[0] == 1 and plain[15] == 0
    assert 0.5 < round_about[0] < 1 and 0 < round_about[15] < 0.5


def test_a_mask_picture_counts_as_a_box_of_the_same_places() -> None:
    picture: NDArray[np.float32] = np.zeros((64, 128), np.float32)
    picture[:, 20:60] = 1
    from_picture = region_masks([picture], 128, 64, feather=10, background=0.1)
    from_box = region_masks([Box(20, 0, 60, 64)], 128, 64, feather=10, background=0.1)
    assert all(torch.equal(a, b) for a, b in zip(from_picture, from_box, strict=True))


@pytest.mark.parametrize(
    ("areas", "settings", "message"),
    [
        ([], {}, "at least one area"),
        ([Box(0, 0, 64, 64)], {}, "leave 50.0% of the picture to no prompt"),
        ([Box(0, 0, 136, 64)], {}, "reaches outside"),
        ([np.ones((64, 64), np.float32)], {}, "mask of a region is 64 x 64"),
        ([np.full((64, 128), 2, np.float32)], {}, "between 0 and 1 everywhere"),
        ([np.full((64, 128), np.nan, np.float32)], {}, "between 0 and 1 everywhere"),
        ([Box(0, 0, 128, 64)], {"weights": [0.0]}, "a weight above 0"),
        ([Box(0, 0, 128, 64)], {"weights": [1.0, 1.0]}, "each of the 1 areas"),
        ([Box(0, 0, 128, 64)], {"feather": 65}, "feather of regions is 0 to 64"),
        ([Box(0, 0, 128, 64)], {"background": 1.5}, "between 0 and 1; got 1.5"),
        ([Box(0, 0, 128, 64)], {"factor": 24}, "multiple of 24"),
    ],
)
def test_areas_that_cannot_be_shared_out_are_refused(
    areas: list[Box], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        region_masks(areas, 128, 64, **settings)  # type: ignore[arg-type]


def test_a_prompt_for_everywhere_is_the_prompt_alone() -> None:
    x = latents()
    alone = guided(Denoiser(Toy(), SD), POSITIVE, NEGATIVE, 5.0)
    other = guided(Denoiser(Toy(), SD), OTHER, NEGATIVE, 5.0)
    mask, rest = region_masks([Box(0, 0, 64, 64)], 64, 64, background=0.0)
    assert near(regions([(alone, mask), (other, rest)])(x, SIGMA), alone(x, SIGMA))
    mask, rest = region_masks([Box(0, 0, 64, 64)], 64, 64, background=1.0)
    assert near(regions([(alone, mask), (other, rest)])(x, SIGMA), other(x, SIGMA))
