"""`safelight replay`: identical, or the first difference by name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cli_tiny import SMALL, Cli, files, pixels, tiny_model
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.save import save


@pytest.fixture
def own(place: Path, model: Path) -> Path:
    """The model in a folder of its own."""
    path = place / "own" / "sd15.safetensors"
    path.parent.mkdir()
    shutil.copy(model, path)
    return path


def edited(path: Path, out: Path) -> Path:
    """The same file with one value of one pixel changed."""
    with Image.open(path) as image:
        chunks = PngInfo()
        for key, value in image.text.items():  # type: ignore[attr-defined]
            chunks.add_text(key, value)
        values = np.asarray(image).copy()
    values[0, 0, 0] ^= 4
    Image.fromarray(values).save(out, pnginfo=chunks)
    return out


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "DPM++ SDE", "Euler a"])
def test_a_picture_is_drawn_again_identically(safelight: Cli, model: Path, sampler: str) -> None:
    args = ("generate", "a (red:1.2) [cat:dog:0.5]", "-n", "x", "-m", model, *SMALL)
    extra = ("--sampler", sampler, "--subseed-strength", "0.2", "--rescale", "0.5", "--seed", "-1")
    assert safelight(*args, *extra, "-o", "a.png").code == 0
    ran = safelight("replay", "a.png", "-m", model)
    assert (ran.code, ran.out, ran.err) == (0, "identical\n", "")


def test_a_diffusers_folder_is_replayed_too(safelight: Cli, shelf: Path) -> None:
    assert safelight("generate", "a", "-m", shelf / "sd15", *SMALL, "-o", "a.png").code == 0
    assert safelight("replay", "a.png", "-m", shelf / "sd15").out == "identical\n"


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_type_is_that_of_the_recipe(safelight: Cli, model: Path, dtype: str) -> None:
    ran = safelight("generate", "a", "-m", model, *SMALL, "--dtype", dtype, "-o", "a.png")
    assert ran.code == 0
    assert safelight("replay", "a.png", "-m", model).out == "identical\n"


def test_lossless_webp_is_identical_and_jpeg_says_that_it_loses(
    safelight: Cli, model: Path
) -> None:
    for name in ("a.webp", "a.jpg"):
        assert safelight("generate", "a", "-m", model, *SMALL, "-o", name).code == 0
    assert safelight("replay", "a.webp", "-m", model).out == "identical\n"
    ran = safelight("replay", "a.jpg", "-m", model, "--json")
    (seen,) = ran.json()
    assert ran.code == 1
    assert (seen["identical"], seen["reproduced"]) == (False, True)
    assert "drawn again exactly, but JPEG keeps pixels with loss" in str(seen["first_difference"])


def test_a_changed_model_is_the_first_difference(
    safelight: Cli, model: Path, drawn: Path, place: Path
) -> None:
    other = tiny_model()
    with torch.no_grad():
        other.network.unet.conv_in.weight.mul_(1.5)
    save(other, place / "sd15.safetensors", "ldm")
    ran = safelight("replay", drawn, "--model", "sd15.safetensors", "--json")
    (seen,) = ran.json()
    assert ran.code == 1 and not seen["reproduced"]
    told = str(seen["first_difference"])
    assert told.startswith("the file for model is another: was 'sd15.safetensors'")
    assert sha256(model)[:12] in told and sha256(place / "sd15.safetensors")[:12] in told
    assert seen["distance"]["largest"] > 0  # type: ignore[index]


def test_the_file_with_the_right_hash_is_taken_among_several(
    safelight: Cli, drawn: Path, model: Path, place: Path
) -> None:
    (place / "sd15.safetensors").symlink_to(model)  # the folder we stand in
    save(tiny_model(seed=1), drawn.parent / "sd15.safetensors", "ldm")  # beside the picture
    assert safelight("replay", drawn).out == "identical\n"


def test_edited_pixels_are_told_apart_from_another_drawing(
    safelight: Cli, model: Path, drawn: Path, place: Path
) -> None:
    edited(drawn, place / "edited.png")
    ran = safelight("replay", "edited.png", "-m", model)
    assert ran.code == 1
    assert "drawn again exactly" in ran.out and "edited" in ran.out
    assert "up to 4 levels of 255 apart" in ran.out


def test_a_missing_model_is_named_with_its_hash_and_the_remedy(
    safelight: Cli, drawn: Path, model: Path, place: Path
) -> None:
    ran = safelight("replay", drawn)
    assert ran.code == 1
    assert ran.error() == (
        "the picture was drawn with the model 'sd15.safetensors' "
        f"(sha256 {sha256(model)[:12]}...), which is not here; give it with --model PATH."
    )


def test_a_vae_is_looked_for_as_the_model_is(safelight: Cli, shelf: Path, model: Path) -> None:
    vae = shelf / "sd15" / "vae"
    assert safelight("generate", "a", "-m", model, "--vae", vae, *SMALL, "-o", "a.png").code == 0
    assert safelight("replay", "a.png", "-m", model, "--vae", vae).out == "identical\n"
    ran = safelight("replay", "a.png", "-m", model)
    assert ran.code == 1 and "--vae PATH" in ran.error()


def test_out_saves_the_new_picture_and_replaces_nothing(
    safelight: Cli, model: Path, drawn: Path, place: Path
) -> None:
    assert safelight("replay", drawn, "-m", model, "--out", "new/again.png").code == 0
    assert np.array_equal(pixels("new/again.png"), pixels(drawn))
    before = drawn.read_bytes()
    ran = safelight("replay", drawn, "-m", model, "--out", drawn)
    assert ran.code == 2 and "exists already" in ran.error()
    assert drawn.read_bytes() == before


def test_settings_of_a1111_are_drawn_and_compared_but_prove_nothing(
    safelight: Cli, model: Path, drawn: Path, place: Path
) -> None:
    with Image.open(drawn) as image:
        text = image.info["parameters"]
        chunks = PngInfo()
        chunks.add_text("parameters", text)
        image.save("theirs.png", pnginfo=chunks)
    ran = safelight("replay", "theirs.png", "-m", model)
    assert (ran.code, ran.out) == (0, "identical\n")
    chunks = PngInfo()
    chunks.add_text("parameters", text.replace("Seed: 5", "Seed: 6").replace("safelight", "v1.9.4"))
    with Image.open(drawn) as image:
        image.save("other.png", pnginfo=chunks)
    ran = safelight("replay", "other.png", "-m", model)
    assert ran.code == 1
    assert ran.out.startswith("different: drawn from A1111's settings, which are no full recipe")
    assert "levels of 255 apart" in ran.out


def test_another_model_than_a1111_names_is_the_first_difference(
    safelight: Cli, model: Path, drawn: Path
) -> None:
    chunks = PngInfo()
    chunks.add_text(
        "parameters",
        "a fox\nSteps: 2, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, "
        "Model hash: 0123456789, Model: fox, RNG: CPU",
    )
    Image.new("RGB", (64, 64)).save("fox.png", pnginfo=chunks)
    ran = safelight("replay", "fox.png")
    assert ran.code == 1
    told = ran.error()
    assert "'fox' (sha256 0123456789...), which is not here; give it with --model" in told
    ran = safelight("replay", "fox.png", "-m", model)
    assert "the file for model is another: A1111 names hash 0123456789" in ran.out
    assert "the file for model is another: the picture names sha256 0123456789..." in ran.err


def test_a_picture_without_settings_cannot_be_drawn_again(safelight: Cli, place: Path) -> None:
    Image.new("RGB", (64, 64)).save("bare.png")
    ran = safelight("replay", "bare.png")
    assert ran.code == 2
    assert ran.error() == "bare.png carries no recipe and no settings of a known program."


def test_a_forged_recipe_is_refused_in_one_line(safelight: Cli, drawn: Path, place: Path) -> None:
    for number, recipe in enumerate(('{"version": 1}', "[" * 100_000, '{"version":2}', "")):
        chunks = PngInfo()
        chunks.add_text("safelight", recipe)
        Image.new("RGB", (64, 64)).save(f"{number}.png", pnginfo=chunks)
        ran = safelight("replay", f"{number}.png")
        assert ran.code == 2 and ran.err.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in ran.err
    assert files(place / "out") == [drawn.name]
