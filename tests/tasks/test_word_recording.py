"""Word maps are made beside a picture and change nothing in it."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)

from pipelines_tiny import save, sd_parts, xl_parts
from safelight.canvas.region import Region
from safelight.checkpoints.load import load
from safelight.errors import PromptError, RequestError
from safelight.model import Model
from safelight.models.attention import Look
from safelight.tasks.generate import generate
from safelight.tasks.painting import Progress
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.tasks.word_recording import Worded, WordRecording, with_word_maps
from safelight.tasks.word_sheet import heated
from safelight.text.layout import DEFAULT

TEXT = "a (red:1.2) xylophonic apple, on a table"
WORDS = ["a", "red", "xylophonic", "apple", "on", "a", "table"]
PIXELS = np.random.default_rng(0).integers(0, 256, (96, 80, 3), dtype=np.uint8)
MASK = np.zeros((96, 80, 3), dtype=np.uint8)
MASK[16:40, 24:56] = 255
EMPTY = np.zeros((96, 80, 3), dtype=np.uint8)
ODD = np.random.default_rng(1).integers(0, 256, (61, 75, 3), dtype=np.uint8)
ODD_MASK = np.zeros((61, 75, 3), dtype=np.uint8)
ODD_MASK[10:50, 20:70] = 255
SUPPLIES = Supplies(
    {
        "photo.png": PIXELS,
        "mask.png": MASK,
        "empty.png": EMPTY,
        "odd.png": ODD,
        "odd-mask.png": ODD_MASK,
    }
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save(StableDiffusionPipeline(**sd_parts("sd15")), tmp_path_factory.mktemp("sd")))


def asked(prompt: str = TEXT, **settings: object) -> Request:
    small = {"width": 64, "height": 64} if "source" not in settings else {}
    return Request.parse(
        {
            "prompt": prompt,
            "negative_prompt": "blurry",
            "seed": 5,
            "steps": 2,
            "sampler": "Euler",
            **small,
            **settings,
        }
    )


def plain(model: Model, request: Request) -> list[Picture]:
    return list(generate(model, request, supplies=SUPPLIES))


def mapped(model: Model, request: Request, *phrases: str) -> list[Worded]:
    return list(with_word_maps(model, request, phrases=phrases, supplies=SUPPLIES))


def words(worded: Worded) -> list[list[str]]:
    return [[word.word for word in text.words] for text in worded.texts]


def heats(worded: Worded) -> np.ndarray:
    return np.stack([word.heat for text in worded.texts for word in text.words])


GUIDANCES: dict[str, dict[str, object]] = {
    "classifier-free": {},
    "none": {"cfg_scale": 1},
    "rescaled": {"guidance": {"rescale": 0.7}},
    "between": {"guidance": {"start": 0.5}},
    "PAG": {"guidance": {"pag": {"scale": 3}}},
    "SAG": {"guidance": {"sag": {"scale": 0.75}}},
    "APG": {"guidance": {"apg": {}}},
    "FreeU": {"guidance": {"freeu": {"b1": 1.5, "b2": 1.6, "s1": 0.9, "s2": 0.2}}},
    "a negative that is the prompt": {"negative_prompt": TEXT},
    "SDE": {"sampler": "DPM++ 2M SDE"},
    "a second-order sampler": {"sampler": "Heun"},
}


@pytest.mark.parametrize("settings", GUIDANCES.values(), ids=GUIDANCES)
def test_the_picture_is_the_same_bits_with_and_without_maps(
    model: Model, settings: dict[str, object]
) -> None:
    request = asked(**settings)
    (bare,) = plain(model, request)
    (worded,) = mapped(model, request)
    assert np.array_equal(worded.picture.pixels, bare.pixels)
    assert worded.picture.recipe.request == bare.recipe.request
    assert worded.picture.warnings == bare.warnings
    assert words(worded) == [WORDS]
    maps = heats(worded)
    assert maps.shape == (7, 8, 8) and (maps >= 0).all() and (maps <= 1).all()
    assert (maps.std(axis=(1, 2)) > 0).all()
    assert worded.region == Region(0, 0, 64, 64)
    assert model.network.observer is None


def test_the_words_and_the_other_tokens_share_all_attention(model: Model) -> None:
    (worded,) = mapped(model, asked("red apple table"))
    shares = [word.share for word in worded.texts[0].words]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    (comma,) = mapped(model, asked("red, apple, table"))
    assert sum(word.share for word in comma.texts[0].words) < 0.999


@pytest.mark.parametrize("exact", [True, False])
def test_picture_k_has_its_own_maps_in_any_batch(model: Model, exact: bool) -> None:
    together = mapped(model, asked(count=3, batch=3, exact=exact))
    for number, worded in enumerate(together):
        (alone,) = mapped(model, asked(seed=5 + number, exact=exact))
        assert np.allclose(heats(worded), heats(alone), atol=1e-5)
        assert np.array_equal(worded.picture.pixels, alone.picture.pixels) or not exact
    first, second, third = (heats(worded) for worded in together)
    assert np.abs(first - second).max() > 1e-4 and np.abs(second - third).max() > 1e-4


def test_steps_are_counted_through_all_batches(model: Model) -> None:
    seen: list[Progress] = []
    request = asked(count=2)
    assert len(list(with_word_maps(model, request, watch_steps=seen.append))) == 2
    expected: list[Progress] = []
    assert len(list(generate(model, request, watch_steps=expected.append))) == 2
    assert [(p.first, p.step, p.steps) for p in seen] == [
        (p.first, p.step, p.steps) for p in expected
    ]


def test_each_text_of_a_prompt_has_maps_of_its_own(model: Model) -> None:
    (scheduled,) = mapped(model, asked("a [cat:dog:1] there"))
    assert words(scheduled) == [["a", "cat", "there"], ["a", "dog", "there"]]
    (joined,) = mapped(model, asked("a cat AND a dog:0.5"))
    assert words(joined) == [["a", "cat"], ["a", "dog"]]
    (same,) = mapped(model, asked("a cat AND A Cat"))
    assert words(same) == [["a", "cat"], ["a", "cat"]]
    assert np.allclose(*np.split(heats(same), 2), atol=1e-6)
    (late,) = mapped(model, asked("[cat:1]"))  # the empty text before it has no words
    assert words(late) == [["cat"]]


def test_words_of_later_chunks_are_found_at_their_rows(model: Model) -> None:
    """A word behind a BREAK has the maps of its own chunk; its twin in the first has others."""
    (worded,) = mapped(model, asked("cat BREAK cat hat"))
    assert words(worded) == [["cat", "cat", "hat"]]
    long = " ".join(["tree"] * 90) + " hat"
    (beyond,) = mapped(model, asked(long))
    (names,) = words(beyond)
    assert names == ["tree"] * 90 + ["hat"]
    assert sum(word.share for word in beyond.texts[0].words) == pytest.approx(1, abs=1e-4)


def test_a_short_text_beside_a_long_negative_has_its_maps(model: Model) -> None:
    """It is filled up to the negative's length, and is recognised all the same."""
    (worded,) = mapped(model, asked(negative_prompt=" ".join(["bad"] * 100)))
    assert words(worded) == [WORDS]


