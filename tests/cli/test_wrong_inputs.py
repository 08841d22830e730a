"""Whatever is wrong is said in one line, with what to do, before anything is written."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cli_tiny import SMALL, Cli, files
from safelight.models.autoencoder import AutoencoderConfig


class Evil:
    """Its pickle makes the file PWNED when it is read by Python's own reader."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("PWNED",)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, shelf: Path) -> Path:
    """A folder of files that are no good as models."""
    folder = tmp_path_factory.mktemp("bad")
    whole = (shelf / "sd15.safetensors").read_bytes()
    weights = load_file(shelf / "sd15.safetensors")
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "head.safetensors").write_bytes(whole[:500])
    (folder / "empty.safetensors").write_bytes(b"")
    torch.save({"state_dict": weights}, folder / "whole.ckpt")
    pickled = (folder / "whole.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(pickled[: len(pickled) // 2])
    torch.save({"state_dict": Evil()}, folder / "evil.ckpt")
    (folder / "renamed.safetensors").write_bytes(pickled)
    (folder / "text.safetensors").write_text("these are no weights\n" * 9)
    (folder / "text.ckpt").write_text("these are no weights\n")
    (folder / "bare").mkdir()
    (folder / "outer").mkdir()
    shutil.copytree(shelf / "sd15", folder / "outer" / "model")
    down, up = torch.zeros(4, 32, 1, 1), torch.zeros(32, 4, 1, 1)
    name = "lora_unet_mid_block_attentions_0_proj_in"
    lora = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    save_file({**lora, f"{name}.alpha": torch.tensor(4.0)}, folder / "lora.safetensors")
    start = "first_stage_model."
    vae = {n.removeprefix(start): t for n, t in weights.items() if n.startswith(start)}
    save_file(vae, folder / "vae.safetensors")
    save_file(autoencoder(16), folder / "vae16.safetensors")
    with safe_open(shelf / "sd15.safetensors", "pt") as file:
        remarks = file.metadata()
    bias = torch.full((16,), float("nan"))
    nan = {**weights, "first_stage_model.decoder.conv_in.bias": bias}
    save_file(nan, folder / "nan.safetensors", remarks)
    less = {n: t for n, t in weights.items() if "middle_block.0.in_layers.2" not in n}
    save_file(less, folder / "less.safetensors", remarks)
    return folder


def autoencoder(channels: int) -> dict[str, torch.Tensor]:
    """The weights of an autoencoder with so many latent channels, in Diffusers' names."""
    config = AutoencoderConfig(
        widths=(32, 32, 32, 32), layers=1, groups=32, latent_channels=channels
    )
    return {n: t.clone() for n, t in config.build().state_dict().items()}


@pytest.mark.parametrize(
    ("name", "said", "remedy"),
    [
        ("cut.safetensors", "is truncated: its tensors take", ""),
        ("head.safetensors", "truncated or not a safetensors file", ""),
        ("empty.safetensors", "is empty", "download or copy it again"),
        ("cut.ckpt", "it is truncated", ""),
        ("evil.ckpt", "asks to run", "nothing of it ran; get the weights as .safetensors"),
        ("renamed.safetensors", "is a pickle renamed", "rename it to .ckpt"),
        ("text.safetensors", "not a safetensors file", ""),
        ("text.ckpt", "is neither safetensors nor a PyTorch file", ""),
        ("bare", "is a folder without model_index.json", "give a Diffusers folder"),
        ("outer", "is a folder without model_index.json", "did you mean"),
        ("lora.safetensors", "is a LoRA", "give the model it was made for"),
        ("vae.safetensors", "is an autoencoder (VAE)", "give it with --vae"),
        ("nan.safetensors", "first_stage_model.decoder.conv_in.bias holds NaN", "another copy"),
        ("less.safetensors", "middle_block.0.in_layers.2.weight", ""),
        ("vea.safetensors", "there is no model", "vae.safetensors"),
    ],
)
def test_a_file_that_is_no_model_is_named_with_what_it_is(
    safelight: Cli, bad: Path, place: Path, name: str, said: str, remedy: str
) -> None:
    ran = safelight("generate", "a", "-m", bad / name, *SMALL)
    assert ran.code == 2
    message = ran.error()
    assert name in message and said in message and remedy in message
    assert list(place.iterdir()) == []  # nothing written, nothing run


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vae16.safetensors", "latents have 16 channels, but"),
        ("lora.safetensors", "this is no autoencoder"),
        ("vae1.safetensors", "did you mean"),
        ("cut.safetensors", "is truncated"),
        ("evil.ckpt", "nothing of it ran"),
    ],
)
def test_a_wrong_vae_is_named_with_what_it_is(
    safelight: Cli, bad: Path, model: Path, place: Path, name: str, said: str
) -> None:
    ran = safelight("generate", "a", "-m", model, "--vae", bad / name, *SMALL)
    assert ran.code == 2
    message = ran.error()
    assert name in message and said in message
    assert list(place.iterdir()) == []


