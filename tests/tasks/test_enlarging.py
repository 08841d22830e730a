"""Pictures larger than a model was made for: second pass, windows, regions, seamless, x4."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.deprecated.stable_diffusion_panorama import (
    pipeline_stable_diffusion_panorama as panorama,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_upscale import (
    StableDiffusionUpscalePipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from controls_tiny import controlnet_json
from models_tiny import distance, randomised
from pipelines_tiny import (
    BETAS,
    NEGATIVE,
    PROMPT,
    generator,
    quiet,
    save,
    sd_parts,
    settings,
    unet,
    vae,
    xl_parts,
)
from safelight.checkpoints.load import load
from safelight.checkpoints.upscaler_file import load_upscaler
from safelight.diffusion.noise import Noise
from safelight.engines.sentinel import Sentinel
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.super_resolution import CompactConfig
from safelight.tasks import painting
from safelight.tasks.equipping import equipped
from safelight.tasks.generate import generate, settled
from safelight.tasks.large import LATENT_UPSCALERS, RESAMPLERS
from safelight.tasks.painting import Tally, decoded, painted
from safelight.tasks.picture import Picture, to_uint8
from safelight.tasks.plan import Plan, plan
from safelight.tasks.request import Request
from safelight.tasks.stage import NOTHING, Stage
from safelight.tasks.supplies import Supplies
from safelight.upscalers import latent
from safelight.upscalers import pixels as pixel_upscalers

pytestmark = pytest.mark.slow

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
SUPPLIES = Supplies({"photo.png": PIXELS})


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Model:
    pipeline = quiet(StableDiffusionPipeline(**sd_parts("sd15")))
    return load(save(pipeline, tmp_path_factory.mktemp("sd")))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upscaler to twice the size, in a file."""
    path = tmp_path_factory.mktemp("upscaler") / "2x.safetensors"
    save_file(dict(randomised(CompactConfig(3, 8, 3, 2).build()).state_dict()), path)
    return path


def asked(**changes: object) -> Request:
    return settings(**{"steps": 3, **changes})


def pictures(model: Model, request: Request, supplies: Supplies = SUPPLIES) -> list[Picture]:
    return list(generate(model, request, supplies=supplies))


def only(model: Model, request: Request, supplies: Supplies = SUPPLIES) -> Picture:
    (picture,) = pictures(model, request, supplies)
    return picture


def same(a: Picture, b: Picture) -> bool:
    return np.array_equal(a.pixels, b.pixels)


def test_the_names_of_upscalers_are_those_of_the_upscalers() -> None:
    assert set(LATENT_UPSCALERS) == set(latent.LATENT_UPSCALERS)
    assert set(RESAMPLERS) == set(pixel_upscalers.RESAMPLERS)


# -- the second pass ------------------------------------------------------------------------------


@pytest.mark.parametrize("upscaler", [*LATENT_UPSCALERS, *RESAMPLERS])
def test_a_second_pass_of_no_strength_and_no_growth_is_none(sd: Model, upscaler: str) -> None:
    plain = only(sd, asked())
    hires = {"upscaler": upscaler, "scale": 1, "strength": 0}
    made = only(sd, asked(hires=hires))
    assert same(made, plain)
    assert made.recipe.result.steps == 3


@pytest.mark.parametrize(
    ("steps", "second", "strength", "scale", "run"),
    [(20, 0, 0.7, 2.0, 40), (20, 10, 0.7, 1.5, 30), (4, 7, 0.3, 2.0, 11), (3, 2, 1.0, 1.0, 5)],
)
def test_all_steps_of_the_second_pass_are_run(
    sd: Model, steps: int, second: int, strength: float, scale: float, run: int
) -> None:
    """A1111 runs hires steps exactly, whatever the strength; 0 is as many as before."""
    hires = {"steps": second, "strength": strength, "scale": scale}
    made = only(sd, asked(width=32, height=32, steps=steps, hires=hires))
    assert made.recipe.result.steps == run
    assert made.pixels.shape == (int(32 * scale), int(32 * scale), 3)
    assert made.recipe.request.width == 32
    assert made.recipe.result.size == (None if scale == 1 else (int(32 * scale), int(32 * scale)))


