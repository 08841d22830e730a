"""Every command of the guide to merging does what the guide says, on tiny models."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adapters_made import lora_of, on
from cli_tiny import Cli, tiny_model
from models_tiny import randomised
from safelight.adapters.adapter import Adapter
from safelight.checkpoints import adapter_family
from safelight.checkpoints.adapter_names import layers_of
from safelight.checkpoints.adapter_save import save_adapter
from safelight.checkpoints.save import save
from safelight.families import Family
from safelight.model import Model
from safelight.models.backbone import Backbone
from safelight.models.unet import UNet

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "merging.md"
WIDE = 5  # input channels that an inpainting model has besides


def commands() -> list[str]:
    """The command lines in the guide, in its order."""
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("safelight ")]


def model(seed: int, extra: int = 0) -> Model:
    """A tiny model with as many blocks as Stable Diffusion 1.x."""
    made = tiny_model(seed)
    unet = replace(
        made.family.backbone,
        in_channels=4 + extra,
        channels=(8, 16, 16, 16),
        depths=((1, 1), (1, 1), (1, 1), (0, 0)),
        heads=(2, 2, 2, 2),
    )
    network = UNet(unet)
    randomised(network, seed)
    return replace(made, family=replace(made.family, backbone=unet), network=Backbone(network))


def style(family: Family, seed: int, name: str) -> Adapter:
    paths = ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "conv_out")
    shapes = {path: layers_of(family).at("unet", path) for path in paths}
    return on(
        {("unet", path): lora_of(at.shape, 3, seed) for path, at in shapes.items() if at}, name
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the guide speaks of."""
    folder = tmp_path_factory.mktemp("guide")
    for seed, name in enumerate(("sd15", "photo", "paint", "ink")):
        save(model(seed), folder / f"{name}.safetensors", "ldm")
    save(model(9, WIDE), folder / "inpaint.safetensors", "ldm")
    family = model(0).family
    for seed, name in ((1, "style"), (2, "detail")):
        save_adapter(style(family, seed, name), folder / f"{name}.safetensors", family)
    state = load_file(folder / "paint.safetensors")
    root = "first_stage_model."
    vae = {n.removeprefix(root): t for n, t in state.items() if n.startswith(root)}
    with safe_open(folder / "paint.safetensors", "pt") as file:
        remarks = file.metadata()
    save_file(vae, folder / "better.vae.safetensors", remarks)
    live = [name for name in state if name.startswith("model.diffusion_model.")]
    averages = {
        f"model_ema.{n.removeprefix('model.').replace('.', '')}": 2 * state[n] for n in live
    }
    save_file(state | averages, folder / "trained.ckpt", remarks)
    return folder


@pytest.mark.slow
def test_every_command_of_the_guide_runs_in_its_order(
    safelight: Cli, files: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_family, "CANDIDATES", (model(0).family,))
    for file in files.iterdir():
        (place / file.name).symlink_to(file)
    lines = commands()
    assert {line.split()[1] for line in lines} == {
        "merge",
        "extract",
        "resize",
        "convert",
        "inspect",
    }
    for line in lines:
        ran = safelight(*shlex.split(line)[1:])
        assert ran.code == 0, f"{line}\n{ran.err}"
        made = [word for word in ran.out.split() if word.endswith(".safetensors")]
        if "inspect" in line:
            assert "made by: merge method sum" in ran.out and "weight 0.3" in ran.out
            continue
        with safe_open(made[0], "pt") as file:
            assert json.loads(file.metadata()["safelight.recipe"])["made_by"] == line.split()[1]
    wide, taught = load_file("inpaint.safetensors"), load_file("photo-inpaint.safetensors")
    conv = "model.diffusion_model.input_blocks.0.0.weight"
    assert taught[conv].shape[1] == 4 + WIDE and torch.equal(taught[conv][:, 4:], wide[conv][:, 4:])
    assert load_file("pruned.safetensors").keys() == load_file("paint.safetensors").keys()