def test_chosen_phrases_have_the_sum_of_their_words(model: Model) -> None:
    (whole,) = mapped(model, asked("a red apple on a table"))
    (chosen,) = mapped(model, asked("a red apple on a table"), "red apple", "table")
    assert words(chosen) == [["red apple", "table"]]
    every = heats(whole)
    assert np.allclose(heats(chosen)[0], every[1] + every[2], atol=1e-6)
    assert np.allclose(heats(chosen)[1], every[5], atol=1e-6)


def test_of_several_texts_each_shows_the_phrases_that_it_has(model: Model) -> None:
    (worded,) = mapped(model, asked("a cat AND a dog AND a bird"), "dog", "a cat")
    assert words(worded) == [["a cat"], ["dog"]]


def test_a_phrase_that_is_not_there_is_refused_before_anything_is_drawn(model: Model) -> None:
    seen: list[Progress] = []
    drawing = with_word_maps(model, asked(), phrases=["red", "green hat"], watch_steps=seen.append)
    with pytest.raises(PromptError, match=r"no 'green hat' in it; its words are a, red, xyloph"):
        next(drawing)
    assert seen == []


@pytest.mark.parametrize("prompt", ["", "!!!"])
def test_a_prompt_without_words_is_refused(model: Model, prompt: str) -> None:
    with pytest.raises(RequestError, match="no words"):
        mapped(model, asked(prompt))


