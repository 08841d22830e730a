"""`safelight inspect` tells files and pictures apart and says what they hold."""

from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from cli_tiny import SMALL, Cli
from safelight.checkpoints.hashes import sha256


@pytest.mark.parametrize("name", ["sd15.safetensors", "half.safetensors", "sd15"])
def test_a_model_is_described(safelight: Cli, shelf: Path, name: str) -> None:
    ran = safelight("inspect", shelf / name)
    assert (ran.code, ran.err) == (0, "")
    for said in ("kind: model", "family: ", "prediction: eps", "sha256: ", "unet ", "vae "):
        assert said in ran.out
    assert ("float16" if name.startswith("half") else "float32") in ran.out


def test_json_tells_all_in_one_object(safelight: Cli, model: Path) -> None:
    (seen,) = safelight("inspect", model, "--json").json()
    assert (seen["kind"], seen["sha256"]) == ("model", sha256(model))
    assert seen["short_hash"] == sha256(model)[:10]
    assert {part["role"] for part in seen["parts"]} == {"unet", "vae", "text_encoder"}  # type: ignore[attr-defined]
    (quick,) = safelight("inspect", model, "--json", "--no-hash").json()
    assert quick["sha256"] is None


def test_missing_and_unknown_keys_are_listed(safelight: Cli, model: Path, place: Path) -> None:
    weights = load_file(model)
    lost = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    weights["strange.key"] = weights.pop(lost)
    save_file(weights, place / "odd.safetensors", _remarks(model))
    ran = safelight("inspect", "odd.safetensors")
    assert ran.code == 0
    assert f"unet: missing: {lost}" in ran.out and "strange" in ran.out
    assert ran.err.startswith("warning: it cannot be drawn with as it is: 1 tensor missing")


def _remarks(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_a_picture_of_ours_tells_its_recipe(safelight: Cli, drawn: Path, model: Path) -> None:
    ran = safelight("inspect", drawn)
    assert (ran.code, ran.err) == (0, "")
    for said in (
        "picture: PNG, 64x64",
        "settings: of Safelight",
        "pixels: those that the recipe names",
        f"sha256 {sha256(model)}",
        "\na red apple\nSteps: 2, Sampler: DPM++ 2M",
    ):
        assert said in ran.out
    (seen,) = safelight("inspect", drawn, "--json").json()
    assert seen["pixels_match"] is True
    assert seen["recipe"]["request"]["seed"] == 5  # type: ignore[index]


def test_an_edited_picture_is_said_to_be(safelight: Cli, drawn: Path) -> None:
    with Image.open(drawn) as image:
        chunks = PngInfo()
        for key, value in image.text.items():  # type: ignore[attr-defined]
            chunks.add_text(key, value)
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("e.png", pnginfo=chunks)
    assert "pixels: not those that the recipe names: edited" in safelight("inspect", "e.png").out


def test_another_programs_settings_are_shown_in_our_words(safelight: Cli, place: Path) -> None:
    chunks = PngInfo()
    chunks.add_text(
        "parameters",
        "a fox\nNegative prompt: snow\nSteps: 9, Sampler: Euler a, CFG scale: 5, Seed: 77, "
        "Size: 64x64, Model hash: 0123456789, RNG: CPU",
    )
    Image.new("RGB", (64, 64)).save(place / "fox.png", pnginfo=chunks)
    ran = safelight("inspect", "fox.png")
    for said in ("settings: of A1111", "model hash: 0123456789", "steps: 9", "sampler: Euler a"):
        assert said in ran.out
    (seen,) = safelight("inspect", "fox.png", "--json").json()
    assert seen["source"] == "A1111" and seen["recipe"] is None
    assert seen["request"]["negative_prompt"] == "snow"  # type: ignore[index]


def test_a_sheet_lists_its_cells(safelight: Cli, model: Path) -> None:
    args = ("grid", "a", "-m", model, *SMALL, "-x", "cfg=1,2", "-y", "seed=1,2", "-o", "s.png")
    assert safelight(*args).code == 0
    ran = safelight("inspect", "s.png")
    assert "settings: of a sheet of 2 x 2 pictures" in ran.out
    assert "\n2,2\na\nSteps: 2" in ran.out
    (seen,) = safelight("inspect", "s.png", "--json").json()
    assert seen["cells"][1][0]["request"]["seed"] == 2  # type: ignore[index]


def test_a_picture_without_settings_says_so(safelight: Cli, place: Path) -> None:
    Image.new("RGB", (64, 48)).save(place / "bare.jpg")
    ran = safelight("inspect", "bare.jpg")
    assert ran.code == 0 and ran.out.endswith("settings: none found\n")
    assert "JPEG, 64x48" in ran.out


@pytest.mark.parametrize("text", ["hello", ""])
def test_what_is_neither_is_wrong_input(safelight: Cli, place: Path, text: str) -> None:
    (place / "file.txt").write_text(text)
    ran = safelight("inspect", "file.txt")
    assert ran.code == 2 and "file.txt" in ran.error()
    ran = safelight("inspect", "fil.txt")
    assert ran.code == 2 and "there is no file fil.txt; did you mean file.txt" in ran.error()


def test_a_picture_by_name_that_is_none_is_said_to_be_none(safelight: Cli, place: Path) -> None:
    (place / "text.png").write_text("hello")
    ran = safelight("inspect", "text.png")
    assert ran.code == 2 and ran.error().startswith("text.png is not a picture")
    assert safelight("inspect", "gone.jpg").error().startswith("there is no file gone.jpg; give")


def test_the_reason_does_not_repeat_the_family(safelight: Cli, model: Path) -> None:
    lines = dict(line.split(": ", 1) for line in safelight("inspect", model).lines if ": " in line)
    assert lines["family"] not in lines["because"]
    assert lines["because"].startswith("no published family has 4 input channels")


def test_settings_that_are_ours_by_default_are_shown_too(safelight: Cli, place: Path) -> None:
    chunks = PngInfo()
    stated = "Steps: 20, Sampler: DPM++ 2M, CFG scale: 7, Seed: 7, Size: 512x768, RNG: CPU"
    chunks.add_text("parameters", f"a fox\n{stated}")
    Image.new("RGB", (8, 8)).save(place / "fox.png", pnginfo=chunks)
    lines = safelight("inspect", "fox.png").lines
    for said in ("steps: 20", "sampler: DPM++ 2M", "cfg_scale: 7.0", "seed: 7", "height: 768"):
        assert said in lines


def test_a_narrow_model_without_our_remarks_is_described_with_its_problem(
    safelight: Cli, model: Path, place: Path
) -> None:
    weights = load_file(model)
    save_file(weights, place / "bare.safetensors")
    ran = safelight("inspect", "bare.safetensors")
    assert ran.code == 0 and "bare.safetensors: the U-Net has 16 channels" in ran.err
    vae = {n: t for n, t in weights.items() if n.startswith("first_stage_model.")}
    save_file(vae, place / "vae.safetensors")
    ran = safelight("inspect", "vae.safetensors")
    assert ran.code == 0 and "vae.safetensors: the autoencoder has 8 channels" in ran.err


def test_nothing_that_a_file_says_reaches_the_terminal_raw(safelight: Cli, place: Path) -> None:
    chunks = PngInfo()
    chunks.add_itxt(
        "parameters", "a \x1b[31mfox\nSteps: 9, Sampler: Euler\x1b[0m, Seed: 77, RNG: CPU"
    )
    Image.new("RGB", (8, 8)).save(place / "f.png", pnginfo=chunks)
    ran = safelight("inspect", "f.png")
    assert "\x1b" not in ran.out + ran.err and "\\x1b" in ran.out
