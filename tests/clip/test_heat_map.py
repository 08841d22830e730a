"""A heat map is hot where the text is, and a mask is refused where nothing is."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from own_model import vision_of
from safelight.clip.heat_map import TextMask, heat_map, look_for, text_mask
from safelight.clip.relevance import relevance
from safelight.errors import RequestError
from safelight.measures.guided_filter import guided_filter
from seeing_toy import colour_pair

RED, BLUE, GREY = (220, 30, 30), (30, 40, 220), (128, 128, 128)
PAIR = colour_pair()


def scene(height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """A red square at the left, a blue one at the right, on grey."""
    pixels = np.full((height, width, 3), GREY, np.uint8)
    pixels[24:56, 16:48] = RED
    pixels[48:80, 80:112] = BLUE
    return pixels


def truth(colour: tuple[int, int, int], pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((pixels == colour).all(-1))


def overlap(mask: NDArray[np.float32], wanted: NDArray[np.bool_]) -> float:
    return float(((mask > 0) & wanted).sum() / ((mask > 0) | wanted).sum())


@pytest.mark.parametrize(("word", "colour"), [("red", RED), ("blue", BLUE)])
def test_the_map_is_hottest_in_the_thing_that_is_named(
    word: str, colour: tuple[int, int, int]
) -> None:
    pixels = scene()
    heat = heat_map(PAIR, pixels, word)
    assert heat.shape == (96, 128) and heat.dtype == np.float32
    assert heat.min() == 0 and heat.max() == 1
    inside = truth(colour, pixels)
    assert inside[np.unravel_index(heat.argmax(), heat.shape)]
    assert heat[inside].mean() > 0.7 > 0.3 > heat[~inside].mean()


@pytest.mark.parametrize(("word", "colour"), [("red", RED), ("blue", BLUE)])
def test_the_mask_ends_where_the_thing_does(word: str, colour: tuple[int, int, int]) -> None:
    pixels = scene()
    found = text_mask(PAIR, pixels, word)
    assert isinstance(found, TextMask) and found.mask.dtype == np.float32
    assert set(np.unique(found.mask)) == {0.0, 1.0}
    assert found.warnings == () and found.prominence > 1
    assert overlap(found.mask, truth(colour, pixels)) > 0.8


def test_what_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="nothing in the picture looks like 'green'"):
        text_mask(PAIR, scene(), "green")
    with pytest.raises(RequestError, match="text is empty"):
        text_mask(PAIR, scene(), " ")
    for threshold in (0.0, 1.0, float("nan")):
        with pytest.raises(RequestError, match="between 0 and 1"):
            text_mask(PAIR, scene(), "red", threshold=threshold)


def test_what_hardly_stands_out_is_masked_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from safelight.clip import heat_map as module

    heat = look_for(PAIR, scene(), "red")
    monkeypatch.setattr(module, "look_for", lambda *args: heat._replace(prominence=0.5))
    found = text_mask(PAIR, scene(), "red")
    assert "hardly stands out" in found.warnings[0] and found.mask.any()


def test_prominence_says_whether_and_the_map_says_where() -> None:
    assert look_for(PAIR, scene(), "red").prominence > 1
    absent = look_for(PAIR, scene(), "green")
    assert absent.prominence < 0 and absent.map.max() == 1


def test_a_higher_threshold_gives_a_part_of_the_mask() -> None:
    low, high = (text_mask(PAIR, scene(), "red", threshold=t).mask for t in (0.4, 0.8))
    assert (high <= low).all() and 0 < high.sum() < low.sum()


def test_parts_that_never_come_near_the_peak_are_left_out() -> None:
    pixels = scene()
    pixels[80:90, 5:15] = (150, 120, 120)  # a little red
    heat = heat_map(PAIR, pixels, "red")
    threshold = float(heat[80:90, 5:15].max()) - 0.01
    assert 0 < threshold < 0.7
    mask = text_mask(PAIR, pixels, "red", threshold=threshold).mask
    assert not mask[80:90, 5:15].any() and mask[24:56, 16:48].all()


@pytest.mark.parametrize("size", [(64, 64), (40, 200), (600, 300), (7, 9)])
def test_every_size_gives_a_map_of_that_size(size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), GREY, np.uint8)
    pixels[: size[0] // 3, : size[1] // 3] = RED
    heat = heat_map(PAIR, pixels, "red")
    assert heat.shape == size and np.isfinite(heat).all()
    place = np.unravel_index(heat.argmax(), heat.shape)
    assert place[0] <= size[0] // 2 and place[1] <= size[1] // 2


def test_a_picture_of_one_colour_has_no_place_but_no_fault() -> None:
    heat = heat_map(PAIR, np.full((64, 64, 3), RED, np.uint8), "red")
    assert np.isfinite(heat).all() and heat.shape == (64, 64)


def test_the_same_picture_gives_the_same_map_whether_gradients_are_on() -> None:
    pixels = scene()
    pixels.setflags(write=False)
    first = heat_map(PAIR, pixels, "blue")
    with torch.no_grad():
        assert np.array_equal(heat_map(PAIR, pixels, "blue"), first)


# -- parts -----------------------------------------------------------------------------------------


def test_the_look_through_the_tower_ends_as_the_tower_does() -> None:
    tower = vision_of()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    direction = torch.nn.functional.normalize(torch.arange(24.0) - 9, dim=0)
    maps, embeds = relevance(tower, images, direction)
    expected = torch.nn.functional.normalize(tower(images).embeds, dim=-1)
    assert (embeds - expected).abs().max() < 1e-5 and not embeds.requires_grad
    assert maps.shape == (3, 4, 4) and bool((maps >= 0).all()) and float(maps.std()) > 0


def test_16_bits_see_the_same_patches() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    direction = torch.nn.functional.normalize(torch.arange(24.0) - 9, dim=0)
    exact, _ = relevance(vision_of(), images, direction)
    for dtype in (torch.bfloat16, torch.float16):
        rough, embeds = relevance(vision_of().to(dtype), images, direction)
        assert rough.dtype == embeds.dtype == torch.float32
        both = torch.stack([rough.flatten(), exact.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.98


def test_the_guided_filter_keeps_what_follows_the_picture_and_blurs_the_rest() -> None:
    guide = torch.full((1, 3, 40, 40), 0.2)
    guide[..., 20:] = 0.8
    step = (torch.arange(40) >= 20).float().expand(1, 40, 40)
    assert (guided_filter(step, guide, 4) - step).abs().max() < 0.02
    flat = torch.full_like(guide, 0.5)
    assert float(guided_filter(step, flat, 4)[0, 20, 20]) == pytest.approx(0.5, abs=0.1)
    level = torch.full((1, 40, 40), 0.3)
    assert torch.allclose(guided_filter(level, guide, 4), level, atol=1e-5)
    rough = step.clone()
    rough[:, 16:24, 18:22] = 0.5  # an edge that is vague in the map and sharp in the picture
    sharp = guided_filter(rough, guide, 6)[0, 20]
    assert float(sharp[21] - sharp[18]) > 0.6 > 0 + float(rough[0, 20, 21] - rough[0, 20, 18])