def test_without_a_model_it_says_how_to_give_one(safelight: Cli, place: Path) -> None:
    ran = safelight("generate", "a", *SMALL)
    assert ran.code == 2
    message = ran.error()
    assert message.startswith("no model was given, and Safelight does not carry one of its own yet")
    for remedy in ("--model", "safelight models", "safelight download"):
        assert remedy in message
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--size", "515x512"], "width must be a multiple of 8; got 515. The nearest are 512 and"),
        (["--size", "64x7"], "height must be a whole number from 8 to 8192; got 7"),
        (["--size", "99999x64"], "width must be a whole number from 8 to 8192; got 99999"),
        (["--size", "8192x8192", "--count", "9999"], "Ask for fewer or smaller pictures"),
        (["--size", "512"], "--size must be WIDTHxHEIGHT, such as 512x768; got '512'"),
        (["--sampler", "Eulr"], "unknown sampler 'Eulr'. Did you mean Euler"),
        (["--schedule", "karas"], "Did you mean karras?"),
        (["--steps", "0"], "steps must be a whole number from 1 to 1000; got 0"),
        (["--steps", "many"], "--steps"),
        (["--cfg", "nan"], "--cfg must be a finite number from 0 to 100; got nan"),
        (["--cfg", "inf"], "--cfg must be a finite number from 0 to 100; got inf"),
        (["--dialect", "latin"], "dialect must be one of a1111, comfy, compel, plain; got 'latin'"),
        (["--dtype", "fp8"], "dtype must be one of auto, fp32, bf16, fp16; got 'fp8'"),
        (["--device", "gpu"], "device must be auto, cpu, cuda"),
        (["--device", "cuda:7"], "cuda:7"),
        (["--noise", "gpu"], "--noise must be one of cpu, nv; got 'gpu'"),
        (["--mimic-scale", "-1"], "--mimic-scale must be a finite number from 0 to 100"),
        (["--eta", "99"], "--eta must be a finite number from 0 to 10; got 99"),
        (["--freeu", "1,1,1,99"], "--freeu: s2 must be a finite number"),
        (["--original-size", "99999x64"], "--original-size.0 must be a whole number"),
        (["--seed", str(2**64)], "seed must be a whole number from -1 to 18446744073709551615"),
        (["--count", "0"], "count must be a whole number from 1 to 10000; got 0"),
        (["--clip-skip", "5"], "clip skip must be 1 to 2 for this model; got 5"),
        (["--ema"], "holds no EMA weights"),
        (["--pag", "3", "--pag-layers", "nowhere"], "no self-attention of this U-Net is called"),
        (["--pag", "3", "--sag", "1"], "exclude each other"),
        (["--eta", "1", "--sampler", "DPM++ 2M"], "has no option 'eta'"),
        (["--guidance-start", "0.9", "--guidance-end", "0.1"], "must not start after it ends"),
        (["--freeu", "1,2"], "--freeu must be 4 numbers"),
        (["--crop", "x"], "--crop must be 2 numbers"),
        (["--format", "gif"], "--format must be png, jpg or webp; got 'gif'"),
        (["--quality", "50"], "--quality is for JPEG and WebP"),
        (["--quality", "101", "--format", "jpg"], "--quality must be from 1 to 100; got 101"),
        (["--out", "a.png", "--count", "2"], "is one file and 2 pictures were asked for"),
        (["--out", "a.gif"], "--out a.gif is none of .png, .jpg"),
        (["--out", "a.png", "--format", "jpg"], "differ; give one of them"),
        (["--like", "nix.png"], "there is no picture nix.png"),
        (["--wildcards", "nix"], "nix is not a folder; give a folder of .txt lists"),
        (["--style", "ink"], "there is no table of styles"),
        (["--prompts", "list.txt"], "the prompt does nothing beside --prompts"),
        (["--subseed", "3"], "--subseed does nothing without --subseed-strength"),
        (["--styles", "mine.csv"], "--styles does nothing without --style"),
        (["--wildcards", "lists", "--no-dynamic"], "--wildcards does nothing with --no-dynamic"),
        (["--stpes", "3"], "No such option: --stpes"),
        (["--steps"], "requires an argument"),
        (["apple"], "a prompt of several words needs quotation marks"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    safelight: Cli, model: Path, place: Path, args: list[str], said: str
) -> None:
    ran = safelight("generate", "a", "-m", model, *SMALL, *args)
    assert ran.code == 2 and said in ran.error()
    assert list(place.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_found_before_the_drawing(
    safelight: Cli, model: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").write_text("x")
    ran = safelight("generate", "a", "-m", model, *SMALL, "--out", "file/pictures")
    assert ran.code == 1 and "cannot make the folder file/pictures" in ran.error()
    ran = safelight("generate", "a", "-m", model, *SMALL, "--out", "file")
    assert ran.code == 2 and "is a file, but not a picture's; name a folder" in ran.error()
    (place / "shut").mkdir()
    access = os.access  # whoever is root may write anywhere
    monkeypatch.setattr(os, "access", lambda p, m: not m & os.W_OK and access(p, m))
    ran = safelight("generate", "a", "-m", model, *SMALL, "--out", "shut")
    assert ran.code == 1 and "shut cannot be written to" in ran.error()
    assert files(place) == ["file"]


def test_a_folder_made_for_nothing_is_taken_away_again(
    safelight: Cli, bad: Path, place: Path
) -> None:
    ran = safelight("generate", "a", "-m", bad / "cut.safetensors", *SMALL, "-o", "new/deep")
    assert ran.code == 2
    assert list(place.iterdir()) == []


def test_nearest_names_are_given_for_every_kind_of_file(
    safelight: Cli, model: Path, drawn: Path
) -> None:
    for verb in (
        ("replay", "out/5-a-red-aple.png"),
        ("generate", "--like", "out/5-a-red-aple.png"),
    ):
        ran = safelight(*verb, "-m", model)
        assert ran.code == 2 and "did you mean out/5-a-red-apple.png?" in ran.error()


def test_a_file_of_prompts_must_be_there(safelight: Cli, model: Path, place: Path) -> None:
    (place / "mix.txt").write_text("a\n")
    ran = safelight("generate", "--prompts", "nix.txt", "-m", model, *SMALL)
    assert ran.code == 2
    assert ran.error() == "there is no list of prompts nix.txt; did you mean mix.txt?"


def test_a_prompt_is_needed(safelight: Cli, model: Path) -> None:
    ran = safelight("generate", "-m", model, *SMALL)
    assert ran.code == 2 and ran.error().startswith("say what to draw: safelight generate ")


def test_an_empty_prompt_is_one_when_it_is_given(safelight: Cli, model: Path, place: Path) -> None:
    ran = safelight("generate", "", "-m", model, *SMALL)
    assert (ran.code, ran.err) == (0, "") and len(files(place)) == 1
    ran = safelight("generate", "", "--prompts", "list.txt", "-m", model)
    assert ran.code == 2 and "the prompt does nothing beside --prompts" in ran.error()


def test_a_prompt_that_begins_with_a_dash_stands_behind_two(
    safelight: Cli, model: Path, place: Path
) -> None:
    ran = safelight("generate", "-a cat", "-m", model, *SMALL)
    assert ran.code == 2 and "write -- before a prompt that begins with a dash" in ran.error()
    assert safelight("generate", "-m", model, *SMALL, "--", "-a cat").code == 0


def test_a_prompt_beyond_the_limit_of_chunks_is_refused_not_cut(
    safelight: Cli, model: Path
) -> None:
    ran = safelight("generate", "word " * 200, "-m", model, *SMALL, "--max-chunks", "2")
    assert ran.code == 2
    assert "takes 3 chunks of 75 tokens and --max-chunks is 2; shorten it" in ran.error()


def test_what_nobody_thought_of_is_one_line_too(
    safelight: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safelight.tasks import placing

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(placing, "load", broken)
    ran = safelight("generate", "a", "-m", model, *SMALL)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("error: unexpected RuntimeError: first line (set SAFELIGHT_DEBUG=1")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_too_little_memory_is_said_with_what_helps(
    safelight: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from safelight.cli import word_maps

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(word_maps, "generate", full)
    ran = safelight("generate", "a", "-m", model, *SMALL)
    assert ran.code == 1
    assert ran.error() == "out of memory; try a smaller --size, --batch 1 or --dtype bf16"