def test_a_second_pass_of_the_same_size_is_drawn_over_the_first(sd: Model) -> None:
    """A1111's rule, put together by hand: the end of a longer schedule, fresh noise of the seed."""
    made = only(sd, asked(hires={"scale": 1, "strength": 0.6, "steps": 4}))
    expected = redrawn(sd, latents_of(sd, asked()), 0.6, asked(steps=4))
    assert np.array_equal(made.pixels, expected)


def test_pixels_are_made_larger_between_the_passes(sd: Model, network: Path) -> None:
    """With a network in between, the second pass is image to image of what it made."""
    hires = {"scale": 1.5, "upscaler": str(network), "strength": 0.5, "steps": 3}
    twice = only(sd, asked(hires=hires))
    first = only(sd, asked())
    source = {
        "picture": "first",
        "strength": 0.5,
        "strength_rule": "a1111_exact",
        "scale": 1.5,
        "upscaler": str(network),
    }
    again = asked(width=None, height=None, source=source)
    assert same(twice, only(sd, again, Supplies({"first": first.pixels})))
    assert [f.role for f in twice.recipe.files if f.role == "upscaler"] == ["upscaler"]


def test_a_width_and_a_height_cut_what_sticks_out(sd: Model) -> None:
    for upscaler in ("Latent", "Lanczos"):
        for strength in (0.0, 0.5):
            hires = {"size": (128, 64), "strength": strength, "upscaler": upscaler}
            made = only(sd, asked(hires=hires))
            assert made.pixels.shape == (64, 128, 3)
    whole = only(sd, asked(hires={"size": (128, 128), "strength": 0, "upscaler": "Lanczos"}))
    cut = only(sd, asked(hires={"size": (128, 64), "strength": 0, "upscaler": "Lanczos"}))
    assert np.array_equal(cut.pixels, whole.pixels[32:96])


@pytest.mark.parametrize(
    ("scheduled", "plain"),
    [
        ("[pear:apple:1.5]", ("pear", "[pear:apple:0.5]")),  # half-way through the second pass
        ("[pear:apple:0.5]", ("[pear:apple:0.5]", "apple")),
        ("[pear:apple:6]", ("pear", "[pear:apple:2]")),  # its second step
    ],
)
def test_schedules_of_the_prompt_go_on_in_the_second_pass(
    sd: Model, scheduled: str, plain: tuple[str, str]
) -> None:
    hires = {"scale": 1, "strength": 0.7}
    whole = only(sd, asked(prompt=scheduled, steps=4, hires=hires))
    latents = latents_of(sd, asked(prompt=plain[0], steps=4))
    expected = redrawn(sd, latents, 0.7, asked(prompt=plain[1], steps=4))
    assert np.array_equal(whole.pixels, expected)


def test_the_second_pass_has_words_and_settings_of_its_own(sd: Model) -> None:
    base = {"scale": 1, "strength": 0.5}
    plain = only(sd, asked(hires=base))
    for own in (
        {"prompt": "a pear"},
        {"negative_prompt": "red"},
        {"cfg_scale": 3.0},
        {"sampler": "Heun"},
        {"schedule": "karras"},
    ):
        assert not same(only(sd, asked(hires=base | own)), plain), own
    same_again = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "sampler": "euler"}
    assert same(only(sd, asked(hires=base | same_again)), plain)


# -- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tiles", [{"size": (64, 64)}, {"size": (128, 96), "weighting": "uniform"}, {"batch": 4}]
)
def test_a_window_that_covers_all_is_no_window(sd: Model, tiles: dict[str, object]) -> None:
    assert same(only(sd, asked(tiles=tiles)), only(sd, asked()))


def test_a_window_that_covers_all_of_sdxl_is_none(tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )

    model = load(save(quiet(StableDiffusionXLPipeline(**xl_parts())), tmp_path))
    sizes = {"crop_left": 8}
    plain = only(model, asked(sizes=sizes))
    assert same(only(model, asked(sizes=sizes, tiles={"size": (64, 64)})), plain)
    # in several, each is told where it lies
    tiled = asked(width=128, tiles={"size": (64, 64)})
    crops: list[Tensor] = []
    unet_ = model.network.unet
    seen = unet_.register_forward_pre_hook(lambda _m, args: crops.append(args[3]))
    only(model, tiled.replace(steps=1))
    seen.remove()
    assert len({tuple(row.tolist()) for vector in crops for row in vector}) >= 3


