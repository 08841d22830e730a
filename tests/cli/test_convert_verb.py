"""`safelight convert` writes either layout, bit for bit, and replaces nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cli_tiny import SMALL, Cli, files, pixels, tiny_model
from safelight.checkpoints.save import save


def test_a_file_becomes_a_folder_and_comes_back_with_the_same_bits(
    safelight: Cli, model: Path, place: Path
) -> None:
    assert safelight("convert", model, "folder").code == 0
    ran = safelight("convert", "folder", "again.safetensors")
    assert ran.code == 0 and ran.out.startswith("again.safetensors  ")
    before, after = load_file(model), load_file("again.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_both_layouts_draw_the_same_picture(safelight: Cli, model: Path, drawn: Path) -> None:
    assert safelight("convert", model, "folder").code == 0
    ran = safelight("generate", "a red apple", "-m", "folder", *SMALL, "-o", "again.png")
    assert ran.code == 0
    assert np.array_equal(pixels(drawn), pixels("again.png"))


def test_a_type_may_be_asked_for(safelight: Cli, model: Path) -> None:
    assert safelight("convert", model, "half.safetensors", "--dtype", "fp16").code == 0
    assert {t.dtype for t in load_file("half.safetensors").values()} == {torch.float16}


def test_another_autoencoder_may_be_put_in(safelight: Cli, model: Path, place: Path) -> None:
    save(tiny_model(seed=7), place / "other", "diffusers")
    ran = safelight("convert", model, "new.safetensors", "--vae", "other/vae")
    assert ran.code == 0, ran.err
    before, after = load_file(model), load_file("new.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("first_stage_model.")}


def test_the_layout_may_be_named(safelight: Cli, model: Path, place: Path) -> None:
    assert safelight("convert", model, "plain", "--layout", "diffusers").code == 0
    assert (place / "plain" / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("taken.safetensors",), "taken.safetensors exists already"),
        (("full",), "full exists already"),
        (("new.ckpt",), ".safetensors"),
        (("new.safetensors", "--layout", "diffusers"), "is a folder"),
        (("new", "--layout", "flat"), "--layout must be diffusers or single; got 'flat'"),
        (("new", "--dtype", "fp8"), "--dtype must be fp32, bf16, fp16; got 'fp8'"),
        (("new", "--ema"), "holds no EMA weights"),
        (("new", "--vae", "nix"), "there is no autoencoder nix"),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is(
    safelight: Cli, model: Path, place: Path, args: tuple[str, ...], said: str
) -> None:
    (place / "taken.safetensors").write_bytes(b"mine")
    (place / "full").mkdir()
    (place / "full" / "x").write_bytes(b"mine")
    ran = safelight("convert", model, *args)
    assert ran.code == 2 and said in ran.error()
    assert files(place) == ["full/x", "taken.safetensors"]
    assert not (place / "new").exists()


def test_missing_folders_above_the_target_are_made(safelight: Cli, model: Path) -> None:
    assert safelight("convert", model, "a/b/folder").code == 0
    assert safelight("convert", "a/b/folder", "c/d/one.safetensors").code == 0
    assert Path("c/d/one.safetensors").is_file()


def test_an_autoencoder_alone_is_not_converted_and_other_models_are_not_suggested(
    safelight: Cli, model: Path, place: Path
) -> None:
    prefix = "first_stage_model."
    vae = {n: t for n, t in load_file(model).items() if n.startswith(prefix)}
    save_file(vae, place / "vae.safetensors")
    save_file(load_file(model), place / "model.safetensors")
    error = safelight("convert", "vae.safetensors", "new").error()
    assert "only whole models are converted" in error and "beside a model" not in error
    error = safelight("convert", model, "new", "--vae", "va.safetensors").error()
    assert "there is no autoencoder va.safetensors; did you mean vae.safetensors" in error
    error = safelight("convert", model, "new", "--vae", "mode.safetensors").error()
    assert "model.safetensors" not in error.replace("`safelight models`", "")


def test_a_type_too_narrow_for_the_weights_is_refused_and_nothing_is_written(
    safelight: Cli, model: Path, place: Path
) -> None:
    weights = load_file(model)
    weights["model.diffusion_model.out.2.bias"][1] = 70_000.0
    with safe_open(model, "pt") as file:
        save_file(weights, place / "large.safetensors", file.metadata())
    ran = safelight("convert", "large.safetensors", "half.safetensors", "--dtype", "fp16")
    assert ran.code == 2 and "does not fit float16" in ran.error()
    assert files(place) == ["large.safetensors"]
    assert safelight("convert", "large.safetensors", "b.safetensors", "--dtype", "bf16").code == 0


def test_a_source_that_is_no_model_is_named(safelight: Cli, place: Path) -> None:
    (place / "text.safetensors").write_text("no weights\n" * 9)
    ran = safelight("convert", "text.safetensors", "new")
    assert ran.code == 2 and "text.safetensors" in ran.error()
    ran = safelight("convert", "tex.safetensors", "new")
    assert ran.code == 2 and "did you mean text.safetensors" in ran.error()
