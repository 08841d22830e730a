"""Reuse and token merging end to end: what they save, that they replay, and what they refuse."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image

from models_tiny import randomised
from pipelines_tiny import save, sd_parts, settings
from safelight.checkpoints.load import load
from safelight.cli.options import request_mapping
from safelight.diffusion.samplers import SAMPLERS
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.taesd import TinyAutoencoder
from safelight.tasks.generate import generate, settled
from safelight.tasks.metadata.infotext import infotext
from safelight.tasks.painting import Progress
from safelight.tasks.picture import Picture, open_picture, pixel_distance
from safelight.tasks.recipe import Recipe
from safelight.tasks.request import Request

pytestmark = pytest.mark.slow

KINDS: dict[str, dict[str, object]] = {
    "steps": {"reuse": {"steps": 0.3}},
    "guidance": {"reuse": {"guidance": 0.5}},
    "both": {"reuse": {"steps": 0.2, "guidance": 0.5}},
    "deep": {"reuse": {"every": 3, "blocks": 2}},
    "tokens": {"token_merging": {"ratio": 0.5, "levels": 2}},
    "all tokens": {"token_merging": {"ratio": 0.5, "parts": ("self", "cross", "feed-forward")}},
    "deep tokens": {"reuse": {"every": 2}, "token_merging": {"ratio": 0.5}},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save(StableDiffusionPipeline(**sd_parts("sd15")), tmp_path_factory.mktemp("sd15")))


def request(**changes: object) -> Request:
    asked = {"schedule": "karras", "start": "a1111", "steps": 8, "sampler": "Euler"}
    return settings(**asked | changes)


def one(model: Model, asked: Request) -> Picture:
    (picture,) = generate(model, asked)
    return picture


def calls(picture: Picture) -> tuple[float, str]:
    """What the recipe says of network calls."""
    figures = {figure.name: figure for figure in picture.recipe.result.figures}
    return figures["network calls"].value, figures["network calls"].words


def far(a: Picture, b: Picture) -> int:
    distance = pixel_distance(a.pixels, b.pixels)
    assert distance is not None
    return distance.largest


def test_nothing_reused_is_bit_equal_and_says_nothing(model: Model) -> None:
    plain = one(model, request())
    zeros = request(reuse={"steps": 0, "guidance": 0, "every": 1}, token_merging={"ratio": 0})
    same = one(model, zeros)
    assert np.array_equal(plain.pixels, same.pixels)
    assert plain.recipe.result == same.recipe.result and not same.recipe.result.figures


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_replay_from_their_recipes(model: Model, kind: str, tmp_path: Path) -> None:
    first = one(model, request(**KINDS[kind]))
    texts = open_picture(first.save(tmp_path / "a.png")).texts
    told = Recipe.from_json(texts["safelight"]).request
    assert told.reuse == first.recipe.request.reuse
    assert told.token_merging == first.recipe.request.token_merging
    again = one(model, first.recipe.request.replace(**{k: getattr(told, k) for k in KINDS[kind]}))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.recipe.result == again.recipe.result
    assert far(first, one(model, request())) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_a_batch_is_the_picture_alone(model: Model, kind: str) -> None:
    asked = request(**KINDS[kind], exact=False)
    together = list(generate(model, asked.replace(count=3, batch=3)))
    for k, picture in enumerate(together):
        assert asked.seed is not None
        alone = one(model, asked.replace(seed=asked.seed + k))
        assert far(picture, alone) <= 1
        if "reuse" in KINDS[kind]:
            assert calls(picture) == calls(alone)


def test_the_recipe_says_how_many_calls_were_made_and_the_largest_change(model: Model) -> None:
    picture = one(model, request(**KINDS["both"]))
    made, words = calls(picture)
    assert words == "of 16" and made < 16
    names = [figure.name for figure in picture.recipe.result.figures]
    assert names == ["network calls", "largest measured change"]
    deep = one(model, request(**KINDS["deep"]))
    assert calls(deep) == (16, "of 16, 8 of them by the outermost blocks")


def test_a_larger_bound_never_makes_more_calls(model: Model) -> None:
    made = [calls(one(model, request(reuse={"steps": b})))[0] for b in (0.01, 0.05, 0.2, 0.6, 1)]
    assert made == sorted(made, reverse=True) and made[-1] < made[0]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "dpm_adaptive"])
def test_every_sampler_draws_with_reuse(model: Model, sampler: str) -> None:
    picture = one(model, request(sampler=sampler, steps=4, schedule="automatic", **KINDS["both"]))
    made, words = calls(picture)
    assert 4 <= made <= int(words.removeprefix("of "))
    deep = one(model, request(sampler=sampler, steps=4, schedule="automatic", **KINDS["deep"]))
    assert "of them by the outermost blocks" in calls(deep)[1]


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": "[a cow:a horse:0.5] in [fog|rain]"},
        {"prompt": "a cow :0.7 AND a horse:1.2"},
        {"guidance": {"start": 0.25, "end": 0.75}},
        {"guidance": {"pag": {}}},
        {"guidance": {"apg": {}}},
        {"guidance": {"rescale": 0.7, "freeu": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}}},
        {"cfg_scale": 1.0},
        {"regions": [{"box": "left", "prompt": "a cat"}]},
        {"hires": {"scale": 2.0, "steps": 4}},
        {"refiner": None, "steps": 1},
    ],
    ids=lambda more: next(iter(more)) + str(len(str(more))),
)
@pytest.mark.parametrize("kind", ["both", "deep tokens"])
def test_it_goes_with_other_settings(model: Model, more: dict[str, object], kind: str) -> None:
    picture = one(model, request(**KINDS[kind] | more))
    made, words = calls(picture)
    assert 0 < made <= float(words.split(",")[0].removeprefix("of "))
    assert np.ptp(picture.pixels) > 0


def test_calls_of_both_passes_are_counted(model: Model) -> None:
    picture = one(model, request(hires={"scale": 2.0, "steps": 4}, **KINDS["both"]))
    assert calls(picture)[1] == f"of {2 * (8 + 4)}"


def test_what_is_held_stays_to_the_last_bit(model: Model, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros_like(pixels)
    mask[:, 32:] = 255
    for name, values in (("a.png", pixels), ("m.png", mask)):
        Image.fromarray(values).save(tmp_path / name)
    for kind in ("both", "deep", "tokens"):
        asked = request(
            source={"picture": str(tmp_path / "a.png"), "strength": 0.8},
            mask={"picture": str(tmp_path / "m.png"), "match_colour": False},
            **KINDS[kind],
        )
        picture = one(model, asked)
        assert np.array_equal(picture.pixels[:, :28], pixels[:, :28])
        assert not np.array_equal(picture.pixels[:, 32:], pixels[:, 32:])


@pytest.mark.parametrize("kind", ["both", "deep", "tokens"])
def test_what_is_not_finite_is_caught_as_ever(model: Model, kind: str, tmp_path: Path) -> None:
    half = load(model.files[0].path.parent.parent, dtype=torch.float16)
    block = half.network.unet.up_blocks[-1].resnets[-1]  # type: ignore[union-attr]
    with torch.no_grad():
        block.conv1.weight.fill_(5e4)
    picture = one(half, request(**KINDS[kind]))
    (warning,) = [w for w in picture.warnings if "NaN or infinity" in w]
    assert "at step 1" in warning and "run again in float32" in warning


def test_a_drawing_that_is_cancelled_leaves_nothing_behind(model: Model) -> None:
    expected = one(model, request(**KINDS["both"]))

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 4:
            raise Stop

    with pytest.raises(Stop):
        list(generate(model, request(**KINDS["both"]), watch_steps=stop))
    assert np.array_equal(one(model, request(**KINDS["both"])).pixels, expected.pixels)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler": "DPM adaptive"}, "measures its error by calls that reuse would leave out"),
        ({"guidance": {"sag": {}}}, "self-attention guidance looks into each call"),
        ({"clip_guidance": {}}, "take its gradient at the estimate"),
    ],
)
def test_what_needs_each_call_is_refused_by_name(
    model: Model, changes: dict[str, object], said: str
) -> None:
    for kind in ("both", "deep"):
        with pytest.raises(RequestError, match=re.escape(said)):
            settled(request(**KINDS[kind] | changes), model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tiles": {"size": (64, 64)}}, "leave it or tiles out"),
        ({"reuse": {"every": 2, "blocks": 4}}, "reuse.blocks must be at most 3"),
        ({"references": [{"picture": "a.png"}]}, "leave them or reuse.every out"),
    ],
)
def test_what_needs_whole_calls_is_refused_by_name(
    model: Model, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        settled(request(**KINDS["deep"] | changes), model)


def test_settings_are_checked_at_the_border(model: Model) -> None:
    for wrong, said in (
        ({"reuse": {"every": 2, "steps": 0.1}}, "choose one kind"),
        ({"reuse": {"steps": 1.5}}, "reuse.steps must be"),
        ({"token_merging": {"ratio": 0.8}}, "token_merging.ratio must be"),
        ({"token_merging": {"parts": ["mlp"]}}, "token_merging.parts"),
    ):
        with pytest.raises(RequestError, match=said):
            Request.parse({"prompt": "a", **wrong})
    with pytest.raises(RequestError, match=r"token_merging\.levels must be at most 4"):
        settled(request(token_merging={"ratio": 0.5, "levels": 5}), model)


def test_options_reach_their_settings_and_the_infotext_tells_them(model: Model) -> None:
    given = request_mapping({"reuse__steps": 0.3, "token_merging__ratio": 0.5})
    asked = request(**given)
    assert (asked.reuse.steps, asked.token_merging.ratio) == (0.3, 0.5)
    told = infotext(one(model, asked).recipe)
    assert '\\"reuse\\":{\\"steps\\":0.3}' in told
    assert '\\"token_merging\\":{\\"ratio\\":0.5}' in told


def test_a_tiny_decoders_file_stands_in_for_the_autoencoder(model: Model, tmp_path: Path) -> None:
    shape = {"decoder_block_out_channels": (8,) * 4, "encoder_block_out_channels": (8,) * 4}
    randomised(AutoencoderTiny(**shape)).save_pretrained(tmp_path / "taesd")
    folder = model.files[0].path.parent.parent
    tiny = load(folder, vae=tmp_path / "taesd")
    assert isinstance(tiny.codec.autoencoder, TinyAutoencoder)
    picture = one(tiny, request())
    assert np.ptp(picture.pixels) > 0 and far(picture, one(model, request())) > 0
    weights = tmp_path / "taesd" / "diffusion_pytorch_model.safetensors"
    assert np.array_equal(one(load(folder, vae=weights), request()).pixels, picture.pixels)
