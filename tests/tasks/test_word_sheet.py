"""A sheet of word maps shows the picture and where each word acted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from pipelines_tiny import sampled, save, sd_parts
from safelight.canvas.region import Region
from safelight.checkpoints.load import load
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import guided
from safelight.diffusion.schedules import SCHEDULES
from safelight.errors import RequestError
from safelight.models.attention_recorder import AttentionRecorder
from safelight.models.backbone import Backbone
from safelight.tasks.sheet import MAX_SIDE
from safelight.tasks.word_sheet import heated, word_sheet
from safelight.text.word_maps import WordMap, token_rows, word_maps, words_of


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.uint8(np.stack([x * 255 // width, y * 255 // height, 0 * x + 90], axis=-1))


def spot(row: int, column: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    heat = np.full(size, 0.01, np.float32)
    heat[row, column] = 0.2
    return heat


def brightness(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(float).mean(axis=-1)


def test_the_hottest_place_is_the_brightest_and_where_it_should_be() -> None:
    grey = np.full((48, 64, 3), 100, np.uint8)
    bright = brightness(heated(grey, spot(1, 6)))
    row, column = np.unravel_index(bright.argmax(), bright.shape)
    assert row // 8 == 1 and column // 8 == 6
    assert bright.max() - np.median(bright) > 60


def test_hotter_is_never_darker() -> None:
    grey = np.full((4, 256, 3), 100, np.uint8)
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(4, axis=0)
    weights = np.array([0.299, 0.587, 0.114])
    assert (np.diff(heated(grey, ramp)[0] @ weights) > -1.5).all()


def test_the_same_heat_everywhere_is_cold() -> None:
    pixels = picture()
    assert np.array_equal(
        heated(pixels, np.full((6, 8), 0.3, np.float32)),
        heated(pixels, np.zeros((6, 8), np.float32)),
    )


def test_a_map_of_a_part_colours_that_part_alone() -> None:
    pixels, region = picture(), Region(8, 16, 40, 40)
    tile = heated(pixels, spot(1, 6), region)
    assert np.array_equal(region.of(tile), heated(region.of(pixels), spot(1, 6)))
    outside = np.ones((48, 64), bool)
    outside[region.slices] = False
    assert (tile[outside] == tile[outside][:, :1]).all(), "grey"
    assert np.abs(brightness(tile) - brightness(pixels))[outside].max() < 128
    assert np.corrcoef(brightness(tile)[outside], pixels[outside] @ [0.299, 0.587, 0.114])[
        0, 1
    ] == pytest.approx(1, abs=1e-3)


def test_a_sheet_of_very_many_words_stays_of_a_size_that_opens() -> None:
    maps = [WordMap("tree", spot(0, 0), 0.01)] * 99
    page = word_sheet(np.zeros((512, 512, 3), np.uint8), maps, region=Region(500, 500, 512, 512))
    assert max(page.shape) <= MAX_SIDE


def test_the_sheet_holds_the_picture_untouched_and_a_tile_for_each_word() -> None:
    pixels = picture()
    maps = [WordMap(f"word{i}", spot(i % 6, i), 0.1 * i) for i in range(6)]
    page = word_sheet(pixels, maps, title="a prompt", columns=4)
    assert page.dtype == np.uint8 and page.shape[2] == 3
    for tile in (pixels, *(heated(pixels, m.heat) for m in maps)):
        assert any(
            np.array_equal(page[y : y + 48, x : x + 64], tile)
            for y, x in np.argwhere((page == tile[0, 0]).all(axis=-1))
        )


def test_without_words_there_is_nothing_to_show() -> None:
    with pytest.raises(RequestError, match="no words"):
        word_sheet(picture(), [])


@pytest.mark.parametrize("apart", [False, True])
def test_words_of_a_prompt_are_mapped_while_it_is_drawn(tmp_path: Path, apart: bool) -> None:
    """End to end with guidance, a negative prompt, weights and words of several tokens."""
    model = load(save(StableDiffusionPipeline(**sd_parts("sd15")), tmp_path))
    text = "a (red:1.2) xylophonic apple, on a table"
    positive, negative = model.text.condition(text), model.text.condition("blurry", negative=True)
    recorder = AttentionRecorder({text: positive.context})
    watched = replace(model.network, observer=recorder)
    sigmas = SCHEDULES["normal"](model.process, 4)

    def drawn(network: Backbone) -> torch.Tensor:
        denoiser = Denoiser(network, model.process)
        return sampled(model, guided(denoiser, positive, negative, 6.0, apart=apart), sigmas)

    assert torch.equal(drawn(watched), drawn(model.network))
    tokenizer = model.text.tokenizer
    spans = words_of(text, tokenizer)
    maps = word_maps(recorder, text, spans, (8, 8), tokens=token_rows(text, tokenizer))
    assert [m.word for m in maps] == ["a", "red", "xylophonic", "apple", "on", "a", "table"]
    assert all(np.isfinite(m.heat).all() and m.heat.std() > 0 for m in maps)
    assert 0.7 < sum(m.share for m in maps) < 1  # the comma has the rest
    page = word_sheet(picture(64, 64), maps, title=text)
    assert page.shape[0] > 2 * 64 and page.shape[1] > 4 * 64
