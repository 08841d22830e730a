"""`--image-prompt`: pictures as a prompt, told in the recipe and replayed."""

from pathlib import Path

import numpy as np
import pytest
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image

from cli_tiny import Cli, pixels
from image_prompts_tiny import adapter_state, picture, vision_tower, write_adapter
from pipelines_tiny import save, sd_parts

SMALL = ("--size", "64x64", "--steps", "2", "--seed", "5")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an adapter for it and the vision tower that it reads pictures with."""
    folder = tmp_path_factory.mktemp("nets")
    parts = sd_parts("sd15")
    save(StableDiffusionPipeline(**parts), folder / "model")
    write_adapter(folder / "ip.safetensors", adapter_state("plain", parts["unet"]))
    vision_tower().save_pretrained(folder / "image_encoder")
    return folder


def test_a_picture_prompts_and_replays_and_scale_0_is_none(
    safelight: Cli, nets: Path, place: Path
) -> None:
    for number in (1, 2):
        Image.fromarray(picture(number)).save(place / f"{number}.png")
    plain = ("generate", "a", "-m", nets / "model", *SMALL)
    assert safelight(*plain, "-o", "plain.png").code == 0
    prompt = f"{nets}/ip.safetensors,picture=1.png,picture=2.png"
    ran = safelight(*plain, "--image-prompt", f"{prompt},scale=0.8", "-o", "a.png")
    assert ran.code == 0, ran.err
    assert not np.array_equal(pixels("a.png"), pixels("plain.png"))
    where = ("--file", f"image adapter={nets}/ip.safetensors")
    assert safelight("replay", "a.png", "-m", nets / "model", *where).out == "identical\n"
    ran = safelight(*plain, "--image-prompt", f"{prompt},scale=0", "-o", "b.png")
    assert np.array_equal(pixels("b.png"), pixels("plain.png")), ran.err


def test_a_picture_that_is_not_there_is_one_line(safelight: Cli, nets: Path, place: Path) -> None:
    prompt = f"{nets}/ip.safetensors,picture=gone.png"
    ran = safelight("generate", "a", "-m", nets / "model", *SMALL, "--image-prompt", prompt)
    assert "gone.png" in ran.error() and not list(place.glob("out/*"))
