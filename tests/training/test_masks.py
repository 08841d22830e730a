"""Masked loss: what lies outside of a mask teaches nothing, and crops take their masks along."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import teaching_lab as lab
from diffusion_lab import backbone, process, shapes
from models_tiny import random
from safelight.diffusion import loss as losses
from safelight.errors import FileError, InputError, RequestError
from safelight.training.diffusion_task import DiffusionSettings, DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.masks import Masked, Masking
from safelight.training.pictures import opacity
from safelight.training.recipes.job import Job
from safelight.training.validation import Validation


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.write_model(tmp_path_factory.mktemp("models") / "own")


@pytest.fixture
def place(tmp_path: Path, model: Path) -> Iterator[Path]:
    lab.write_subject(tmp_path / "ball", clear=True)
    (tmp_path / "masks").mkdir()
    for number in range(6):
        mask = Image.new("L", (32, 32), 0)
        ImageDraw.Draw(mask).rectangle((0, 0, 15, 31), fill=255)
        mask.save(tmp_path / "masks" / f"{number:02}.png")
    (tmp_path / "old").symlink_to(model)
    here = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(here)


def values(mask: dict[str, Any], **data: Any) -> dict[str, Any]:
    told = lab.values("lora", mask=mask)
    told["data"] |= data
    return told


def batch_of(made: Job, rows: Sequence[int], step: int = 0) -> LatentBatch:
    found: LatentBatch = made.data.batch(rows, Draw(0, step, len(rows)))
    return found


# -- the loss --------------------------------------------------------------------------------------


def test_the_masked_loss_is_the_mean_of_masked_errors() -> None:
    """As kohya's trainer has it: errors times the mask, then the mean over everything."""
    output, wanted = random(3, 4, 8, 8, seed=1), random(3, 4, 8, 8, seed=2)
    mask = random(3, 1, 8, 8, seed=3).sigmoid()
    theirs = (torch.nn.functional.mse_loss(output, wanted, reduction="none") * mask).mean()
    assert losses.diffusion_loss(output, wanted, mask=mask).item() == pytest.approx(theirs.item())
    whole = torch.ones(3, 1, 8, 8)
    assert torch.equal(
        losses.picture_errors(output, wanted, mask=whole), losses.picture_errors(output, wanted)
    )


def test_no_gradient_comes_from_outside() -> None:
    output = random(2, 4, 8, 8).requires_grad_(True)
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    losses.diffusion_loss(output, torch.zeros_like(output), huber=0.1, mask=mask).backward()
    assert output.grad is not None
    assert bool(output.grad[..., :4].all()) and not bool(output.grad[..., 4:].any())


def test_a_task_and_its_validation_weigh_by_the_mask() -> None:
    network = backbone(1)
    settings = DiffusionSettings(caption_dropout=0.0)
    task = DiffusionTask(network, process(), None, settings)
    plain = LatentBatch(shapes(4), context=random(4, 7, 32))
    mask = torch.full((4, 1, 8, 8), 0.5)
    halved = replace(plain, mask=mask)
    draw = Draw(0, 0, 4)
    with torch.no_grad():
        whole, half = (task.loss("unet", b, draw).total for b in (plain, halved))
    assert half.item() == pytest.approx(0.5 * whole.item(), rel=1e-5)

    class Kept:
        def __init__(self, batch: LatentBatch) -> None:
            self.found = batch

        def __len__(self) -> int:
            return 4

        def batch(self, indices: Sequence[int], draw: Draw) -> LatentBatch:
            return self.found

    one, other = (Validation(Kept(b), range(4))(task) for b in (plain, halved))
    assert other["held_out/loss"] == pytest.approx(0.5 * one["held_out/loss"], rel=1e-5)


# -- weights of a mask -----------------------------------------------------------------------------


def shares() -> Tensor:
    """A mask whose left quarter is white, and one that is black."""
    masks = torch.zeros(2, 3, 32, 32)
    masks[0, :, :, :8] = 1
    return masks


def test_a_mask_becomes_weights_by_the_mean_of_its_pixels() -> None:
    made = Masking(0.0, even=False).weights(shares(), (4, 4))
    assert torch.equal(made[0, 0, 0], torch.tensor([1.0, 0, 0, 0]))
    thin = torch.zeros(1, 1, 32, 32)
    thin[..., 5] = 1
    assert Masking(0.0, even=False).weights(thin, (4, 4))[0, 0, 0, 0] == pytest.approx(1 / 8)


def test_even_weights_have_a_mean_of_one_and_black_masks_none() -> None:
    made = Masking(0.0, even=True).weights(shares(), (4, 4))
    assert torch.equal(made[0, 0, 0], torch.tensor([4.0, 0, 0, 0]))
    assert not bool(made[1].any())


def test_outside_counts_its_share() -> None:
    made = Masking(0.2, even=False).weights(shares(), (4, 4))
    assert made[0, 0, 0].tolist() == pytest.approx([1.0, 0.2, 0.2, 0.2])
    everywhere = Masking(1.0, even=True).weights(shares(), (4, 4))
    assert torch.equal(everywhere, torch.ones(2, 1, 4, 4))


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match="outside must be 0 to 1"):
        Masking(1.5)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "I;16"])