PARTS: dict[str, dict[str, object]] = {
    "extend": {"source": {"picture": "photo.png"}, "extend": {"left": 8}},
    "tiles": {"tiles": {"size": (32, 32)}},
    "regions": {"regions": [{"prompt": "a hat", "box": "left"}]},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_picture_drawn_in_parts_is_refused_by_name(model: Model, name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} draws it part by part"):
        mapped(model, asked(**PARTS[name]))


def test_a_picture_that_is_only_made_larger_is_refused(model: Model) -> None:
    larger = asked(source={"picture": "photo.png", "redraw": False, "scale": 2})
    with pytest.raises(RequestError, match="nothing is"):
        mapped(model, larger)


def test_two_passes_give_one_map_over_the_larger_picture(model: Model) -> None:
    request = asked(hires={"scale": 2, "strength": 0.5})
    (bare,) = plain(model, request)
    (worded,) = mapped(model, request)
    assert np.array_equal(worded.picture.pixels, bare.pixels)
    assert worded.region == Region(0, 0, 128, 128)
    assert words(worded) == [WORDS] and heats(worded).shape == (7, 8, 8)
    (first,) = mapped(model, asked())
    assert np.abs(heats(worded) - heats(first)).max() > 1e-4, "the second pass counts, too"
    (both,) = mapped(model, asked("cat", hires={"scale": 2, "prompt": "dog"}))
    assert words(both) == [["cat"], ["dog"]]


def test_a_second_pass_that_cuts_the_picture_is_refused(model: Model) -> None:
    with pytest.raises(RequestError, match=r"hires\.size cuts the picture"):
        mapped(model, asked(hires={"size": (128, 64)}))


EDITS: dict[str, dict[str, object]] = {
    "image to image": {},
    "loops": {"source": {"picture": "photo.png", "loops": 2, "last_strength": 0.5}},
    "inpainting": {"mask": {"picture": "mask.png"}},
    "soft": {"mask": {"picture": "mask.png", "soft": True}},
}


@pytest.mark.parametrize("settings", EDITS.values(), ids=EDITS)
def test_an_edited_picture_has_maps_over_all_of_it(
    model: Model, settings: dict[str, object]
) -> None:
    request = asked(**{"source": {"picture": "photo.png"}, "steps": 4, **settings})
    (bare,) = plain(model, request)
    (worded,) = mapped(model, request)
    assert np.array_equal(worded.picture.pixels, bare.pixels)
    assert words(worded) == [WORDS]
    assert heats(worded).shape == (7, 12, 10)
    assert worded.region == Region(0, 0, 80, 96)


def test_maps_of_a_masked_area_lie_over_that_area(model: Model) -> None:
    request = asked(
        source={"picture": "photo.png"},
        mask={"picture": "mask.png", "area": "masked", "padding": 4},
        width=64,
        height=64,
        steps=4,
    )
    (bare,) = plain(model, request)
    (worded,) = mapped(model, request)
    assert np.array_equal(worded.picture.pixels, bare.pixels)
    region = worded.region
    assert region.width < 80 and region.height < 96
    assert region.left <= 24 and region.right >= 56 and region.top <= 16 and region.bottom >= 40
    (page,) = worded.sheets
    for word in worded.texts[0].words:
        tile = heated(worded.picture.pixels, word.heat, region)
        assert any(
            np.array_equal(page[y : y + 96, x : x + 80], tile)
            for y, x in np.argwhere((page == tile[0, 0]).all(axis=-1))
        )


def test_a_picture_filled_up_to_whole_latents_has_maps_of_its_own_size(model: Model) -> None:
    request = asked(source={"picture": "odd.png"}, mask={"picture": "odd-mask.png"}, steps=4)
    (worded,) = mapped(model, request)
    assert worded.picture.pixels.shape == (61, 75, 3)
    assert worded.region == Region(0, 0, 75, 61)
    assert heats(worded).shape == (7, 61, 75)
    assert len(worded.sheets) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"source": {"picture": "photo.png", "strength": 0}},
        {"source": {"picture": "photo.png"}, "mask": {"picture": "empty.png"}},
    ],
)
def test_where_nothing_is_drawn_there_are_no_maps_and_that_is_said(
    model: Model, settings: dict[str, object]
) -> None:
    (worded,) = mapped(model, asked(**settings))
    assert worded.texts == () and worded.sheets == []
    assert any("nothing was drawn" in warning for warning in worded.picture.warnings)