class Panorama(panorama.StableDiffusionPanoramaPipeline):
    """Diffusers' MultiDiffusion with windows of 8 latents every 4, for a model this small."""

    def get_views(
        self, panorama_height: int, panorama_width: int, circular_padding: bool = False, **_: int
    ) -> list[tuple[int, int, int, int]]:
        views: list[tuple[int, int, int, int]] = super().get_views(
            panorama_height, panorama_width, 8, 4, circular_padding
        )
        return views


def test_a_strip_is_drawn_as_diffusers_panorama(tmp_path: Path) -> None:
    parts = sd_parts("sd15")
    parts["scheduler"] = DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=1
    )
    pipeline = quiet(Panorama(**parts))
    theirs = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=64,
        width=160,
        num_inference_steps=5,
        guidance_scale=7.5,
        generator=generator(5),
        output_type="latent",
    ).images
    tiles = {"size": (64, 64), "overlap": 32, "weighting": "uniform"}
    strip = asked(
        width=160, steps=5, cfg_scale=7.5, sampler="DDIM", schedule="leading", tiles=tiles
    )
    assert distance(latents_of(load(save(pipeline, tmp_path)), strip), theirs) <= 1e-4


def test_what_needs_one_view_of_all_is_refused(sd: Model) -> None:
    tiles = {"size": (64, 64)}
    with pytest.raises(RequestError, match="self-attention guidance needs one view"):
        only(sd, asked(width=128, tiles=tiles, guidance={"sag": {}}))

    class Watcher:
        def __call__(self, *_: object) -> None: ...

    watched = replace(sd, network=replace(sd.network, observer=Watcher()))
    with pytest.raises(RequestError, match="word maps need one view"):
        only(watched, asked(width=128, tiles=tiles))
    with pytest.raises(RequestError, match="word maps follow one prompt"):
        only(watched, asked(regions=[{"prompt": "x", "box": "left"}]))


def test_controls_are_cut_out_with_their_windows_and_measured_over_all(
    sd: Model, tmp_path: Path
) -> None:
    json = controlnet_json("sd15") | {"cross_attention_dim": 64}
    randomised(ControlNetModel(**json), 11).save_pretrained(tmp_path / "net")
    dark = np.zeros((64, 128, 3), np.uint8)
    dark[:, 64:] = PIXELS[:1, :64]
    supplies = Supplies({"map.png": dark, "other.png": 255 - dark})
    control = {"net": str(tmp_path / "net"), "picture": "map.png", "scale": 1.0}
    tiles = {"size": (64, 64), "overlap": 32}
    request = asked(width=128, controls=[control], tiles=tiles)
    made = only(sd, request, supplies)
    (figure,) = made.recipe.result.figures
    assert figure.value > 1e-3
    assert not same(made, only(sd, asked(width=128, tiles=tiles), supplies))
    # one window over all is no window, for the control and its measure as well
    whole = asked(width=128, controls=[control])
    one = only(sd, whole.replace(tiles={"size": (128, 64), "overlap": 0}), supplies)
    plain = only(sd, whole, supplies)
    assert same(one, plain) and one.recipe.result.figures == plain.recipe.result.figures
    # the second pass shows the control its map at the new size
    hires = whole.replace(tiles=None, hires={"scale": 1.5, "strength": 0.5})
    assert only(sd, hires, supplies).recipe.result.figures != ()
    # a region's prompt follows the map too
    regions = whole.replace(regions=[{"prompt": PROMPT, "box": "all"}])
    assert same(only(sd, regions, supplies), plain)
    # what the networks look at continues at the other side
    ring = only(sd, whole.replace(seamless="x"), supplies)
    assert not same(ring, plain)


