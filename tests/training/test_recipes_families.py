"""Fine-tuning takes every family that draws from text alone, and refuses the others by name."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import training_runs as runs
from safelight.checkpoints.load import load
from safelight.errors import RequestError
from safelight.training.config.reading import checked
from safelight.training.draw import Draw
from safelight.training.loop import train
from safelight.training.recipes.building import job_of
from safelight.training.recipes.exporting import LAST, Which, chosen
from safelight.training.recipes.job import Job, Workshop

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    runs.write_shapes(tmp_path / "shapes", 8, 64)
    here = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(here)


def tuning(name: str, place: Path, **training: Any) -> dict[str, Any]:
    tiny.write_folder(tiny.oracle(name), place / "old")
    return {
        "recipe": "diffusion",
        "folder": "run",
        "device": "cpu",
        "data": {"path": "shapes", "size": 64, "multiple": 64, "held_out": 0.2},
        "model": {"checkpoint": "old"},
        "training": {**runs.TRAINING, "steps": 1, "batch_size": 2, **training},
    }


def job(values: dict[str, Any]) -> Job:
    return job_of(checked(values, "c.toml"), Workshop(torch.device("cpu"), Path("run")))


@pytest.mark.parametrize(
    ("name", "told"), [("sd15", None), ("sd2-v", None), ("sdxl", 6), ("sdxl-refiner", 5)]
)
def test_a_family_learns_with_what_its_network_is_told(
    place: Path, name: str, told: int | None
) -> None:
    values = tuning(name, place)
    made = job(values)
    batch = made.data.batch([0, 1], Draw(0, 0, 2))
    assert (None if batch.sizes is None else batch.sizes.shape[1]) == told
    train(made.task, made.data, made.settings, Path("run"), order=made.order)
    (folder,) = made.write(chosen(Path("run"), made.exported, Which(), LAST), Path("run/model"))
    old, new = load("old"), load(folder)
    assert new.family.process == old.family.process
    for one, other in zip(old.text.encoders, new.text.encoders, strict=True):
        theirs = other.state_dict()
        assert all(torch.equal(tensor, theirs[n]) for n, tensor in one.state_dict().items())
    before, after = old.network.unet.state_dict(), new.network.unet.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("name", ["sd15-inpaint", "pix2pix", "x4-upscaler"])
def test_models_that_draw_from_pictures_are_refused_by_name(place: Path, name: str) -> None:
    with pytest.raises(RequestError, match="which draws from pictures"):
        job(tuning(name, place))


def test_a_run_in_bfloat16_writes_the_other_parts_as_they_were(place: Path) -> None:
    values = tuning("sd15", place, precision="bf16", ema=["classic:0.9"])
    made = job(values)
    towers = [module for module in made.frozen if module.__class__.__name__ == "ClipText"]
    assert {p.dtype for tower in towers for p in tower.parameters()} == {torch.bfloat16}
    train(made.task, made.data, made.settings, Path("run"), order=made.order)
    weights = chosen(Path("run"), made.exported, Which("classic:0.9"), LAST)
    (folder,) = made.write(weights, Path("run/model"))
    old, new = load("old"), load(folder)
    for name, tensor in old.text.encoders[0].state_dict().items():
        assert torch.equal(tensor, new.text.encoders[0].state_dict()[name])
    unet = new.network.unet.state_dict()
    assert all(torch.equal(tensor, unet[name]) for name, tensor in weights["unet"].items())


def test_what_only_a_new_model_may_choose_is_refused_for_a_checkpoint(place: Path) -> None:
    values = {**tuning("sd15", place), "process": {"beta_start": 0.1}}
    with pytest.raises(RequestError, match=r"process\.beta_start is the checkpoint's own"):
        job(values)


def test_a_label_is_what_the_model_calls_itself(place: Path) -> None:
    values = tuning("sd15", place)
    values["model"] |= {"label": "shapes, tuned"}
    made = job(values)
    train(made.task, made.data, made.settings, Path("run"), order=made.order)
    (folder,) = made.write(chosen(Path("run"), made.exported, Which(), LAST), Path("run/model"))
    assert load(folder).family.label == "shapes, tuned"