def test_sdxl_s_two_encoders_stand_in_the_same_rows(tmp_path: Path) -> None:
    model = load(save(StableDiffusionXLPipeline(**xl_parts()), tmp_path))
    request = asked("a red apple BREAK hat", negative_prompt="")
    (bare,) = plain(model, request)
    (worded,) = mapped(model, request)
    assert np.array_equal(worded.picture.pixels, bare.pixels)
    assert words(worded) == [["a", "red", "apple", "hat"]]
    assert (heats(worded).std(axis=(1, 2)) > 0).all()


def test_half_precision_is_recognised_too(model: Model) -> None:
    narrow = replace(
        model, network=replace(model.network, unet=deepcopy(model.network.unet).to(torch.bfloat16))
    )
    (worded,) = mapped(narrow, asked())
    assert words(worded) == [WORDS]


def test_only_texts_that_were_asked_for_have_maps(model: Model) -> None:
    """A stranger's look, as of a reference picture's pass, is no text's."""
    recording = WordRecording(model.text.tokenizer, DEFAULT)
    context = model.text.condition("a cat").context
    recording.told({"a cat": context}, model.text.tokenizer)
    query, other = torch.randn(1, 16, 8), torch.zeros_like(context)
    recording.saw(Look("attn2", True, (4, 4), 1, query, other[..., :8], other))
    assert recording.texts((4, 4), 0) == ()
    recording.saw(Look("attn2", True, (4, 4), 1, query, context[..., :8], context))
    assert [text.text for text in recording.texts((4, 4), 0)] == ["a cat"]
    assert recording.texts((4, 4), 1) == ()


def test_a_text_is_summed_over_passes_unless_it_is_read_anew(model: Model) -> None:
    recording = WordRecording(model.text.tokenizer, DEFAULT)
    context = model.text.condition("a cat").context
    sharp, even = 4 * torch.eye(16, 8)[None], torch.zeros(1, 16, 8)

    def heat(*queries: torch.Tensor, told: torch.Tensor = context) -> np.ndarray:
        for query in queries:
            recording.told({"a cat": told}, model.text.tokenizer)
            recording.saw(Look("attn2", True, (4, 4), 1, query, told[..., :8], told))
        (text,) = recording.texts((4, 4), 0)
        return text.words[1].heat

    first = heat(sharp)
    both = heat(even)
    assert np.allclose(both, (first + 1 / 77) / 2, atol=1e-6) and np.ptp(first) > 1e-3
    assert np.allclose(heat(even, told=context * 1.5), 1 / 77, atol=1e-6)