# -- seamless -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"seamless": "x"},
        {"seamless": "both", "height": 128},
        {"seamless": "x", "tiles": {"size": (64, 64), "overlap": 32}},
    ],
)
def test_a_seamless_picture_rolls_with_its_noise(
    sd: Model, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(width=128, **changes)
    plain = only(sd, request).pixels.astype(int)
    shift = 64 if "tiles" not in changes else 32

    def rolled(*given: object) -> Plan:
        made = plan(*given)  # type: ignore[arg-type]
        return replace(made, x=made.x.roll(shift // 8, 3))

    monkeypatch.setattr(painting, "plan", rolled)
    again = only(sd, request).pixels.astype(int)
    assert np.abs(again - np.roll(plain, shift, 1)).max() <= 2
    assert np.abs(again - plain).mean() > 10
    open_ended = only(sd, request.replace(seamless="none")).pixels.astype(int)
    monkeypatch.undo()
    other = only(sd, request.replace(seamless="none")).pixels.astype(int)
    assert np.abs(open_ended - np.roll(other, shift, 1)).max() > 10


def test_a_seamless_second_pass_has_no_seam(sd: Model) -> None:
    """The latents that are made larger go on at their other side as well."""
    from safelight.models.layers import Wrap
    from safelight.tasks.second_pass import _larger_latents

    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    grown = latent.growth((64, 64), scale=1.5)
    for name in LATENT_UPSCALERS:
        larger = _larger_latents(latents, grown, name, 8, Wrap(x=True, y=True))
        rolled = _larger_latents(latents.roll((4, 4), (2, 3)), grown, name, 8, Wrap(True, True))
        assert distance(rolled, larger.roll((6, 6), (2, 3))) <= 1e-5, name
        plain = _larger_latents(latents, grown, name, 8, Wrap())
        assert torch.equal(plain, latent.enlarged_latents(latents, 12, 12, name))
    made = only(sd, asked(seamless="both", hires={"scale": 2}))
    assert made.pixels.shape == (128, 128, 3)


# -- regions --------------------------------------------------------------------------------------


def test_one_region_of_all_is_its_prompt_alone(sd: Model) -> None:
    regions = [{"prompt": "[pear:plum:2]", "box": "all"}]
    made = only(sd, asked(prompt="never read", regions=regions))
    assert same(made, only(sd, asked(prompt="[pear:plum:2]")))
    assert made.warnings == (
        "the prompt of the picture has no place: its regions cover all of it.",
    )


def test_regions_of_the_same_words_are_those_words(sd: Model) -> None:
    regions = [{"prompt": PROMPT, "box": "left"}, {"prompt": PROMPT, "box": "0,0.5,1,1"}]
    made = latents_of(sd, asked(regions=regions, background=0.3))
    assert distance(made, latents_of(sd, asked())) <= 1e-4


@pytest.mark.parametrize("tiles", [None, {"size": (64, 64)}])
def test_a_region_counts_in_its_place_alone(sd: Model, tiles: dict[str, object] | None) -> None:
    """In the first step, before what is drawn looks at its surroundings."""
    pear, plum = (latents_of(sd, asked(prompt=p, width=128, steps=1)) for p in ("pear", "plum"))
    if tiles is not None:
        pear, plum = (
            latents_of(sd, asked(prompt=p, width=128, steps=1, tiles=tiles))
            for p in ("pear", "plum")
        )
    regions = [{"prompt": "pear", "box": "0,0,64,64"}]
    made = latents_of(
        sd, asked(prompt="plum", width=128, steps=1, regions=regions, feather=0, tiles=tiles)
    )
    assert distance(made[..., :8], pear[..., :8]) <= 1e-5
    assert distance(made[..., 8:], plum[..., 8:]) <= 1e-5
    assert distance(pear, plum) > 1e-3


def test_a_mask_picture_is_a_place_and_is_in_the_recipe(sd: Model) -> None:
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, :32] = 255
    supplies = Supplies({"half.png": half})
    by_mask = only(sd, asked(regions=[{"prompt": "pear", "mask": "half.png"}]), supplies)
    by_box = only(sd, asked(regions=[{"prompt": "pear", "box": "left"}]))
    assert same(by_mask, by_box)
    assert [(f.role, f.name) for f in by_mask.recipe.files if f.content == "pixels"] == [
        ("region mask", "half.png")
    ]


def test_boxes_keep_their_place_in_the_second_pass(sd: Model) -> None:
    hires = {"scale": 2, "strength": 0.5}
    by_pixels = asked(regions=[{"prompt": "pear", "box": "0,0,32,64"}], hires=hires, feather=8)
    by_parts = asked(regions=[{"prompt": "pear", "box": "left"}], hires=hires, feather=8)
    assert same(only(sd, by_pixels), only(sd, by_parts))


# -- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"hires": {"scale": 1.5}},
        {"hires": {"scale": 1.5, "upscaler": "Lanczos"}},
        {"width": 128, "tiles": {"size": (64, 64), "batch": 2}},
        {"seamless": "x"},
        {"regions": [{"prompt": "pear", "box": "left"}]},
    ],
)
def test_pictures_of_a_batch_are_those_drawn_alone(sd: Model, changes: dict[str, object]) -> None:
    together = pictures(sd, asked(steps=2, count=2, batch=2, exact=False, **changes))
    for k, picture in enumerate(together):
        alone = only(sd, asked(steps=2, seed=5 + k, **changes))
        assert np.abs(picture.pixels.astype(int) - alone.pixels).max() <= 1
    exact = pictures(sd, asked(steps=2, count=2, batch=2, **changes))
    assert same(exact[1], only(sd, asked(steps=2, seed=6, **changes)))


