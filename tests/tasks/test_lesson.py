"""A picture drawn with every step kept: it is the same picture, and what is kept is true."""

import pytest
import torch

from cli_tiny import tiny_model
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.generate import draw_batch, settled
from safelight.tasks.lesson import MAP_SIDE, MOST_STEPS, LessonRecording, refuse_lesson, words_in
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.tasks.thrift import Reuse, TokenMerging


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(0)


def asked(**changes: object) -> Request:
    given: dict[str, object] = {"prompt": "a red apple", "steps": 3, "seed": 5, "cfg_scale": 4.0}
    return Request(**(given | {"width": 32, "height": 48} | changes))  # type: ignore[arg-type]


def taught(model: Model, **changes: object) -> tuple[Picture, Picture, LessonRecording]:
    """The picture drawn as ever and the one that was watched, and what was seen."""
    supplies = Supplies()
    (single,) = settled(asked(**changes), model, supplies)
    (plain,) = draw_batch(model, [single], supplies)
    recording = LessonRecording(model, single)
    (watched,) = draw_batch(recording.on(model), [single], supplies, recording.watch)
    return plain, watched, recording


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": "heun"},
        {"sampler": "uni_pc"},
        {"sampler": "euler_a", "prompt": ""},
        {"sampler": "dpmpp_2m_sde", "exact": False, "cfg_scale": 1.0},
        {"prompt": "a [red:green:2] apple AND a leaf", "guidance": {"rescale": 0.5}},
        {"hires": {"scale": 1.5, "steps": 2}},
    ],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_the_picture_has_the_bits_that_it_has_without(
    model: Model, changes: dict[str, object]
) -> None:
    plain, watched, recording = taught(model, **changes)
    assert watched.encoded(".png") == plain.encoded(".png") or (
        watched.recipe.replace(seconds=None) == plain.recipe.replace(seconds=None)
        and watched.pixels.tobytes() == plain.pixels.tobytes()
    )
    assert len(recording.moments) == plain.recipe.result.steps


def test_a_step_holds_what_was_asked_and_answered(model: Model) -> None:
    _, _, recording = taught(model)
    sigmas = [moment.sigma for moment in recording.moments]
    assert sigmas == sorted(sigmas, reverse=True) and sigmas[-1] > 0
    first = recording.moments[0]
    for moment in recording.moments:
        assert moment.x.shape == (4, 6, 4)
        torch.testing.assert_close(moment.noise * moment.sigma + moment.denoised, moment.x)
        own = model.process.time(torch.tensor([moment.sigma], dtype=torch.float64))
        assert moment.time == pytest.approx(float(own))
        assert moment.calls == 1
    # Euler's step leads from one to the next
    second = recording.moments[1]
    expected = first.denoised + second.sigma * first.noise
    torch.testing.assert_close(second.x, expected, rtol=1e-4, atol=1e-4)


def test_the_difference_is_what_the_scale_enlarges(model: Model) -> None:
    """denoised = negative + scale (positive - negative): two scales tell the same first step."""
    _, _, four = taught(model)
    _, _, five = taught(model, cfg_scale=5.0)
    difference = four.moments[0].difference
    assert difference is not None and float(difference.abs().max()) > 0
    grown = five.moments[0].denoised - four.moments[0].denoised
    torch.testing.assert_close(grown, difference, rtol=1e-3, atol=1e-4)
    _, _, one = taught(model, cfg_scale=1.0)
    assert [moment.difference for moment in one.moments] == [None] * 3


def test_a_heun_step_asks_twice_and_shows_the_first(model: Model) -> None:
    _, _, heun = taught(model, sampler="heun")
    _, _, euler = taught(model)
    assert [moment.calls for moment in heun.moments] == [2, 2, 1]
    assert heun.moments[0].sigma == pytest.approx(euler.moments[0].sigma)
    torch.testing.assert_close(heun.moments[0].denoised, euler.moments[0].denoised)


def test_words_are_of_each_step_alone(model: Model) -> None:
    _, _, recording = taught(model)
    assert words_in(recording.moments) == [
        ("a red apple", 0, "a"),
        ("a red apple", 1, "red"),
        ("a red apple", 2, "apple"),
    ]
    heats = [moment.texts[0].words[2].heat for moment in recording.moments]
    assert all(heat.shape == (6, 4) for heat in heats)
    assert not (heats[0] == heats[1]).all()
    for moment in recording.moments:
        assert 0 < sum(word.share for word in moment.texts[0].words) <= 1 + 1e-5


def test_a_large_picture_has_maps_of_a_bounded_size() -> None:
    from safelight.tasks.lesson import _map_size

    assert _map_size(torch.zeros(4, 256, 96)) == (MAP_SIDE, 24)
    assert _map_size(torch.zeros(4, 5, 9)) == (5, 9)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"best_of": 3}, "one drawing"),
        ({"token_merging": TokenMerging(ratio=0.5)}, "token merging"),
        ({"steps": MOST_STEPS + 1}, f"up to {MOST_STEPS} steps"),
        ({"steps": MOST_STEPS - 1, "hires": {"scale": 2.0, "steps": 2}}, "takes 101"),
    ],
)
def test_what_cannot_be_taught_is_refused(changes: dict[str, object], told: str) -> None:
    refuse_lesson(asked(reuse=Reuse(steps=0.1)))
    with pytest.raises(RequestError, match=told):
        refuse_lesson(asked(**changes))
