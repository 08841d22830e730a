"""What a lesson shows of moments whose numbers are known."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cli_tiny import tiny_model
from safelight.model import Model
from safelight.server import lesson_frames
from safelight.server.lesson_frames import LARGE_PREDICTED, SENTENCES, Lesson, lesson_of
from safelight.server.previews import Preview
from safelight.tasks.lesson import Moment
from safelight.tasks.request import Request
from safelight.tasks.word_recording import TextMaps
from safelight.text.word_maps import WordMap

REQUEST = Request(prompt="a pear", seed=1)
# the first three channels are red, green and blue
PREVIEW = Preview(torch.eye(3, 5), 8)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(0)


def moment(**changes: object) -> Moment:
    given: dict[str, Any] = {
        "sigma": 2.0,
        "time": 500.0,
        "calls": 1,
        "x": torch.full((4, 2, 3), 1.5),
        "denoised": torch.full((4, 2, 3), -0.5),
        "difference": torch.zeros(4, 2, 3),
        "texts": (),
    }
    return Moment(**(given | changes))


def pixels(lesson: Lesson, name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(lesson.pictures[name])).convert("RGB"))


def test_numbers_are_those_of_the_moment(model: Model) -> None:
    difference = torch.zeros(4, 2, 3)
    difference[:, 0, 0] = 2.0
    lesson = lesson_of(model, PREVIEW, [moment(difference=difference)], REQUEST)
    (step,) = lesson.told["steps"]
    assert (step["sigma"], step["time"], step["calls"]) == (2.0, 500.0, 1)
    assert step["noise"] == 1.0  # (1.5 + 0.5) / 2 everywhere
    assert step["guidance"] == pytest.approx((4 * 4 / 24) ** 0.5, rel=1e-4)
    assert step["sentence"].startswith("Step 1 of 1 begins with noise 2 times as strong")


def test_latents_and_noise_are_a_pixel_for_each_place(model: Model) -> None:
    x = torch.zeros(4, 2, 3)
    x[0] = 5**0.5  # red, once it is scaled by 1 / sqrt(1 + sigma^2)
    lesson = lesson_of(model, PREVIEW, [moment(x=x, denoised=torch.zeros(4, 2, 3))], REQUEST)
    shown = pixels(lesson, "1-latents")
    assert shown.shape == (2, 3, 3) and (shown == (255, 128, 128)).all()
    noise = pixels(lesson, "1-noise")
    assert (noise[..., 0] == 255).all() and (noise[..., 1] == 128).all()
    assert pixels(lesson, "1-predicted").shape == (16, 24, 3)


def test_the_difference_is_brightest_where_it_is_largest(model: Model) -> None:
    difference = torch.zeros(4, 2, 3)
    difference[:, 1, 2] = -3.0
    lesson = lesson_of(model, PREVIEW, [moment(difference=difference)], REQUEST)
    heat = pixels(lesson, "1-guidance").astype(float).sum(axis=2)
    assert heat[-4:, -4:].mean() > heat[:4, :4].mean() + 50


def test_what_was_not_weighed_is_not_shown(model: Model) -> None:
    lesson = lesson_of(model, PREVIEW, [moment(difference=None), moment(calls=2)], REQUEST)
    assert "1-guidance" not in lesson.pictures and "2-guidance" in lesson.pictures
    first, second = lesson.told["steps"]
    assert first["guidance"] is None and second["guidance"] == 0.0
    assert "asks 2 times" in second["sentence"]


def test_words_keep_their_number_through_the_steps(model: Model) -> None:
    def text(words: str) -> TextMaps:
        heat = np.zeros((2, 3), dtype=np.float32)
        return TextMaps(words, tuple(WordMap(w, heat, 0.5) for w in words.split()))

    moments = [moment(texts=(text("a pear"),)), moment(texts=(text("an apple"),))]
    lesson = lesson_of(model, PREVIEW, moments, REQUEST)
    assert [w["word"] for w in lesson.told["words"]] == ["a", "pear", "an", "apple"]
    shares = [set(step["shares"]) for step in lesson.told["steps"]]
    assert shares == [{"0", "1"}, {"2", "3"}]
    words = {name for name in lesson.pictures if "word" in name}
    assert words == {"1-word-0", "1-word-1", "2-word-2", "2-word-3"}


def test_a_large_picture_is_not_decoded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lesson_of(model, PREVIEW, [moment()], REQUEST)
    monkeypatch.setattr(lesson_frames, "DECODED", 16 * 24 - 1)
    by_matrix = lesson_of(model, PREVIEW, [moment()], REQUEST)
    told = [lesson.told["sentences"]["predicted"] for lesson in (whole, by_matrix)]
    assert told == [SENTENCES["predicted"], LARGE_PREDICTED]
    flat = pixels(by_matrix, "1-predicted")
    assert flat.shape == (16, 24, 3) and np.abs(flat.astype(int) - 64).max() <= 4


def test_it_ends_when_nobody_wants_it_any_more(model: Model) -> None:
    asked: list[int] = []

    def going_on() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        lesson_of(model, PREVIEW, [moment()] * 3, REQUEST, going_on)
