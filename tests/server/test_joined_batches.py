"""Pictures of different prompts in one batch are those that each is alone."""

from pathlib import Path

import numpy as np
import pytest

from cli_tiny import tiny_model
from safelight.model import Model
from safelight.tasks.generate import draw_batch, settled
from safelight.tasks.joining import joined
from safelight.tasks.painting import Progress
from safelight.tasks.picture import Picture, pixel_distance
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies

pytestmark = pytest.mark.slow

PROMPTS = ("a red apple", "two green pears on a table", "")
LONG = ", ".join(f"a very old thing of number {n}" for n in range(20))


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def request(prompt: str, **changes: object) -> Request:
    given: dict[str, object] = {"prompt": prompt, "steps": 3, "exact": False, "batch": 8, "seed": 7}
    return Request(**(given | changes))  # type: ignore[arg-type]


def single(model: Model, asked: Request) -> Request:
    (one,) = settled(asked, model)
    return one


def together(model: Model, requests: list[Request]) -> tuple[list[list[int]], list[Picture]]:
    """How requests are divided into batches, and their pictures in order."""
    supplies = Supplies()
    singles = [single(model, r) for r in requests]
    batches = list(joined(singles, model, 8))
    pictures: dict[int, Picture] = {}
    for batch in batches:
        at_once: set[int] = set()

        def watch(progress: Progress, at_once: set[int] = at_once) -> None:
            at_once.add(progress.pictures)

        made = draw_batch(model, [singles[k] for k in batch], supplies, watch)
        assert at_once == {len(batch)}
        pictures |= dict(zip(batch, made, strict=True))
    return batches, [pictures[k] for k in range(len(requests))]


def alone(model: Model, asked: Request) -> Picture:
    (picture,) = draw_batch(model, [single(model, asked)], Supplies())
    return picture


def levels(a: Picture, b: Picture) -> int:
    distance = pixel_distance(a.pixels, b.pixels)
    assert distance is not None
    return distance.largest


SETTINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "no guidance": {"cfg_scale": 1.0},
    "negative prompts of their own": {"negative_prompt": "{}"},
    "ancestral": {"sampler": "Euler a"},
    "stochastic": {"sampler": "DPM++ SDE"},
    "rescaled": {"guidance": {"rescale": 0.7}},
    "thresholded": {"guidance": {"thresholding": {}}},
    "projected": {"guidance": {"apg": {}}},
    "perturbed": {"guidance": {"pag": {}}},
    "freed": {"guidance": {"freeu": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}}},
    "guided between": {"guidance": {"start": 0.4, "end": 0.8}},
    "second pass": {"hires": {"scale": 1.5, "strength": 0.5}},
    "seamless": {"seamless": "both"},
    "through windows": {"tiles": {"size": (32, 32)}, "width": 64, "height": 64},
    "comfy": {"dialect": "comfy"},
    "reused": {"reuse": {"steps": 0.1, "guidance": 0.1}, "steps": 8},
    "reused in depth": {"reuse": {"every": 2}, "steps": 6},
    "merged": {"token_merging": {"ratio": 0.5}},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_picture_of_a_joined_batch_is_the_picture_alone(model: Model, setting: str) -> None:
    requests = []
    for number, prompt in enumerate(PROMPTS):
        changes = dict(SETTINGS[setting])
        if "negative_prompt" in changes:
            changes["negative_prompt"] = f"nothing like {number} " * number
        requests.append(request(prompt, seed=10 + number, **changes))
    batches, pictures = together(model, requests)
    assert batches == [[0, 1, 2]]
    assert len({picture.pixels.tobytes() for picture in pictures}) == 3
    for asked, picture in zip(requests, pictures, strict=True):
        assert levels(picture, alone(model, asked)) <= 1
        assert picture.recipe.request.prompt == asked.prompt
        assert picture.recipe.request.negative_prompt == asked.negative_prompt
        assert picture.recipe.request.batch == 3