def test_opacity_is_that_of_the_picture_whatever_its_kind(tmp_path: Path, mode: str) -> None:
    clear = Image.new("RGBA", (4, 2), (10, 20, 30, 255))
    clear.putpixel((1, 0), (10, 20, 30, 0))
    path = tmp_path / "a.png"
    if mode == "P":
        clear.convert("RGB").quantize().save(path, transparency=0)
        wanted = {0}
    else:
        source = clear if mode in ("RGBA", "LA") else clear.convert("RGB")
        (source.convert(mode) if mode != "I;16" else Image.new("I;16", (4, 2), 999)).save(path)
        wanted = {0, 255} if mode in ("RGBA", "LA") else {255}
    found = opacity(path.read_bytes(), "a.png")
    assert found.mode == "L" and set(np.asarray(found).ravel().tolist()) == wanted
    if mode == "RGBA":
        assert found.getpixel((1, 0)) == 0 and found.getpixel((2, 1)) == 255


# -- runs ------------------------------------------------------------------------------------------


def test_masks_of_a_folder_lie_beside_their_latents(place: Path) -> None:
    made = lab.job(values({"folder": "masks", "even": False}))
    assert isinstance(made.data, Masked)
    mask = batch_of(made, [0, 3]).mask
    assert mask is not None and mask.shape == (2, 1, 4, 4)
    assert torch.allclose(mask[..., :2], torch.ones(2, 1, 4, 2), atol=0.01)
    assert torch.allclose(mask[..., 2:], torch.zeros(2, 1, 4, 2), atol=0.01)


def test_transparency_is_a_mask(place: Path) -> None:
    made = lab.job(values({"alpha": True, "outside": 0.1}))
    first, last = (batch_of(made, [i]).mask for i in (0, 5))
    assert first is not None and last is not None
    assert first.mean().item() == pytest.approx(1, rel=1e-4)
    assert first[0, 0, :, 0].sum() > last[0, 0, :, 0].sum()  # the ball moves to the right
    assert first.min() > 0


def test_crops_and_mirror_images_take_their_masks_along(place: Path) -> None:
    """The oracle: the picture itself, which is red where its mask is white."""
    for number in range(6):
        picture = Image.new("RGB", (32, 32), (0, 0, 0))
        ImageDraw.Draw(picture).rectangle((0, 0, 15, 31), fill=(255, 255, 255))
        picture.save(place / "ball" / f"{number:02}.png")
    told = values({"folder": "masks", "even": False}, flip=0.5, random_crop=True, size=16)
    made = lab.job(told)
    pictures = made.data.pictures
    seen = set()
    for step in range(6):
        draw = Draw(0, step, 2)
        found = made.data.batch([0, 1], draw)
        shown = (pictures.batch([0, 1], draw).pictures.mean(1, keepdim=True) + 1) / 2
        small = torch.nn.functional.interpolate(shown, size=found.latents.shape[2:], mode="area")
        assert found.mask is not None and torch.allclose(found.mask, small, atol=0.02)
        seen |= {tuple(row[0, 0].round().tolist()) for row in found.mask}
    assert len(seen) > 1


def test_what_is_held_out_is_judged_within_its_mask(place: Path) -> None:
    told = values({"folder": "masks"}, held_out=0.4)
    told["training"] |= {"validate_every": 1, "steps": 1}
    made = lab.job(told)
    watch = lab.Looking(made)
    from safelight.training.loop import train

    train(made.task, made.data, made.settings, Path("run"), order=made.order, watch=watch)
    masked = watch.seen[0]["held_out/loss"]
    told.pop("mask")
    told["folder"] = "other"
    made = lab.job(told)
    watch = lab.Looking(made)
    train(made.task, made.data, made.settings, Path("other"), order=made.order, watch=watch)
    assert masked != watch.seen[0]["held_out/loss"]


def test_a_mask_that_is_missing_of_another_size_or_black_is_named(place: Path) -> None:
    (place / "masks/03.png").unlink()
    with pytest.raises(FileError, match="1 of 6 pictures have no mask in masks: 03"):
        lab.job(values({"folder": "masks"}))
    Image.new("L", (16, 16), 255).save(place / "masks/03.png")
    with pytest.raises(FileError, match=r"the mask masks/03\.png is 16x16 and its picture 32x32"):
        lab.job(values({"folder": "masks"}))
    Image.new("L", (32, 32), 0).save(place / "masks/03.png")
    with pytest.raises(FileError, match="the mask of 03 is black everywhere"):
        lab.job(values({"folder": "masks"}))
    lab.job(values({"folder": "masks", "outside": 0.1}))


@pytest.mark.parametrize("mask", [{}, {"alpha": True, "folder": "masks"}])
def test_a_mask_comes_from_one_place(mask: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="mask: give folder"):
        lab.job(values(mask))
