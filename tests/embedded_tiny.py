"""What `safelight train` leaves behind for the embedded model, a hundred times smaller."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from own_model import model_of, small_family, vision_of
from safelight.checkpoints.evaluator_folder import write_evaluator
from safelight.checkpoints.save import save
from safelight.embedded.carried import FOLDER
from safelight.models.evaluator import EvaluatorConfig, Labels
from safelight.training.recipes.writing import write_clip
from scenes_tiny import STYLES, THINGS

SCRIPTS = Path(__file__).parent.parent / "scripts" / "embedded"


def script(name: str) -> ModuleType:
    """A script of scripts/embedded as a module, which may import its neighbours."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    full = f"embedded_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, SCRIPTS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[full] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full]


def package(made: pytest.TempPathFactory) -> Path:
    """A folder to stand in for the embedded model, with nothing beside the model yet."""
    folder = made.mktemp("package") / FOLDER
    save(model_of(small_family()), folder)
    return folder


def standing_in(folder: Path, parent: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a folder be the embedded model, with no other files known; the working folder, empty."""
    for name in ("SAFELIGHT_HOME", "SAFELIGHT_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(parent / name))
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: folder)
    place = parent / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def write_results(folder: Path, *, seed: int = 0) -> Path:
    """`diffusion/model`, `clip/model` and `evaluator/model` below a folder."""
    model = model_of(small_family(), seed)
    save(model, folder / "diffusion" / "model")
    (tower,) = model.text.encoders
    words = model.family.text.vocabulary
    write_clip(folder / "clip" / "model", tower, vision_of(), words, torch.float32, logit_scale=3.5)
    labels = Labels(tuple(THINGS), tuple(STYLES))
    config = EvaluatorConfig(len(labels.concepts), len(labels.styles), (8, 8), (1, 1), 16, 4)
    torch.manual_seed(seed)
    (folder / "evaluator").mkdir()
    write_evaluator(folder / "evaluator" / "model", config.build(), labels)
    return folder
