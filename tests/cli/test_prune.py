"""`safelight convert` as people prune: half types, one set of weights, training's state gone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cli_tiny import Cli
from safelight.checkpoints.hashes import sha256

UNET = "model.diffusion_model."


@pytest.fixture
def trained(model: Path, place: Path) -> dict[str, Tensor]:
    """full.safetensors: a checkpoint as a trainer leaves it, with averages and state beside."""
    state = load_file(model)
    live = {name: tensor for name, tensor in state.items() if name.startswith(UNET)}
    averages = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": 2 * tensor
        for name, tensor in live.items()
    }
    left = {
        "model_ema.decay": torch.tensor(0.9999),
        "betas": torch.zeros(1000),
        "loss.logvar": torch.zeros(1),
        "notes.of.mine": torch.zeros(3),
    }
    with safe_open(model, "pt") as file:
        save_file(state | averages | left, place / "full.safetensors", file.metadata())
    return state


def test_pruning_keeps_the_live_weights_and_says_what_it_left(
    safelight: Cli, trained: dict[str, Tensor]
) -> None:
    ran = safelight("convert", "full.safetensors", "small.safetensors", "--dtype", "fp16")
    assert ran.code == 0
    small = load_file("small.safetensors")
    assert small.keys() == trained.keys()
    assert all(torch.equal(small[name], trained[name].half()) for name in small)
    assert (
        "note: left behind, of no use for drawing: model_ema (287), betas (1), loss (1)" in ran.err
    )
    assert "note: left behind, of no part of a model: notes (1)" in ran.err


def test_pruning_to_the_averages_takes_them_for_the_unet_alone(
    safelight: Cli, trained: dict[str, Tensor]
) -> None:
    assert safelight("convert", "full.safetensors", "ema.safetensors", "--ema").code == 0
    ema = load_file("ema.safetensors")
    assert ema.keys() == trained.keys()
    for name, tensor in ema.items():
        factor = 2 if name.startswith(UNET) else 1
        assert torch.equal(tensor, factor * trained[name]), name


def test_a_converted_model_tells_what_it_was(
    safelight: Cli, trained: dict[str, Tensor], model: Path
) -> None:
    args = ("--ema", "--dtype", "bf16", "--vae", model)
    for target in ("one.safetensors", "folder"):
        assert safelight("convert", "full.safetensors", target, *args).code == 0
    with safe_open("one.safetensors", "pt") as file:
        found = json.loads(file.metadata()["safelight.recipe"])
    assert found["made_by"] == "convert"
    assert found["settings"] == {"ema": True, "dtype": "bf16"}
    inputs = [(each["role"], each["sha256"]) for each in found["inputs"]]
    assert inputs == [("model", sha256("full.safetensors")), ("vae", sha256(model))]
    out = safelight("inspect", "folder", "--no-hash").out
    assert "made by: convert dtype bf16, ema True" in out
    assert f"sha256 {sha256('full.safetensors')[:12]}" in out
