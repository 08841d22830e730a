"""A NaN is caught where it arises, said, and never becomes a black picture."""

from pathlib import Path

import pytest
import torch

from cli_tiny import SMALL, Cli, files, pixels, tiny_model
from safelight.checkpoints import finite
from safelight.checkpoints.save import save
from safelight.cli import drawing
from safelight.model import Model
from safelight.tasks.loading import Models
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.request import Request

HALF = (*SMALL, "--dtype", "fp16")
LOUD = 1e5  # float16 ends at 65,504


def loud(model: Model) -> Model:
    """The model with a residual block that is beyond float16's range, and harmless in float32."""
    with torch.no_grad():
        block = model.network.unet.mid_block.resnets[0]
        block.conv1.weight.mul_(LOUD)
        block.conv1.bias.mul_(LOUD)
    return model


@pytest.fixture
def overflowing(place: Path) -> Path:
    path = place / "loud.safetensors"
    save(loud(tiny_model()), path, "ldm")
    return path


def test_a_block_that_overflows_is_named_and_the_picture_is_drawn(
    safelight: Cli, overflowing: Path, place: Path
) -> None:
    ran = safelight("generate", "a", "-m", overflowing, *HALF)
    assert ran.code == 0
    assert ran.err == (
        "warning: U-Net made NaN or infinity in float16 at step 1 "
        "(first in mid_block.resnets.0.conv1); that part was run again in float32\n"
    )
    assert pixels("out/5-a.png").std() > 1
    recipe = read_settings(place / "out" / "5-a.png").recipe
    assert recipe is not None and f"warning: {recipe.result.warnings[0]}\n" == ran.err


def test_afterwards_the_part_is_in_its_own_type_again_and_replays_alike(
    safelight: Cli, overflowing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Model] = []

    class Kept(Models):
        def of(self, request: Request, *, alone: bool = False) -> Model:
            loaded.append(super().of(request, alone=alone))
            return loaded[-1]

    monkeypatch.setattr(drawing, "Models", Kept)
    assert safelight("generate", "a", "-m", overflowing, *HALF, "-o", "a.png").code == 0
    assert {p.dtype for p in loaded[0].network.unet.parameters()} == {torch.float16}
    assert safelight("replay", "a.png", "-m", overflowing).out == "identical\n"


def test_an_autoencoder_that_overflows_is_named_too(safelight: Cli, place: Path) -> None:
    model = tiny_model()
    coder = model.codec.autoencoder
    assert isinstance(coder, torch.nn.Module)
    with torch.no_grad():
        coder.get_parameter("decoder.mid_block.resnets.0.conv1.weight").mul_(LOUD)
    save(model, place / "loud.safetensors", "ldm")
    ran = safelight("generate", "a", "-m", "loud.safetensors", *HALF, "--save-steps")
    assert ran.code == 0
    assert "VAE decoder made NaN or infinity in float16" in ran.err
    assert "(first in decoder.mid_block.resnets.0.conv1)" in ran.err
    assert pixels("out/5-a.png").std() > 1


def test_weights_that_are_nan_are_an_error_that_names_the_weight(
    safelight: Cli, place: Path
) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.network.unet.mid_block.resnets[0].conv1.weight[0, 0] = float("nan")
    save(model, place / "nan.safetensors", "ldm")
    ran = safelight("generate", "a", "-m", "nan.safetensors", *SMALL)
    assert ran.code == 2
    message = ran.error()
    assert (
        "nan.safetensors: tensor model.diffusion_model.middle_block.0.in_layers.2.weight" in message
    )
    assert "get another copy" in message
    assert files(place) == ["nan.safetensors"]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_nan_that_loading_overlooked_is_an_error_too(
    safelight: Cli, place: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.network.unet.mid_block.resnets[0].conv1.weight[0, 0] = float("nan")
    save(model, place / "nan.safetensors", "ldm")
    monkeypatch.setattr(finite, "_non_finite", lambda tensor: 0)
    ran = safelight("generate", "a", "-m", "nan.safetensors", *SMALL, "--dtype", dtype)
    assert ran.code == 1
    message = ran.error()
    assert message.startswith("nan.safetensors: U-Net made NaN or infinity at step 1")
    assert "the weight mid_block.resnets.0.conv1.weight is itself not finite" in message
    assert files(place) == ["nan.safetensors"]
