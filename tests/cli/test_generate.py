"""`safelight generate` as a user runs it: what is written, printed and kept."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tiny import SMALL, Cli, files, pixels
from safelight.checkpoints.hashes import sha256
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.recipe import pixels_sha256

SECRET = "xylophonist"


def test_a_picture_goes_to_the_folder_out_under_seed_and_words(
    safelight: Cli, model: Path, place: Path
) -> None:
    ran = safelight("generate", "a red Äpple, (big:1.2)!", "-m", model, *SMALL)
    assert (ran.code, ran.err) == (0, "")
    assert files(place) == ["out/5-a-red-apple-big-1-2.png"]
    assert ran.lines[0].startswith("out/5-a-red-apple-big-1-2.png  seed 5  64x64  2 steps of DPM++")
    assert pixels("out/5-a-red-apple-big-1-2.png").std() > 1


def test_nothing_is_ever_overwritten(safelight: Cli, model: Path, place: Path) -> None:
    for _ in range(2):
        assert safelight("generate", "a", "-m", model, *SMALL).code == 0
    assert files(place) == ["out/5-a-2.png", "out/5-a.png"]
    (place / "mine.png").write_bytes(b"precious")
    ran = safelight("generate", "a", "-m", model, *SMALL, "--out", "mine.png")
    assert ran.code == 2 and "exists already" in ran.error()
    assert (place / "mine.png").read_bytes() == b"precious"


def test_out_may_be_a_file_in_a_folder_that_is_not_there_yet(
    safelight: Cli, model: Path, place: Path
) -> None:
    ran = safelight("generate", "a", "-m", model, *SMALL, "-o", "new/deep/apple.webp")
    assert ran.code == 0 and files(place) == ["new/deep/apple.webp"]
    with Image.open("new/deep/apple.webp") as image:
        assert image.format == "WEBP"


def test_count_gives_pictures_with_the_next_seeds(safelight: Cli, model: Path, place: Path) -> None:
    ran = safelight("generate", "a", "-m", model, *SMALL, "--count", "3", "--batch", "2", "--json")
    assert [row["seed"] for row in ran.json()] == [5, 6, 7]
    assert files(place) == ["out/5-a.png", "out/6-a.png", "out/7-a.png"]


def test_json_is_one_object_a_picture_that_tells_what_is_on_disk(
    safelight: Cli, model: Path
) -> None:
    args = ("-m", model, *SMALL, "--count", "2", "--json", "--no-look-up")
    ran = safelight("generate", "a <lora:x:1>", *args)
    assert ran.code == 0 and ran.err == ""
    for row in ran.json():
        assert row["pixels_sha256"] == pixels_sha256(pixels(str(row["path"])))
        assert (row["width"], row["height"], row["steps"]) == (64, 64, 2)
        assert (row["sampler"], row["schedule"]) == ("DPM++ 2M", "karras")
        assert "was not applied" in str(row["warnings"])


def test_save_steps_keeps_the_estimate_after_every_step_of_each_picture(
    safelight: Cli, model: Path, place: Path
) -> None:
    args = ("generate", "a", "-m", model, *SMALL, "--steps", "3", "--count", "2")
    assert safelight(*args, "--batch", "2", "--no-exact", "--save-steps").code == 0
    steps = [f"out/{seed}-a-steps/{n:03}.png" for seed in (5, 6) for n in (1, 2, 3)]
    assert files(place) == sorted(["out/5-a.png", "out/6-a.png", *steps])
    for seed in (5, 6):
        last = pixels(f"out/{seed}-a-steps/003.png")
        assert np.array_equal(last, pixels(f"out/{seed}-a.png")), "the last estimate is the picture"
    assert not np.array_equal(pixels(steps[0]), pixels(steps[1]))


@pytest.mark.parametrize(("format", "kind"), [("jpg", "JPEG"), ("JPEG", "JPEG"), ("webp", "WEBP")])
def test_other_formats_carry_the_recipe_too(
    safelight: Cli, model: Path, format: str, kind: str
) -> None:
    ran = safelight("generate", "a ü", "-m", model, *SMALL, "--format", format, "--json")
    path = Path(str(ran.json()[0]["path"]))
    with Image.open(path) as image:
        assert image.format == kind
    found = read_settings(path)
    assert found.recipe is not None and found.recipe.request.prompt == "a ü"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_without_metadata_neither_bytes_nor_name_tell_the_prompt(
    safelight: Cli, model: Path, place: Path, suffix: str
) -> None:
    args = (f"a {SECRET}", "--negative", f"no {SECRET}", "-m", model, *SMALL, "--format", suffix)
    assert safelight("generate", *args).code == 0
    assert safelight("generate", *args, "--no-metadata", "--save-steps", "--out", "bare").code == 0
    (told,) = (place / "out").iterdir()
    assert SECRET.encode() in told.read_bytes().replace(b"\0", b""), "the test can see a prompt"
    bare = files(place / "bare")
    assert bare[0].startswith("picture") and SECRET not in " ".join(bare)
    for name in bare:
        data = (place / "bare" / name).read_bytes().replace(b"\0", b"")
        assert SECRET.encode() not in data
        assert b"sd15" not in data and b"afelight" not in data and b"DPM" not in data
    assert read_settings(place / "bare" / f"picture{suffix}").source == "nothing"


def test_the_recipe_names_every_setting_and_the_hash_of_the_model(drawn: Path, model: Path) -> None:
    recipe = read_settings(drawn).recipe
    assert recipe is not None
    assert [(f.role, f.name, f.sha256) for f in recipe.files] == [
        ("model", "sd15.safetensors", sha256(model))
    ]
    assert recipe.request.model == "sd15.safetensors", "without the folder"
    assert (recipe.request.seed, recipe.request.dtype, recipe.request.exact) == (5, "fp32", True)
    assert str(model.parent).encode() not in drawn.read_bytes()


def test_like_starts_from_a_pictures_settings_and_options_win(
    safelight: Cli, model: Path, drawn: Path
) -> None:
    ran = safelight("generate", "--like", drawn, "-m", model, "--out", "same.png")
    assert ran.code == 0 and np.array_equal(pixels("same.png"), pixels(drawn))
    ran = safelight("generate", "--like", drawn, "-m", model, "--steps", "3", "--json")
    assert ran.json()[0]["steps"] == 3 and ran.json()[0]["seed"] == 5
    assert ran.json()[0]["width"] == 64


def test_like_finds_the_model_beside_the_picture(
    safelight: Cli, model: Path, drawn: Path, place: Path
) -> None:
    (drawn.parent / model.name).symlink_to(model)
    assert safelight("generate", "--like", drawn, "-o", "same.png").code == 0
    assert np.array_equal(pixels("same.png"), pixels(drawn))


def test_a_diffusers_folder_and_its_single_file_draw_the_same(
    safelight: Cli, shelf: Path, drawn: Path
) -> None:
    ran = safelight("generate", "a red apple", "-m", shelf / "sd15", *SMALL, "-o", "folder.png")
    assert ran.code == 0
    recipe = read_settings(Path("folder.png")).recipe
    assert recipe is not None
    assert {f.role for f in recipe.files} >= {"unet", "vae", "text_encoder"}
    assert np.array_equal(pixels("folder.png"), pixels(drawn))


def test_a_model_is_found_by_name_in_the_library(
    safelight: Cli, model: Path, caches: Path, place: Path
) -> None:
    home = caches / "home" / "models"
    home.mkdir(parents=True, exist_ok=True)
    link = home / "orchard.safetensors"
    link.symlink_to(model)
    try:
        assert safelight("generate", "a", "-m", "orchard", *SMALL).code == 0
    finally:
        link.unlink()


def test_another_vae_is_used_and_recorded(safelight: Cli, shelf: Path, model: Path) -> None:
    assert safelight("generate", "a", "-m", model, *SMALL, "-o", "own.png").code == 0
    vae = shelf / "sd15" / "vae"
    ran = safelight("generate", "a", "-m", model, "--vae", vae, *SMALL, "-o", "other.png")
    assert ran.code == 0, ran.err
    recipe = read_settings(Path("other.png")).recipe
    assert recipe is not None and recipe.file("vae") is not None
    assert np.array_equal(pixels("own.png"), pixels("other.png")), "it is the same autoencoder"


def test_a_random_seed_is_told_and_drawn_again(safelight: Cli, model: Path) -> None:
    args = ("-m", model, "--size", "64x64", "--steps", "2")
    first = safelight("generate", "a", *args, "--json").json()[0]
    again = safelight("generate", "a", *args, "--seed", first["seed"], "--json").json()[0]
    assert first["pixels_sha256"] == again["pixels_sha256"]


def test_without_a_terminal_stderr_stays_empty(safelight: Cli, model: Path) -> None:
    assert safelight("generate", "a", "-m", model, *SMALL, "--count", "2").err == ""


def test_warnings_are_said_once_on_stderr_and_stored_in_the_picture(
    safelight: Cli, model: Path, place: Path
) -> None:
    prompt = "a cat++ <lora:glow:0.8> embedding:style"
    ran = safelight("generate", prompt, "-m", model, *SMALL, "--count", "3", "--no-look-up")
    assert ran.code == 0
    warnings = ran.err.splitlines()
    assert all(line.startswith("warning: ") for line in warnings)
    assert len(warnings) == len(set(warnings)) == 3
    for said in ("<lora:glow:0.8> was not applied", "compel's word++", "ComfyUI's name"):
        assert said in ran.err
    found = read_settings(next((place / "out").iterdir()))
    assert found.recipe is not None
    stored = found.recipe.result.warnings
    assert [f"warning: {line}" for line in stored] == warnings


def test_no_word_of_a_long_prompt_is_cut(safelight: Cli, model: Path) -> None:
    words = " ".join(["many small words"] * 60)
    first = safelight("generate", f"{words} cat", "-m", model, *SMALL, "--json").json()[0]
    other = safelight("generate", f"{words} dog", "-m", model, *SMALL, "--json").json()[0]
    assert first["warnings"] == other["warnings"] == []
    assert first["pixels_sha256"] != other["pixels_sha256"]


def test_control_characters_of_a_prompt_do_not_reach_the_terminal(
    safelight: Cli, model: Path
) -> None:
    args = ("-m", model, *SMALL, "--no-look-up")
    ran = safelight("generate", "a <lora:\x1b[31mred:1>", *args)
    assert ran.code == 0
    assert "\x1b" not in ran.err + ran.out and "\\x1b" in ran.err


def test_json_and_pictures_agree_on_their_recipe(safelight: Cli, model: Path) -> None:
    args = ("--subseed", "9", "--subseed-strength", "0.5", "--json")
    ran = safelight("generate", "a", "-m", model, *SMALL, *args)
    row = ran.json()[0]
    with Image.open(str(row["path"])) as image:
        recipe = json.loads(image.info["safelight"])
    assert recipe["result"]["pixels_sha256"] == row["pixels_sha256"]
    assert (recipe["request"]["seed"], recipe["request"]["subseed"]) == (row["seed"], 9)


def test_settings_without_a_say_are_said(safelight: Cli, model: Path) -> None:
    args = ("--negative", "dull", "--cfg", "1", "--crop", "8,8")
    ran = safelight("generate", "a", "-m", model, *SMALL, *args)
    assert ran.code == 0
    assert ran.err == (
        "warning: the negative prompt has no say at the guidance scale 1.\n"
        "warning: original and target size, crop and score are told to SDXL only, not to this "
        "model.\n"
    )
