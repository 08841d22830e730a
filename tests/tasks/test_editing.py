"""Drawing on a picture, against Diffusers' pipelines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_depth2img import (
    StableDiffusionDepth2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import (
    StableDiffusionImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint import (
    StableDiffusionInpaintPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor

from models_tiny import distance
from pipelines_tiny import (
    BETAS,
    NEGATIVE,
    PROMPT,
    generator,
    quiet,
    save,
    sd_parts,
    unet,
    xl_parts,
)
from safelight.checkpoints.load import load
from safelight.engines.sentinel import Sentinel
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.editing import stage_of
from safelight.tasks.equipping import equipped
from safelight.tasks.generate import generate, settled
from safelight.tasks.painting import Progress, Tally, as_images, encoded, painted
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request
from safelight.tasks.stage import NOTHING
from safelight.tasks.supplies import Supplies
from safelight.tasks.work import work_of

pytestmark = pytest.mark.slow

TOLERANCE = 1e-3
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
MASK = np.zeros((64, 64, 3), dtype=np.uint8)
MASK[16:48, 24:] = 255
SUPPLIES = Supplies({"photo.png": PIXELS, "mask.png": MASK})
EULER = EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace")
DDIM = DDIMScheduler(**BETAS, set_alpha_to_one=True, clip_sample=False, steps_offset=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, Model]:
    pipeline = StableDiffusionImg2ImgPipeline(**sd_parts("sd15"))
    return quiet(pipeline), load(save(pipeline, tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, Model]:
    pipeline = StableDiffusionInpaintPipeline(**sd_parts("sd15-inpaint"))
    return quiet(pipeline), load(save(pipeline, tmp_path_factory.mktemp("inpainting")))


def asked(**settings: object) -> Request:
    source = {"picture": "photo.png", "strength_rule": "diffusers"}
    source |= settings.pop("source", {})  # type: ignore[arg-type]
    return Request.parse(
        {
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "seed": 5,
            "steps": 10,
            "cfg_scale": 7.5,
            "sampler": "Euler",
            "schedule": "normal",
            "start": "diffusers",
            "source": source,
            **settings,
        }
    )


def drawn_latents(model: Model, wanted: Request, supplies: Supplies = SUPPLIES) -> Tensor:
    (single,) = settled(wanted, model, supplies)
    sentinel = Sentinel()
    with torch.no_grad():
        stage = stage_of(model, single, work_of(single, model, supplies), supplies, sentinel)
        return painted(model, [single], sentinel, Tally(), stage).latents


def latents_of(model: Model, pixels: np.ndarray = PIXELS) -> Tensor:
    images = as_images([torch.from_numpy(pixels)])
    with torch.no_grad():
        return encoded(model, images, asked(), Sentinel())


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_image_to_image_is_diffusers(
    plain: tuple[object, Model], strength: float, sampler: str
) -> None:
    pipeline, model = plain
    pipeline.scheduler = EULER if sampler == "Euler" else DDIM
    theirs = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=latents_of(model),
        strength=strength,
        num_inference_steps=10,
        guidance_scale=7.5,
        generator=generator(5),
        output_type="latent",
    ).images
    schedule = "normal" if sampler == "Euler" else "leading"
    ours = drawn_latents(
        model, asked(source={"strength": strength}, sampler=sampler, schedule=schedule)
    )
    assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_with_a_plain_model_is_diffusers(
    plain: tuple[object, Model], strength: float
) -> None:
    """What is kept lies under the same noise at every step, and inside nothing differs."""
    pipeline, model = plain
    parts = {k: v for k, v in pipeline.components.items() if k != "image_encoder"}
    repainter = quiet(StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False))
    repainter.scheduler = EULER
    theirs = repainter(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=latents_of(model),
        mask_image=torch.from_numpy(MASK[None, None, :, :, 0] / 255).float(),
        masked_image_latents=torch.zeros(1, 4, 8, 8),  # which a plain model is not told
        height=64,
        width=64,
        strength=strength,
        num_inference_steps=10,
        guidance_scale=7.5,
        generator=generator(5),
        output_type="latent",
    ).images
    ours = drawn_latents(
        model,
        asked(source={"strength": strength}, mask={"picture": "mask.png", "blur": 0}),
    )
    assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_an_inpainting_model_is_diffusers(
    inpainting: tuple[object, Model], strength: float
) -> None:
    pipeline, model = inpainting
    pipeline.scheduler = EULER
    mask = torch.from_numpy(MASK[None, None, :, :, 0] / 255).float()
    hidden = as_images([torch.from_numpy(PIXELS)]) * (mask < 0.5)
    with torch.no_grad():
        masked = encoded(model, hidden, asked(), Sentinel())
    theirs = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=latents_of(model),
        mask_image=mask,
        masked_image_latents=masked,
        height=64,
        width=64,
        strength=strength,
        num_inference_steps=10,
        guidance_scale=7.5,
        generator=generator(5),
        output_type="latent",
    ).images
    ours = drawn_latents(
        model,
        asked(source={"strength": strength}, mask={"picture": "mask.png", "blur": 0}),
    )
    assert distance(ours, theirs) <= TOLERANCE


def only(model: Model, wanted: Request) -> Picture:
    (picture,) = generate(model, wanted, supplies=SUPPLIES)
    return picture


def test_at_strength_0_the_picture_comes_back_byte_for_byte(plain: tuple[object, Model]) -> None:
    for rule in ("a1111", "a1111_exact", "diffusers", "comfy"):
        picture = only(plain[1], asked(source={"strength": 0, "strength_rule": rule}))
        assert np.array_equal(picture.pixels, PIXELS), rule
        assert picture.recipe.result.steps == 0


@pytest.mark.parametrize("fixture", ["plain", "inpainting"])
def test_an_empty_mask_gives_the_picture_back_and_says_so(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    _, model = request.getfixturevalue(fixture)
    supplies = Supplies({"photo.png": PIXELS, "none.png": np.zeros_like(MASK)})
    (picture,) = generate(model, asked(mask={"picture": "none.png"}), supplies=supplies)
    assert np.array_equal(picture.pixels, PIXELS)
    assert any("mask is empty" in warning for warning in picture.warnings)
    assert picture.recipe.result.steps == 0


def test_a_full_mask_is_image_to_image(plain: tuple[object, Model]) -> None:
    supplies = Supplies({"photo.png": PIXELS, "all.png": np.full_like(MASK, 255)})
    full = asked(mask={"picture": "all.png", "match_colour": False})
    (masked,) = generate(plain[1], full, supplies=supplies)
    assert np.array_equal(masked.pixels, only(plain[1], asked()).pixels)


@pytest.mark.parametrize("fixture", ["plain", "inpainting"])
@pytest.mark.parametrize(
    "mask",
    [
        {},
        {"blur": 0},
        {"blur": 12, "content": "fill"},
        {"content": "noise"},
        {"content": "nothing"},
        {"soft": True},
        {"area": "masked", "padding": 4},
        {"invert": True, "area": "masked"},
    ],
)
def test_outside_the_mask_not_a_byte_changes(
    fixture: str, mask: dict[str, object], request: pytest.FixtureRequest
) -> None:
    _, model = request.getfixturevalue(fixture)
    picture = only(model, asked(steps=2, mask={"picture": "mask.png", **mask}))
    kept = (MASK[..., 0] > 0) if mask.get("invert") else (MASK[..., 0] == 0)
    assert picture.pixels.shape == PIXELS.shape
    assert np.array_equal(picture.pixels[kept], PIXELS[kept])
    assert (picture.pixels[~kept] != PIXELS[~kept]).mean() > 0.5
    names = {figure.name for figure in picture.recipe.result.figures}
    assert "seam" in names


def test_a_picture_of_any_size_keeps_it_under_a_mask(plain: tuple[object, Model]) -> None:
    pixels, mask = PIXELS[:61, :53], MASK[:61, :53]
    supplies = Supplies({"photo.png": pixels, "mask.png": mask})
    (picture,) = generate(plain[1], asked(steps=2, mask={"picture": "mask.png"}), supplies=supplies)
    kept = mask[..., 0] == 0
    assert picture.pixels.shape == pixels.shape
    assert np.array_equal(picture.pixels[kept], pixels[kept])
    assert picture.recipe.request.width == 56 and picture.recipe.request.height == 64
    assert picture.recipe.result.size == (53, 61)


def test_loops_go_on_from_what_was_drawn_with_the_next_seed(plain: tuple[object, Model]) -> None:
    _, model = plain
    source = {"strength": 0.6, "loops": 3, "last_strength": 0.2}
    looped = only(model, asked(steps=5, source=source))
    pixels = PIXELS
    for turn, strength in enumerate((0.6, 0.4, 0.2)):
        one = asked(steps=5, seed=5 + turn, source={"strength": strength})
        (picture,) = generate(model, one, supplies=Supplies({"photo.png": pixels}))
        pixels = picture.pixels
    assert np.array_equal(looped.pixels, pixels)


def test_pictures_of_a_batch_are_the_pictures_made_alone(plain: tuple[object, Model]) -> None:
    wanted = asked(steps=3, count=3, mask={"picture": "mask.png"})
    together = list(generate(plain[1], wanted, supplies=SUPPLIES))
    alone = [
        only(plain[1], asked(steps=3, seed=5 + k, mask={"picture": "mask.png"})) for k in range(3)
    ]
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert a.recipe.request == b.recipe.request


def test_a_mask_of_another_size_is_refused_with_both_sizes(plain: tuple[object, Model]) -> None:
    supplies = Supplies({"photo.png": PIXELS, "mask.png": MASK[:40]})
    with pytest.raises(RequestError, match=r"64 x 40 pixels and photo.png 64 x 64"):
        list(generate(plain[1], asked(mask={"picture": "mask.png"}), supplies=supplies))


def test_a_grown_picture_keeps_what_it_was_beyond_the_overlap(
    plain: tuple[object, Model],
) -> None:
    extend = {"left": 24, "bottom": 16, "overlap": 8}
    picture = only(plain[1], asked(steps=2, extend=extend))
    assert picture.pixels.shape == (80, 88, 3)
    inner = picture.pixels[:64, 24:]
    assert np.array_equal(inner[:56, 8:], PIXELS[:56, 8:])
    assert not np.array_equal(inner[:, :8], PIXELS[:, :8])
    assert picture.recipe.request.source.strength == 1
    assert picture.recipe.result.size == (88, 80) or picture.recipe.request.width == 88


def test_without_an_overlap_every_pixel_of_the_picture_stays(plain: tuple[object, Model]) -> None:
    for fill in ("context", "mirror", "edge", "noise"):
        picture = only(plain[1], asked(steps=1, extend={"right": 16, "overlap": 0, "fill": fill}))
        assert np.array_equal(picture.pixels[:, :64], PIXELS), fill


def test_a_large_growth_is_drawn_in_windows_each_from_what_is_there(
    plain: tuple[object, Model],
) -> None:
    wanted = asked(
        steps=2,
        width=64,
        height=64,
        extend={"right": 96, "overlap": 8, "right_prompt": "a blue table"},
    )
    seen: list[Progress] = []
    (picture,) = generate(plain[1], wanted, supplies=SUPPLIES, watch_steps=seen.append)
    assert picture.pixels.shape == (64, 160, 3)
    assert np.array_equal(picture.pixels[:, :56], PIXELS[:, :56])
    assert picture.recipe.result.steps == 4
    assert seen[0].steps == seen[-1].steps == seen[-1].step
    other = only(plain[1], wanted.replace(extend=wanted.extend.replace(right_prompt=None)))
    assert not np.array_equal(other.pixels, picture.pixels)


def test_instruct_pix2pix_is_told_the_picture(tmp_path: Path) -> None:
    parts = {**sd_parts("pix2pix"), "scheduler": EULER}
    pipeline = quiet(StableDiffusionInstructPix2PixPipeline(**parts))
    model = load(save(pipeline, tmp_path))
    theirs = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255,
        num_inference_steps=10,
        guidance_scale=6.0,
        image_guidance_scale=1.8,
        generator=generator(5),
        output_type="latent",
    ).images
    ours = drawn_latents(model, asked(cfg_scale=6.0, image_cfg_scale=1.8))
    assert distance(ours, theirs) <= TOLERANCE


def test_a_depth_model_draws_along_a_map(tmp_path: Path) -> None:
    parts = sd_parts("sd2-depth")
    for name in ("safety_checker", "requires_safety_checker"):
        del parts[name]
    parts["scheduler"] = DDIM
    pipeline = quiet(StableDiffusionDepth2ImgPipeline(**parts, depth_estimator=None))
    model = load(save(pipeline, tmp_path))
    depth = np.random.default_rng(3).integers(0, 256, (20, 24), dtype=np.uint8)
    supplies = Supplies({"photo.png": PIXELS, "depth.png": np.repeat(depth[..., None], 3, 2)})
    wanted = asked(sampler="DDIM", schedule="leading", source={"strength": 0.6}, depth="depth.png")
    # as the pipeline prepares it, which test_families_end_to_end.py holds to Diffusers' latents
    small = torch.nn.functional.interpolate(
        torch.from_numpy(depth).float()[None, None], (8, 8), mode="bicubic"
    )
    told = 2 * (small - small.min()) / (small.max() - small.min()) - 1
    (single,) = settled(wanted, model, supplies)
    stage = stage_of(model, single, work_of(single, model, supplies), supplies, Sentinel())
    assert torch.equal(stage.extra, told)
    assert torch.equal(stage.latents, latents_of(model))
    flat = Supplies({**supplies.pictures, "depth.png": np.full((8, 8, 3), 9, np.uint8)})
    assert drawn_latents(model, wanted, supplies).isfinite().all()
    with pytest.raises(RequestError, match="all of one depth"):
        drawn_latents(model, wanted, flat)
    with pytest.raises(RequestError, match="draws along a depth map"):
        drawn_latents(model, wanted.replace(depth=None), supplies)


def test_the_refiner_takes_over_where_diffusers_hands_over(tmp_path: Path) -> None:
    base = quiet(StableDiffusionXLPipeline(**{**xl_parts(), "scheduler": EULER}))
    parts = xl_parts()
    parts |= {"text_encoder": None, "tokenizer": None, "scheduler": EULER}
    parts["unet"] = unet("sdxl-refiner", 128, 40 + 5 * 8)
    refiner = quiet(StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True))
    common = {
        "negative_prompt": NEGATIVE,
        "num_inference_steps": 10,
        "guidance_scale": 5.0,
        "output_type": "latent",
    }
    half = base(
        PROMPT, width=64, height=64, denoising_end=0.8, generator=generator(5), **common
    ).images
    sizes = {"original_size": (64, 64), "target_size": (64, 64)}
    theirs = refiner(PROMPT, image=half, denoising_start=0.8, **sizes, **common).images
    model = load(save(base, tmp_path / "base"))
    save(refiner, tmp_path / "refiner")
    wanted = Request.parse(
        {
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "width": 64,
            "height": 64,
            "seed": 5,
            "steps": 10,
            "cfg_scale": 5.0,
            "sampler": "Euler",
            "schedule": "normal",
            "start": "diffusers",
            "refiner": {"model": str(tmp_path / "refiner"), "switch": 0.8},
        }
    )
    (single,) = settled(wanted, model)
    with torch.no_grad():
        aids = equipped(model, single, NOTHING, Supplies())
        ours = painted(model, [single], Sentinel(), Tally(), NOTHING, aids).latents
    assert distance(ours, theirs) <= TOLERANCE
    (picture,) = generate(model, wanted)
    assert "refiner" in {file.role for file in picture.recipe.files}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"extend": {"left": 8}, "mask": {"picture": "mask.png"}}, "drawing of its own"),
        ({"extend": {"left": 8}, "source": {"loops": 2}}, "grows a picture once"),
        ({"extend": {"left": 8}, "seamless": "x"}, "extend draws in parts"),
        (
            {"mask": {"picture": "mask.png", "area": "masked"}, "seamless": "x"},
            "mask.area masked draws a part",
        ),
    ],
)
def test_settings_that_cannot_both_be_meant_are_refused(
    settings: dict[str, object], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        asked(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"depth": "photo.png"}, "the depth map does nothing"),
        ({"image_cfg_scale": 2.0}, "InstructPix2Pix's alone"),
        ({"noise_level": 7}, "the x4 upscaler's alone"),
        ({"clip": "a clip"}, "nothing is seen with it"),
        ({"source": {"last_strength": 0.2}}, "there is one"),
        ({"mask": {"picture": "mask.png", "padding": 9}}, "belongs to mask.area masked"),
        (
            {"mask": {"picture": "mask.png"}, "source": {"resize": "latent"}},
            "no say under a mask",
        ),
        ({"extend": {"left": 8}, "source": {"colour_correction": True}}, "where the picture grows"),
    ],
)
def test_settings_without_a_say_are_said(
    plain: tuple[object, Model], settings: dict[str, object], said: str
) -> None:
    picture = only(plain[1], asked(steps=1, **settings))
    assert any(said in warning for warning in picture.warnings), picture.warnings
    quiet_one = only(plain[1], asked(steps=1))
    assert not any(said in warning for warning in quiet_one.warnings)
