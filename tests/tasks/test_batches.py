"""A picture is the same whatever is drawn beside it, and whatever was drawn before it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines_tiny import HASTE, save, sd_parts, settings, xl_parts
from safelight.checkpoints.load import load
from safelight.diffusion.samplers import SAMPLERS
from safelight.model import Model
from safelight.tasks.generate import generate
from safelight.tasks.painting import Progress
from safelight.tasks.picture import Picture, pixel_distance
from safelight.tasks.request import Request

LONG = ", ".join(f"a {word} thing beside number {i}" for i, word in enumerate(["red", "old"] * 12))
WORDINGS = {
    "plain": {},
    "no guidance": {"cfg_scale": 1.0},
    "long": {"prompt": LONG},
    "long negative": {"negative_prompt": LONG},
    "break": {"prompt": "a castle BREAK (storm:1.3)"},
    "and": {"prompt": "a cow :0.7 AND a horse:1.2 AND fog:-0.3"},
    "scheduled": {"prompt": "[a cow:a horse:0.5] in [fog|rain]", "negative_prompt": "[dull:2]"},
    "and of different lengths, scheduled": {"prompt": f"[a:b:1] AND {LONG}"},
    "variations": {"subseed": 9, "subseed_strength": 0.4},
    "graphics card": {"noise_source": "nv"},
    "variations, graphics card": {"noise_source": "nv", "subseed": 9, "subseed_strength": 0.4},
    "another size": {"resize_from": (96, 32)},
    "reseeded": {"ensd": 31337, "sampler": "Euler a"},
    "rescaled": {"guidance": {"rescale": 0.7}},
    "perturbed": {"guidance": {"pag": {}}},
    "self-attention": {"guidance": {"sag": {}}, "width": 128, "height": 128},
    "projected": {"guidance": {"apg": {}}},
    "thresholded": {"guidance": {"thresholding": {}}, "cfg_scale": 15.0},
    "freed": {"guidance": {"freeu": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}}},
    "between": {"guidance": {"start": 0.4, "end": 0.8}},
}
SLOW = ("no guidance", "long negative", "variations, graphics card", "rescaled", "thresholded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(StableDiffusionPipeline(**sd_parts("sd15")), tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder)


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Model:
    pipeline = StableDiffusionXLPipeline(**xl_parts())
    return load(save(pipeline, tmp_path_factory.mktemp("sdxl")))


@pytest.fixture(scope="module")
def halves(folder: Path) -> dict[str, Model]:
    return {
        "bf16": load(folder, dtype=torch.bfloat16),
        "fp16": load(folder, dtype=torch.float16),
    }


def request(sampler: str = "DPM++ 2M", **changes: object) -> Request:
    asked = {"schedule": "automatic", "start": "a1111", "steps": 3, "sampler": sampler}
    haste = {"sampler_options": HASTE} if sampler == "dpm_adaptive" else {}
    return settings(**asked | haste | changes)


def one(model: Model, request: Request) -> NDArray[np.uint8]:
    (picture,) = generate(model, request)
    return picture.pixels


def together(model: Model, request: Request, count: int = 2) -> tuple[list[Picture], set[int]]:
    """The pictures of one request, and how many were in the network at a time."""
    seen: set[int] = set()

    def note(progress: Progress) -> None:
        seen.add(progress.pictures)

    whole = request.replace(count=count, batch=count)
    return list(generate(model, whole, watch_steps=note)), seen


def alone(model: Model, request: Request, k: int) -> NDArray[np.uint8]:
    if request.subseed is not None:
        return one(model, request.replace(subseed=request.subseed + k))
    assert request.seed is not None
    return one(model, request.replace(seed=request.seed + k))


def apart(pictures: list[Picture], model: Model, request: Request) -> list[int]:
    """How many levels of 255 each picture is from the one drawn alone."""
    return [levels(picture.pixels, alone(model, request, k)) for k, picture in enumerate(pictures)]


def between(some: list[Picture], others: list[Picture]) -> list[int]:
    return [levels(a.pixels, b.pixels) for a, b in zip(some, others, strict=True)]


def levels(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    distance = pixel_distance(a, b)
    assert distance is not None
    return distance.largest


def differ(pictures: list[Picture]) -> bool:
    return len({picture.pixels.tobytes() for picture in pictures}) == len(pictures)


# --- beside each other ---------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_every_sampler_a_picture_of_a_batch_is_the_picture_alone(
    model: Model, sampler: str
) -> None:
    asked = request(sampler)
    exact, at_a_time = together(model, asked)
    assert at_a_time == {1} and differ(exact)
    assert apart(exact, model, asked) == [0, 0]
    loose, at_a_time = together(model, asked.replace(exact=False))
    assert at_a_time == ({1} if SAMPLERS[sampler].couples_batch else {2})
    assert max(between(loose, exact)) <= 1


@pytest.mark.parametrize(
    "wording",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in WORDINGS],
)
def test_whatever_is_asked_a_picture_of_a_batch_is_the_picture_alone(
    model: Model, wording: str
) -> None:
    asked = request(**WORDINGS[wording])
    exact, _ = together(model, asked)
    assert differ(exact) and apart(exact, model, asked) == [0, 0]
    loose, at_a_time = together(model, asked.replace(exact=False))
    assert at_a_time == {2}
    assert max(between(loose, exact)) <= 1


@pytest.mark.parametrize("wording", ["long", "and", "scheduled"])
def test_sdxl_too_draws_a_batch_as_it_draws_one(xl: Model, wording: str) -> None:
    asked = request(**WORDINGS[wording])
    exact, _ = together(xl, asked)
    assert differ(exact) and apart(exact, xl, asked) == [0, 0]
    loose, at_a_time = together(xl, asked.replace(exact=False))
    assert at_a_time == {2}
    assert max(between(loose, exact)) <= 1


@pytest.mark.parametrize(
    ("dtype", "sampler"),
    [
        ("bf16", "euler_ancestral"),
        ("bf16", "dpmpp_2m"),
        ("bf16", "dpmpp_sde"),
        pytest.param("fp16", "dpmpp_2m", marks=pytest.mark.slow),
    ],
)
def test_in_half_precision_a_batch_moves_no_value_by_more_than_a_level(
    halves: dict[str, Model], dtype: str, sampler: str
) -> None:
    asked = request(sampler)
    pictures, at_a_time = together(halves[dtype], asked, 3)
    assert at_a_time == {3} and differ(pictures)
    assert max(apart(pictures, halves[dtype], asked)) <= 1
    exact, at_a_time = together(halves[dtype], asked.replace(exact=True))
    assert at_a_time == {1} and apart(exact, halves[dtype], asked) == [0, 0]


def test_the_size_of_batches_changes_no_bit(model: Model) -> None:
    asked = request(count=5)
    drawn = [
        [picture.pixels.tobytes() for picture in generate(model, asked.replace(batch=size))]
        for size in (1, 2, 5)
    ]
    assert drawn[0] == drawn[1] == drawn[2]


# --- after each other ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_a_picture_does_not_depend_on_those_drawn_before(
    model: Model, halves: dict[str, Model], dtype: str
) -> None:
    with_it = {"fp32": model, **halves}[dtype]
    asked = [request(**WORDINGS[name]) for name in ("plain", "scheduled", "projected", "perturbed")]
    forth = [one(with_it, r) for r in asked]
    back = [one(with_it, r) for r in reversed(asked)][::-1]
    in_one_call = [picture.pixels for picture in generate(with_it, asked)]
    for first, again, beside in zip(forth, back, in_one_call, strict=True):
        assert np.array_equal(first, again) and np.array_equal(first, beside)


def test_a_drawing_given_up_half_way_leaves_nothing_behind(model: Model) -> None:
    asked = request("Euler a", **WORDINGS["scheduled"])
    before = one(model, asked)

    def give_up(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(generate(model, asked.replace(seed=99), watch_steps=give_up))
    assert np.array_equal(one(model, asked), before)


@contextmanager
def failing(module: nn.Module, when: Callable[[int], bool]) -> Iterator[None]:
    """While entered, the module's output is infinite in float16 at the calls that `when` names."""
    calls = 0

    def spoil(_: nn.Module, args: object, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        infinite = when(calls) and output.dtype == torch.float16
        return torch.full_like(output, float("inf")) if infinite else None

    handle = module.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("part", ["unet", "vae", "text"])
def test_an_overflow_does_not_touch_the_pictures_after_it(
    halves: dict[str, Model], part: str
) -> None:
    model = halves["fp16"]
    broken = {
        "unet": model.network.unet.conv_in,
        "vae": model.codec.autoencoder.decoder.conv_in,  # type: ignore[attr-defined]
        "text": model.text.encoders[0].text_model.final_layer_norm,
    }[part]
    asked = request("Euler")
    before = one(model, asked)
    with failing(broken, lambda call: True):
        (overflowed,) = generate(model, asked.replace(seed=77))
    assert any("float16" in warning for warning in overflowed.warnings)
    (after,) = generate(model, asked)
    assert not after.warnings
    assert np.array_equal(after.pixels, before)
    assert model.dtype == model.codec.dtype == torch.float16


def test_an_overflow_in_one_picture_stays_with_it(halves: dict[str, Model]) -> None:
    model = halves["fp16"]
    asked = request("Euler", exact=True)
    lonely = [alone(model, asked, k) for k in range(3)]
    with failing(model.network.unet.conv_in, lambda call: call == 5):  # step 2 of the second
        pictures, _ = together(model, asked, 3)
    assert [bool(picture.warnings) for picture in pictures] == [False, True, False]
    assert "at step 2" in pictures[1].warnings[0]
    assert np.array_equal(pictures[0].pixels, lonely[0])
    assert np.array_equal(pictures[2].pixels, lonely[2])
    assert levels(pictures[1].pixels, lonely[1]) < 16  # drawn all the same, only more exactly


def test_weights_that_always_overflow_draw_the_same_picture_each_time(folder: Path) -> None:
    def fresh() -> Model:
        made = load(folder, dtype=torch.float16)
        with torch.no_grad():  # what it makes is normalised right after
            made.network.unet.up_blocks[1].resnets[0].conv1.weight.mul_(1e5)  # type: ignore[union-attr,index]
        return made

    asked = request("Euler")
    model = fresh()
    (first,) = generate(model, asked)
    assert first.warnings and "up_blocks.1.resnets.0" in first.warnings[0]
    list(generate(model, asked.replace(seed=77, prompt="a [cow|horse]")))
    assert np.array_equal(one(model, asked), first.pixels)
    assert np.array_equal(one(fresh(), asked), first.pixels)
    assert first.pixels.std() > 10
