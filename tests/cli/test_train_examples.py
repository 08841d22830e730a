"""The configs of the guide are sound, and train with smaller numbers put in."""

from collections.abc import Mapping
from pathlib import Path

import pytest

import scenes_tiny
import training_runs as runs
from cli_tiny import Cli, tiny_model
from safelight.checkpoints.save import save
from safelight.training.config.reading import read_config
from safelight.training.scenes.cutouts import save_cutouts

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "docs/guide/configs"
TRAINING = ("training.steps=2", "training.batch_size=4", "training.warmup_steps=0", "device=cpu")
CODER = ("autoencoder.widths=[8,16]", "autoencoder.groups=4", "autoencoder.layers=1")
TOWERS = (
    "clip.vocabulary_size=540", "clip.projection=16",
    "clip.text={layers=1,width=32,heads=2,mlp_width=32}",
    "clip.vision={layers=1,width=32,heads=2,mlp_width=32,patch=8}",
)  # fmt: skip
UNET = ("model.unet={channels=[16,32],depths=[[1],[1]],heads=[2,2],groups=8}", "previews.steps=2")
FOLDER = ("data.path=shapes", "data.size=32", "data.held_out=0.2")
SCENES = (
    "data.path=cutouts.safetensors", "data.size=32", "data.count=8", "data.held_out=0.5",
    "data.groups=['animals-nature','food-drink']", "data.concepts=6",
)  # fmt: skip
CRITIC = ("critic.widths=[8,16,16]", "critic.groups=4")
TEACH = (
    *FOLDER[:2], "data.multiple=16", "training.precision=fp32", "training.micro_batch=2",
    "previews.steps=2",
)  # fmt: skip
CHANGES: Mapping[str, tuple[str, ...]] = {
    "autoencoder": (*FOLDER, *CODER, *CRITIC),
    "clip": (*FOLDER, *TOWERS),
    "diffusion": (*FOLDER, *UNET),
    "controlnet": (
        *FOLDER,
        "data.multiple=16",
        "training.precision=fp32",
        "previews.steps=2",
        "control.widths=[4,4,4,4]",
        "control.resolution=32",
    ),
    "finetune": (*FOLDER, "data.multiple=16", "training.precision=fp32", "previews.steps=2"),
    "lora": TEACH,
    "dreambooth": (*TEACH, "prior.count=2", "prior.steps=2"),
    "textual-inversion": TEACH,
    "lcm": (*TEACH, "distillation.solver_steps=10"),
    "evaluator": (*SCENES, "evaluator.widths=[8,8,8,8]", "evaluator.image_size=32"),
    "one-hour-autoencoder": (*SCENES, *CODER),
    "one-hour-clip": (*SCENES, *TOWERS),
    "one-hour-diffusion": (*SCENES, *UNET),
}
AFTER = {  # what must be there before
    "diffusion": ("autoencoder", "clip"),
    "one-hour-diffusion": ("one-hour-autoencoder", "one-hour-clip"),
}


def test_every_config_of_the_guide_is_tried_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*.toml")} == set(CHANGES)


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_config_is_sound_as_it_stands(name: str) -> None:
    config = read_config(CONFIGS / f"{name}.toml")
    assert config.training.settings().steps > 100


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_config_trains_with_smaller_numbers(safelight: Cli, place: Path, name: str) -> None:
    runs.write_shapes(place / "shapes", 16)
    save_cutouts(scenes_tiny.cutouts(), place / "cutouts.safetensors")
    save(tiny_model(), place / "model.safetensors", "ldm")
    for step in (*AFTER.get(name, ()), name):
        sets = [part for change in (*TRAINING, *CHANGES[step]) for part in ("--set", change)]
        ran = safelight("train", CONFIGS / f"{step}.toml", *sets)
        assert ran.code == 0, ran.err
        assert "wrote runs/" in ran.out
