"""Numbers in JSON files and lines in configs that want memory or time are refused, at once."""

import time
from pathlib import Path

import pytest

from safelight.checkpoints.guesses import _from_yaml
from safelight.checkpoints.json_object import LAYERS, LEVELS, MOST, JsonObject
from safelight.checkpoints.model_json import clip_from_json, vae_from_json
from safelight.checkpoints.scheduler_json import process_from_json
from safelight.checkpoints.unet_json import unet_from_json, unet_to_json
from safelight.errors import CheckpointError
from safelight.families import SD15, SDXL

HUGE = 10**400


def json(**values: object) -> JsonObject:
    return JsonObject(values, "config.json")


@pytest.mark.parametrize("number", [HUGE, -HUGE, float("nan"), float("inf")])
def test_a_number_is_finite(number: float) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: eps is .*; expected a finite number"):
        json(eps=number).number("eps")
    with pytest.raises(CheckpointError, match=r"config\.json: eps is .*; expected a finite number"):
        json(eps=[1.0, number]).numbers("eps")


def test_whole_numbers_and_lists_of_them_have_bounds() -> None:
    assert json(width=MOST).whole("width") == MOST
    with pytest.raises(CheckpointError, match=rf"width is .*; expected at most {MOST}"):
        json(width=MOST + 1).whole("width")
    assert json(widths=[8] * LEVELS).wholes("widths") == (8,) * LEVELS
    with pytest.raises(CheckpointError, match=rf"expected at most {LEVELS} numbers"):
        json(widths=[8] * (LEVELS + 1)).wholes("widths")
    with pytest.raises(CheckpointError, match="expected at most 3"):
        json(blocks=[1, 4]).wholes("blocks", most=3)
    assert json(widths=[]).wholes("widths") == ()


@pytest.mark.parametrize("name", ["layers_per_block", "transformer_layers_per_block"])
def test_a_unet_of_a_thousand_million_layers_is_refused_before_it_is_counted_out(name: str) -> None:
    values = unet_to_json(SD15.backbone, sample_size=64)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{name}"):
        unet_from_json(json(**{**values, name: 10**9}))
    with pytest.raises(CheckpointError, match=r"make \d+ layers; at most 1000 are built"):
        unet_from_json(json(**{**values, "layers_per_block": 64, name: 100}))
    assert time.monotonic() - began < 1


def test_the_largest_published_unet_is_within_them() -> None:
    values = unet_to_json(SDXL.backbone, sample_size=128)
    assert unet_from_json(json(**values)) == SDXL.backbone


def test_encoders_and_autoencoders_have_bounds() -> None:
    with pytest.raises(CheckpointError, match=f"num_hidden_layers .* at most {LAYERS}"):
        clip_from_json(json(num_hidden_layers=10**9), projected=False)
    widths = {"block_out_channels": [128, 256]}
    with pytest.raises(CheckpointError, match=f"layers_per_block .* at most {LAYERS}"):
        vae_from_json(json(**widths, layers_per_block=10**9))
    with pytest.raises(CheckpointError, match="scaling_factor is 0; latents are divided by it"):
        vae_from_json(json(**widths, scaling_factor=0))
    with pytest.raises(CheckpointError, match="latents_std must be numbers greater than 0"):
        vae_from_json(json(**widths, latents_mean=[], latents_std=[]))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_train_timesteps": 10**18}, "num_train_timesteps is .* at most 100000"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1; expected 2 or more"),
        ({"beta_end": 5}, "beta_end is 5.0; expected above 0 and at most 1"),
        ({"beta_start": 0}, "beta_start is 0.0; expected above 0 and at most 1"),
        ({"trained_betas": [0.5]}, "trained_betas must be from 2 to 100000 numbers"),
        ({"trained_betas": [0.5, 1.5]}, "trained_betas must be from 2 to 100000 numbers"),
    ],
)
def test_a_schedulers_numbers_have_bounds(values: dict[str, object], said: str) -> None:
    with pytest.raises(CheckpointError, match=rf"config\.json: {said}"):
        process_from_json(json(**values))
    assert process_from_json(json(trained_betas=[0.1, 0.2])).trained_betas == (0.1, 0.2)


@pytest.mark.parametrize(
    "text",
    ["\n" * 2**20, " " * (2**20 - 1), "parameterization: " + "v" * 10**6 + "!", "\t\n" * 2**19],
    ids=["line ends", "blanks", "long word", "blank lines"],
)
def test_a_config_that_says_nothing_takes_no_time(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.yaml").write_text(text)
    began = time.process_time()
    assert _from_yaml(tmp_path / "model.safetensors")[0] == ""
    assert time.process_time() - began < 2


def test_a_config_of_windows_is_read_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_bytes(
        b"params:\r\n  parameterization: 'v'  # yes\r\n  x: 1\r\n"
    )
    assert _from_yaml(tmp_path / "model.safetensors")[0] == "v"