# -- a picture made larger and drawn over ---------------------------------------------------------


def test_scale_is_the_size_and_the_upscaler_comes_first(sd: Model, network: Path) -> None:
    source = {"picture": "photo.png", "scale": 2, "upscaler": str(network), "strength": 0}
    made = only(sd, asked(width=None, height=None, source=source))
    assert made.pixels.shape == (96, 128, 3)
    loaded = load_upscaler(network)
    assert np.array_equal(made.pixels, pixel_upscalers.upscaled(PIXELS, loaded))
    plain = only(sd, asked(width=None, height=None, source=source | {"upscaler": None}))
    lanczos = only(sd, asked(width=None, height=None, source=source | {"upscaler": "lanczos"}))
    assert same(plain, lanczos) and not same(plain, made)


def test_what_is_large_is_drawn_at_its_size_in_windows(sd: Model) -> None:
    large = Supplies({"photo.png": np.tile(PIXELS, (18, 14, 1))})
    source = {"picture": "photo.png", "strength": 0}
    seen_whole = asked(width=None, height=None, source=source)
    assert only(sd, seen_whole, large).pixels.shape[0] < 864
    in_windows = seen_whole.replace(tiles={"size": (512, 512)})
    assert only(sd, in_windows, large).pixels.shape == (864, 896, 3)


@pytest.mark.parametrize(
    "clash",
    [
        {"hires": {}},
        {"mask": {"picture": "m"}, "source": {"picture": "p", "scale": 2}},
        {"mask": {"picture": "m"}, "source": {"picture": "p", "upscaler": "Lanczos"}},
        {"extend": {"left": 8}, "source": {"picture": "p", "scale": 2}},
        {"mask": {"area": "masked"}, "regions": [{"prompt": "x", "box": "left"}]},
        {"extend": {"left": 8}, "regions": [{"prompt": "x", "box": "left"}]},
        {"source": {"picture": "p", "redraw": False}, "mask": {}},
        {"source": {"picture": "p", "redraw": False, "loops": 2}},
        {"background": 0.5},
    ],
)
def test_what_cannot_both_be_meant_is_refused(clash: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=r"leave|give|do one|take"):
        asked(**{"source": {"picture": "p"}, **clash})


# -- the x4 upscaler ------------------------------------------------------------------------------


def x4_pipeline() -> StableDiffusionUpscalePipeline:
    parts = sd_parts("sd2-depth")
    del parts["requires_safety_checker"]
    betas = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    parts |= {
        "unet": unet("x4-upscaler", 64),
        "vae": vae(3, scale=0.08333),
        "scheduler": DDIMScheduler(
            **betas, prediction_type="v_prediction", clip_sample=False, steps_offset=1
        ),
        "low_res_scheduler": DDPMScheduler(**betas),
    }
    return quiet(StableDiffusionUpscalePipeline(**parts))  # type: ignore[return-value]


