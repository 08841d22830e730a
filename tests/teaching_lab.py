"""A tiny model on disk, pictures of a subject, and configs that teach it in a second."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

import training_runs as runs
from own_model import model_of, small_family
from safelight.checkpoints.save import save
from safelight.training.config.reading import checked
from safelight.training.loop import train
from safelight.training.recipes.building import job_of
from safelight.training.recipes.exporting import LAST, Which, chosen
from safelight.training.recipes.job import Job, Workshop
from safelight.training.watch import Moment, Watch


def write_model(folder: Path) -> Path:
    """The small family with random weights."""
    save(model_of(small_family()), folder)
    return folder


def write_subject(folder: Path, count: int = 6, side: int = 32, *, clear: bool = False) -> Path:
    """Pictures of a red ball; with a transparent ground if `clear`. The captions say <ball>."""
    folder.mkdir(parents=True)
    for number in range(count):
        image = Image.new("RGBA", (side, side), (0, 0, 255, 0 if clear else 255))
        at = 4 + 2 * number
        ImageDraw.Draw(image).ellipse((at, 6, at + 14, 22), fill=(220, 30, 30, 255))
        image.save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"a picture of <ball>, number {number}")
    return folder


def furnished(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, from now on the current one, with the model `old` and the pictures `ball`."""
    write_subject(folder / "ball")
    (folder / "old").symlink_to(model)
    monkeypatch.chdir(folder)
    return folder


def values(recipe: str, **changes: Any) -> dict[str, Any]:
    """A config of a recipe that teaches the model `old` the pictures `ball`."""
    sections: dict[str, dict[str, Any]] = {
        "textual_inversion": {"inversion": {"word": "<ball>"}},
        "lora": {"adapter": {"rank": 2}},
        "lcm": {"adapter": {"rank": 2}, "distillation": {"solver_steps": 10}},
        "diffusion": {},
    }
    return {
        "recipe": recipe,
        "folder": "run",
        "device": "cpu",
        "data": {"path": "ball", "size": 32, "multiple": 16, "held_out": 0.0},
        "model": {"checkpoint": "old"},
        "training": {**runs.TRAINING, "steps": 2, "batch_size": 2, "learning_rate": 1e-2},
        **sections[recipe],
        **changes,
    }


def job(told: dict[str, Any], warned: list[str] | None = None, **shop: Any) -> Job:
    warn = (lambda text: None) if warned is None else warned.append
    workshop = Workshop(torch.device("cpu"), Path(told["folder"]), warn=warn, **shop)
    return job_of(checked(told, "c.toml"), workshop)


class Looking(Watch):
    """Asks a job for its figures, and keeps them."""

    def __init__(self, made: Job) -> None:
        self.made = made
        self.seen: list[Mapping[str, float]] = []

    def validate(self, moment: Moment) -> Mapping[str, float]:
        self.seen.append(self.made.look(moment))
        return self.seen[-1]


def trained(told: dict[str, Any], made: Job | None = None) -> Path:
    """Train, and give what was written."""
    found = made or job(told)
    folder = Path(told["folder"])
    train(found.task, found.data, found.settings, folder, order=found.order)
    kinds = found.settings.ema
    default = kinds[0].name if kinds else LAST
    weights = chosen(folder, found.exported, Which(), default)
    (path,) = found.write(weights, folder / "model")
    return path
