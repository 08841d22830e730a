"""A tiny decoder learns what the large one shows, and is written as TAESD's is published."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import training_runs as runs
from autoencoder_tiny import autoencoder
from models_tiny import random, randomised
from safelight.checkpoints.load import load_autoencoder
from safelight.errors import RequestError
from safelight.measures.pictures import psnr
from safelight.models.autoencoder import Codec, CodecConfig
from safelight.models.taesd import TinyAutoencoder, TinyAutoencoderConfig
from safelight.training.autoencoder.task import Robustness
from safelight.training.autoencoder.tiny_task import (
    DECODER,
    DecodedPool,
    HeldOutLatents,
    TinyDecoderTask,
)
from safelight.training.config.reading import checked
from safelight.training.draw import Draw
from safelight.training.loop import train
from safelight.training.recipes.building import job_of
from safelight.training.recipes.exporting import LAST, Which, chosen
from safelight.training.recipes.job import Job, Workshop
from safelight.training.recipes.tiny_decoder import blended
from safelight.training.recipes.writing import write_codec

SHAPE = TinyAutoencoderConfig(latent_channels=4, width=8, blocks=(1, 1), encodes=False)


def tiny(seed: int = 0) -> TinyAutoencoder:
    torch.manual_seed(seed)
    return SHAPE.build()


def as_bytes(images: Tensor) -> Tensor:
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.no_grad()
def pool(count: int = 5, seed: int = 0) -> DecodedPool:
    """Latents, and what a tiny decoder of this seed makes of them."""
    latents = random(count, 4, 3, 3)
    return DecodedPool(latents, as_bytes(tiny(seed).decode(latents)))


def test_who_shows_what_the_large_one_shows_has_no_loss_but_by_rounding() -> None:
    data, draw = pool(), Draw(0, 0, 5)
    batch = data.batch(range(5), draw)
    same, other = (TinyDecoderTask(tiny(seed)) for seed in (0, 1))
    for task in (same, other):
        task.tiny.eval()
    loss = same.loss(DECODER, batch, draw)
    # what lies beyond black counts, for it is not clamped; so pictures of dark places have a loss
    images = same.shown(batch.latents).detach()
    beyond = float((images - images.clamp(-1, 1)).abs().mean())
    assert loss.figures["psnr"] > 50
    assert float(loss.figures["l1"]) == pytest.approx(beyond, abs=1 / 127.5)
    assert other.loss(DECODER, batch, draw).figures["psnr"] < 40


def test_noise_is_on_some_rows_while_it_learns_and_never_when_judged() -> None:
    data = pool(64)
    task = TinyDecoderTask(tiny(), robustness=Robustness(0.5, (0.3, 0.3)))
    seen: list[Tensor] = []
    task.tiny.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    draw = Draw(0, 3, 64)
    batch = data.batch(range(64), draw)
    task.tiny.train()
    task.loss(DECODER, batch, draw)
    task.tiny.eval()
    task.loss(DECODER, batch, draw)
    noisy = (seen[0] - seen[1]).flatten(1).abs().amax(dim=1) > 0
    assert 16 < int(noisy.sum()) < 48
    bent = torch.tanh(batch.latents / 3) * 3
    assert torch.equal(seen[1], bent)


def test_the_held_out_figures_are_means_in_any_batches() -> None:
    data, task = pool(5, seed=1), TinyDecoderTask(tiny())
    found = HeldOutLatents(data)(task)
    assert HeldOutLatents(data, batch=2)(task) == pytest.approx(found, rel=1e-4)
    with torch.no_grad():
        images = task.shown(data.latents).clamp(-1, 1)
    wanted = psnr(images, data.pictures.float() / 127.5 - 1).mean()
    assert found["held_out/psnr"] == pytest.approx(float(wanted), rel=1e-5)
    assert task.tiny.training
    with pytest.raises(RequestError, match="one or more latents"):
        HeldOutLatents(pool(0))


def test_blends_lie_between_two_and_the_rest_stay() -> None:
    latents = torch.eye(64)[:, :, None, None]
    made = blended(latents, 0.25, seed=3)
    changed = (made != latents).flatten(1).any(dim=1)
    assert 4 <= int(changed.sum()) <= 28
    assert torch.equal(made[~changed], latents[~changed])
    assert torch.allclose(made.sum(dim=1), torch.ones(64, 1, 1)), "each is of two, in parts of 1"
    assert ((made > 0).sum(dim=1) <= 2).all()
    assert torch.equal(blended(latents, 0.25, seed=3), made)
    assert torch.equal(blended(latents, 0.0, seed=3), latents)


# -- the recipe ------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder to stand in, with shapes and an autoencoder."""
    runs.write_shapes(tmp_path / "shapes", 8)
    large = autoencoder()
    randomised(large)
    write_codec(tmp_path / "vae", Codec(large, CodecConfig(large.config, 0.5)), 32, torch.float32)
    here = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(here)


def values(**decoder: object) -> dict[str, Any]:
    factor = autoencoder().config.factor
    blocks = [1] * factor.bit_length()
    return {
        "recipe": "tiny_decoder",
        "folder": "run",
        "device": "cpu",
        "data": {"path": "shapes", "size": 32, "held_out": 0.3},
        "decoder": {"teacher": "vae", "width": 8, "blocks": blocks, **decoder},
        "training": {**runs.TRAINING, "steps": 3, "batch_size": 2},
        "export": {"dtype": "fp16", "name": "small"},
    }


def job(given: dict[str, Any]) -> Job:
    return job_of(checked(given, "c.toml"), Workshop(torch.device("cpu"), Path("run")))


@pytest.mark.slow
def test_it_learns_from_the_large_decoder_and_is_written_as_one_file(place: Path) -> None:
    made = job(values())
    assert any("tiny decoder of" in fact for fact in made.facts)
    teacher = load_autoencoder("vae")
    batch = made.data.batch([0, 1], Draw(0, 0, 2))
    with torch.no_grad():
        assert torch.equal(batch.pictures, as_bytes(teacher.decode(batch.latents)))
    train(made.task, made.data, made.settings, Path("run"), order=made.order)
    (path,) = made.write(chosen(Path("run"), made.exported, Which(), LAST), Path("run/model"))
    assert path == Path("run/model/small.safetensors")
    with safe_open(path, "pt") as file:
        assert {"1.weight", "3.conv.0.weight"} <= {*file.keys()}
        assert file.get_tensor("1.weight").dtype == torch.float16
    codec = load_autoencoder(path)
    assert isinstance(codec.autoencoder, TinyAutoencoder) and not codec.autoencoder.config.encodes
    task = made.task
    assert isinstance(task, TinyDecoderTask)
    with torch.no_grad():
        apart = codec.decode(batch.latents) - task.shown(batch.latents)
    assert apart.abs().max() < 0.02


@pytest.mark.parametrize(
    ("decoder", "said"),
    [
        ({"blocks": [1]}, "decoder.blocks has 1 levels"),
        ({"teacher": "nowhere"}, "there is no autoencoder nowhere"),
    ],
)
def test_what_does_not_fit_is_told(place: Path, decoder: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        job(values(**decoder))