SMALL: NDArray[np.uint8] = PIXELS[:8, :12]


def upscaling(**changes: object) -> Request:
    asked_ = {
        "width": None,
        "height": None,
        "steps": 5,
        "cfg_scale": 9.0,
        "sampler": "DDIM",
        "schedule": "leading",
        "source": {"picture": "small.png"},
    }
    return asked(**{**asked_, **changes})


@pytest.fixture(scope="module")
def x4(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save(x4_pipeline(), tmp_path_factory.mktemp("x4")))


SMALL_SUPPLIES = Supplies({"small.png": SMALL})


def test_the_x4_upscaler_draws_the_pictures_of_diffusers(x4: Model) -> None:
    theirs = x4_pipeline()(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=torch.from_numpy(SMALL.copy()).permute(2, 0, 1)[None] / 255,
        noise_level=20,
        guidance_scale=9.0,
        num_inference_steps=5,
        latents=Noise([5], (4, 8, 12))(),
        generator=generator(5 - 10),  # ComfyUI's seed for the small picture
        output_type="np",
    ).images[0]
    made = only(x4, upscaling(), SMALL_SUPPLIES)
    assert made.pixels.shape == (32, 48, 3)
    assert np.abs(made.pixels - 255 * theirs).max() <= 0.6
    assert (made.recipe.request.width, made.recipe.result.steps) == (48, 5)


def test_the_level_of_noise_has_a_say_and_bounds(x4: Model) -> None:
    plain = only(x4, upscaling(), SMALL_SUPPLIES)
    assert not same(only(x4, upscaling(noise_level=100), SMALL_SUPPLIES), plain)
    with pytest.raises(RequestError, match="between 0 and 350"):
        only(x4, upscaling(noise_level=351), SMALL_SUPPLIES)


def test_upscaled_pictures_of_a_batch_are_those_drawn_alone(x4: Model) -> None:
    together = pictures(x4, upscaling(count=2, batch=2, exact=False), SMALL_SUPPLIES)
    alone = only(x4, upscaling(seed=6), SMALL_SUPPLIES)
    assert np.abs(together[1].pixels.astype(int) - alone.pixels).max() <= 1


def test_one_window_over_the_small_picture_is_none(x4: Model) -> None:
    plain = only(x4, upscaling(), SMALL_SUPPLIES)
    one = upscaling(tiles={"size": (48, 32), "overlap": 16})
    assert same(only(x4, one, SMALL_SUPPLIES), plain)
    several = upscaling(tiles={"size": (32, 32), "overlap": 16})
    assert not same(only(x4, several, SMALL_SUPPLIES), plain)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": {"picture": "small.png", "scale": 2}}, "4 times as large"),
        ({"source": {"picture": "small.png", "loops": 2}}, "once"),
        ({"mask": {"picture": "mask.png"}}, "whole picture"),
        ({"source": None, "width": 64, "height": 64}, "draws from a picture"),
    ],
)
def test_the_x4_upscaler_refuses_what_it_cannot_do(
    x4: Model, changes: dict[str, object], said: str
) -> None:
    supplies = Supplies({"small.png": SMALL, "mask.png": np.full_like(SMALL, 255)})
    with pytest.raises(RequestError, match=said):
        only(x4, upscaling(**changes), supplies)


# -- for the tests above --------------------------------------------------------------------------


def latents_of(model: Model, request: Request) -> Tensor:
    """What a drawing from text comes to before it is decoded."""
    (single,) = settled(request, model)
    with torch.no_grad():
        aids = equipped(model, single, NOTHING, SUPPLIES)
        return painted(model, [single], Sentinel(), Tally(), NOTHING, aids).latents


def redrawn(model: Model, latents: Tensor, strength: float, request: Request) -> NDArray[np.uint8]:
    """The pixels of a second pass over latents, by A1111's rule for it."""
    (second,) = settled(request, model)
    stage = Stage(latents, strength, "a1111_exact")
    with torch.no_grad():
        again = painted(model, [second], Sentinel(), Tally(), stage).latents
        return to_uint8(decoded(model, again, second, Sentinel()))[0]
