"""`--control`: a network follows a map, says how much it changed, and replays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli_tiny import Cli, pixels, tiny_model
from models_tiny import randomised
from safelight.checkpoints.control_save import save_control
from safelight.models.controlnet import controlnet_of

STEPS = ("--size", "64x64", "--steps", "2", "--seed", "5")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """follows.safetensors of random weights, and idle, whose residuals are all 0."""
    folder = tmp_path_factory.mktemp("nets")
    unet = tiny_model().network.unet
    net = randomised(controlnet_of(unet, widths=(4, 4, 4, 4)), 7)
    save_control(net, folder / "canny-follows.safetensors", "ldm")
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.startswith(("controlnet_down_blocks", "controlnet_mid_block")):
                weight.zero_()
    save_control(net, folder / "idle", "diffusers")
    return folder


@pytest.fixture
def photo(place: Path) -> Path:
    values = np.zeros((64, 64, 3), np.uint8)
    values[16:48, 20:44] = (200, 40, 90)
    Image.fromarray(values).save(place / "photo.png")
    return place / "photo.png"


def test_a_control_changes_the_picture_tells_how_much_and_replays(
    safelight: Cli, model: Path, nets: Path, photo: Path
) -> None:
    plain = ("generate", "a", "-m", model, *STEPS)
    control = f"{nets}/canny-follows.safetensors,picture={photo},preprocessor=canny,low=50"
    assert safelight(*plain, "-o", "plain.png").code == 0
    ran = safelight(*plain, "--control", control, "-o", "a.png", "--json")
    assert ran.code == 0, ran.err
    (told,) = ran.json()
    assert told["figures"]["change by control canny-follows.safetensors"] > 1e-3
    assert not np.array_equal(pixels("plain.png"), pixels("a.png"))
    where = ("--file", f"control={nets}/canny-follows.safetensors")
    assert safelight("replay", "a.png", "-m", model, *where).out == "identical\n"


def test_weight_0_is_no_control_bit_for_bit_and_is_said(
    safelight: Cli, model: Path, nets: Path, photo: Path
) -> None:
    plain = ("generate", "a", "-m", model, *STEPS)
    control = f"{nets}/canny-follows.safetensors,picture={photo},scale=0"
    assert safelight(*plain, "-o", "plain.png").code == 0
    ran = safelight(*plain, "--control", control, "-o", "a.png")
    assert np.array_equal(pixels("plain.png"), pixels("a.png"))
    assert "changed nothing in the prediction" in ran.err


def test_a_network_without_effect_and_one_that_never_acts_are_warnings(
    safelight: Cli, model: Path, nets: Path, photo: Path
) -> None:
    plain = ("generate", "a", "-m", model, *STEPS)
    ran = safelight(*plain, "--control", f"{nets}/idle,picture={photo}", "-o", "a.png")
    assert "control idle changed nothing" in ran.err
    late = f"{nets}/canny-follows.safetensors,picture={photo},start=0.9"
    ran = safelight(*plain, "--control", late, "-o", "b.png")
    assert "acted in no step" in ran.err


def test_a_map_that_the_network_does_not_follow_is_doubted(
    safelight: Cli, model: Path, nets: Path, photo: Path
) -> None:
    control = f"{nets}/canny-follows.safetensors,picture={photo},preprocessor=colour"
    ran = safelight("generate", "a", "-m", model, *STEPS, "--control", control, "-o", "a.png")
    assert "makes no map of the kind this network follows" in ran.err


def test_wrong_controls_are_one_line(
    safelight: Cli, model: Path, nets: Path, photo: Path, place: Path
) -> None:
    net = f"{nets}/canny-follows.safetensors"
    for control, said in (
        (f"{net},preprocessor=canny", "needs a picture to follow"),
        (f"{net},picture={photo},preprocessor=cany", "Did you mean canny?"),
        (f"{net},picture={photo},preprocessor=canny,lowest=3", "has no option 'lowest'"),
        (f"{net},picture={photo},colour=3", "no setting 'colour'"),
        (f"{net},picture={photo},scale=9", "scale"),
        (f"{net},picture=gone.png", "gone.png"),
        (f"{model},picture={photo}", "sd15.safetensors"),
        (f"gone.safetensors,picture={photo}", "gone.safetensors"),
        (f"picture={photo}", "must begin with a file"),
    ):
        ran = safelight("generate", "a", "-m", model, *STEPS, "--control", control, "-o", "out")
        assert ran.code in (1, 2), control
        assert said in ran.error(), (control, ran.err)
        assert not list(place.glob("out/*"))
