"""Inspecting tells what a file is, what is in it and what is wrong with it, and raises little."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from on_disk import EVERY_FAMILY, OnDisk
from safelight.checkpoints.inspect import inspect
from safelight.errors import FileError

Get = Callable[[str], OnDisk]


@pytest.mark.parametrize("name", ["sd15", "sd2-v", "sdxl", "x4-upscaler"])
def test_parts_and_parameters_are_those_of_the_modules(name: str, on_disk: Get) -> None:
    files = on_disk(name)
    expected = {
        "unet": files.made.unet,
        "vae": files.made.vae,
        **dict(zip(("text_encoder", "text_encoder_2"), files.made.texts, strict=False)),
    }
    for path in (files.single, files.folder):
        found = inspect(path)
        assert (found.kind, found.problem) == ("model", None)
        assert {part.role for part in found.parts} == set(expected)
        for part in found.parts:
            assert part.parameters == sum(p.numel() for p in expected[part.role].parameters())
            assert part.dtypes == {"float32": part.used}
            assert not (part.missing or part.surplus or part.misshapen)
        assert found.parameters == sum(part.parameters for part in found.parts)


def test_hashes_are_sha256_and_its_first_ten_digits(on_disk: Get) -> None:
    path = on_disk("sd15").single
    found = inspect(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.short_hash == found.sha256[:10]
    assert found.size == path.stat().st_size
    assert inspect(path, hashes=False).sha256 is None


@EVERY_FAMILY
def test_every_inspection_is_json(name: str, on_disk: Get) -> None:
    found = inspect(on_disk(name).single, hashes=False)
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert again["kind"] == "model"
    assert again["family"] == found.family
    assert again["parameters"] == found.parameters


def test_a_damaged_model_is_described_not_refused(on_disk: Get, tmp_path: Path) -> None:
    state = load_file(on_disk("sd15").single)
    gone = "model.diffusion_model.out.0.bias"
    del state[gone]
    odd = "first_stage_model.quant_conv.bias"
    state[odd] = torch.zeros(9)
    state["model.diffusion_model.extra"] = torch.zeros(1)
    state["stranger.a"] = state["stranger.b"] = torch.zeros(1)
    save_file({n: t.clone() for n, t in state.items()}, tmp_path / "m.safetensors")
    found = inspect(tmp_path / "m.safetensors")
    parts = {part.role: part for part in found.parts}
    assert parts["unet"].missing == (gone,)
    assert parts["unet"].surplus == ("model.diffusion_model.extra",)
    [misshapen] = parts["vae"].misshapen
    assert (misshapen.name, misshapen.found, misshapen.expected) == (odd, (9,), (8,))
    assert found.unknown == (("stranger", 2),)
    assert found.problem == "1 tensor missing, 1 surplus, 1 of another shape"


@pytest.mark.parametrize(
    ("prefix", "problem"),
    [("first_stage_model.", "--vae"), ("cond_stage_model.", "no text encoder")],
)
def test_a_model_without_a_part_says_which(
    prefix: str, problem: str, on_disk: Get, tmp_path: Path
) -> None:
    state = load_file(on_disk("sd15").single)
    save_file(
        {n: t for n, t in state.items() if not n.startswith(prefix)}, tmp_path / "m.safetensors"
    )
    found = inspect(tmp_path / "m.safetensors")
    assert found.problem is not None
    assert problem in found.problem


def test_an_autoencoder_alone_is_compared_with_its_config(on_disk: Get, tmp_path: Path) -> None:
    state = load_file(on_disk("sd15").single)
    vae = {n.removeprefix("first_stage_model."): t for n, t in state.items() if "first_stage" in n}
    save_file({**vae, "loss.logvar": torch.zeros(1)}, tmp_path / "vae.safetensors")
    for path in (tmp_path / "vae.safetensors", on_disk("sd15").folder / "vae"):
        found = inspect(path)
        assert (found.kind, found.family, found.problem) == ("vae", None, None)
        [part] = found.parts
        expected = on_disk("sd15").made.vae
        assert part.parameters == sum(p.numel() for p in expected.parameters())
    assert inspect(tmp_path / "vae.safetensors").unknown == (("loss", 1),)


def test_a_lora_is_named_with_the_models_it_fits_and_its_remarks(tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    state = {
        f"{name}.lora_down.weight": torch.ones(4, 768),
        f"{name}.lora_up.weight": torch.ones(320, 4),
    }
    save_file(state, tmp_path / "l.safetensors", {"ss_network_dim": "4"})
    found = inspect(tmp_path / "l.safetensors")
    assert (found.kind, found.family) == ("lora", None)
    assert found.made_for == "for SD 1.x (context width 768)"
    assert found.metadata == {"ss_network_dim": "4"}
    [part] = found.parts
    assert (part.parameters, part.used) == (4 * 768 + 320 * 4, 2)


def test_a_ckpt_tells_its_steps(on_disk: Get, tmp_path: Path) -> None:
    state = load_file(on_disk("sd15").single)
    torch.save({"state_dict": state, "global_step": 470000, "epoch": 11}, tmp_path / "m.ckpt")
    found = inspect(tmp_path / "m.ckpt")
    assert found.container == "pickle"
    assert (found.metadata["global_step"], found.metadata["epoch"]) == ("470000", "11")


def test_the_guess_of_what_is_predicted_is_seen(on_disk: Get) -> None:
    found = inspect(on_disk("sd2-base").single)
    assert found.prediction in ("eps", "v")
    assert "norm1.bias deviates by" in found.prediction_reason
    assert any("guess" in note for note in found.notes)


def test_what_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader, " * 100)
    with pytest.raises(FileError, match="letter"):
        inspect(tmp_path / "letter.txt")
    with pytest.raises(FileError, match=r"neither model_index\.json nor config\.json"):
        inspect(tmp_path)