def test_parts_joined_by_and_share_a_batch_if_their_weights_agree(model: Model) -> None:
    requests = [request(p) for p in ("a cow :0.7 AND fog", "a cat :0.7 AND rain", "a cow AND fog")]
    batches, pictures = together(model, requests)
    assert batches == [[0, 1], [2]]
    assert all(levels(p, alone(model, r)) <= 1 for p, r in zip(pictures, requests, strict=True))


def test_weights_within_prompts_are_each_pictures_own(model: Model) -> None:
    requests = [request(p) for p in ("a (red:1.4) apple", "a [blue] apple", "((an)) apple")]
    batches, pictures = together(model, requests)
    assert batches == [[0, 1, 2]]
    assert all(levels(p, alone(model, r)) <= 1 for p, r in zip(pictures, requests, strict=True))


def test_prompts_of_other_lengths_are_apart_and_none_is_padded(model: Model) -> None:
    requests = [request("short"), request(LONG), request("brief"), request(LONG + " too")]
    batches, pictures = together(model, requests)
    assert batches == [[0, 2], [1, 3]]
    assert all(levels(p, alone(model, r)) <= 1 for p, r in zip(pictures, requests, strict=True))


def test_a_long_negative_prompt_counts_for_the_length_of_both(model: Model) -> None:
    requests = [request("short"), request("short", negative_prompt=LONG), request(LONG)]
    batches, _ = together(model, requests)
    assert batches == [[0], [1, 2]]


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 4},
        {"width": 32, "height": 32},
        {"sampler": "Heun"},
        {"schedule": "karras"},
        {"cfg_scale": 3.0},
        {"clip_skip": 2},
        {"exact": True},
    ],
)
def test_requests_that_differ_otherwise_are_apart(model: Model, changes: dict[str, object]) -> None:
    batches, _ = together(model, [request("a"), request("b", **changes)])
    assert batches == [[0], [1]]


def test_exact_pictures_are_bit_for_bit_those_alone(model: Model) -> None:
    requests = [request(p, exact=True) for p in PROMPTS]
    batches, pictures = together(model, requests)
    assert batches == [[0], [1], [2]]
    for asked, picture in zip(requests, pictures, strict=True):
        assert np.array_equal(picture.pixels, alone(model, asked).pixels)


def test_scheduled_prompts_share_only_with_themselves(model: Model) -> None:
    moving = "[a cow:a horse:0.5]"
    requests = [request(p, seed=n) for n, p in enumerate((moving, "[a:b:0.5]", moving, "plain"))]
    batches, pictures = together(model, requests)
    assert batches == [[0, 2], [1], [3]]
    assert all(levels(p, alone(model, r)) <= 1 for p, r in zip(pictures, requests, strict=True))


def test_no_batch_is_larger_than_the_most(model: Model) -> None:
    singles = [single(model, request(f"number {n}")) for n in range(7)]
    assert [len(batch) for batch in joined(singles, model, 3)] == [3, 3, 1]


def test_warnings_of_a_prompt_stay_with_its_picture(model: Model) -> None:
    requests = [request("a cat"), request("a dog <lora:gone:1>", look_up=False)]
    supplies = Supplies()
    singles = [single(model, r) for r in requests]
    assert list(joined(singles, model, 8)) == [[0], [1]]  # tags change the model
    requests = [request("a cat"), request("a dog # with a comment")]
    singles = [single(model, r) for r in requests]
    assert list(joined(singles, model, 8)) == [[0, 1]]
    first, second = draw_batch(model, singles, supplies)
    assert not first.warnings and any("comment" in warning for warning in second.warnings)


def test_pictures_to_start_from_are_shared_and_prompts_are_not(
    model: Model, tmp_path: Path
) -> None:
    values = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    supplies = Supplies({"given": values})
    requests = [
        request(p, seed=n, source={"picture": "given", "strength": 0.6})
        for n, p in enumerate(PROMPTS)
    ]
    singles = [settled(r, model, supplies)[0] for r in requests]
    assert list(joined(singles, model, 8)) == [[0, 1, 2]]
    pictures = draw_batch(model, singles, supplies)
    for one, picture in zip(singles, pictures, strict=True):
        (by_itself,) = draw_batch(model, [one], supplies)
        assert levels(picture, by_itself) <= 1
