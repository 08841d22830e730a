"""Safety checkers in the layout of CompVis' `stable-diffusion-safety-checker`, read alone.

A model's folder with `safety_checker/`, that folder itself (`config.json` beside
`model.safetensors`, `pytorch_model.bin` or a variant such as `model.fp16.safetensors`), or its
weights alone in one file.
"""

import os
from pathlib import Path

import torch

from safelight.checkpoints.checkpoint import mismatch
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.filling import filled
from safelight.checkpoints.folders import open_folder
from safelight.checkpoints.json_object import read_object
from safelight.checkpoints.keymap import KeyMap, Row
from safelight.checkpoints.measure_vision import measured_vision
from safelight.checkpoints.parts import Part, Selection
from safelight.checkpoints.vision_json import vision_from_json
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError, FileError
from safelight.models.clip import ClipVisionConfig
from safelight.models.safety_checker import SafetyChecker, SafetyCheckerConfig
from safelight.printable import shown

FOLDER = "safety_checker"
TOWER = "vision_model."  # before the names of the vision tower, which begin with the same word
_ROWS = (
    Row("vision_model.vision_model", "vision.vision_model"),
    Row("visual_projection", "vision.visual_projection"),
    Row("", ""),
)
_IDLE = ("vision_model.vision_model.embeddings.position_ids",)


def load_safety_checker(
    path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> SafetyChecker:
    """The safety checker of a folder or file, in float32: its scores are rounded and compared.

    Raises FileError for what cannot be read, CheckpointError for weights that are none, or do not
    fit: no name may be missing or left over.
    """
    given = Path(path)
    if not given.is_dir():
        with open_weights(given) as file:
            return _read(file, _measured(file), torch.device(device))
    folder = next((f for f in (given / FOLDER, given) if (f / "config.json").is_file()), None)
    if folder is None:
        raise FileError(
            f"{shown(given)} holds no safety checker: neither {FOLDER}/config.json nor config.json"
        )
    with open_folder(folder, "model") as file:
        vision = vision_from_json(read_object(folder / "config.json"), projected=True)
        return _read(file, vision, torch.device(device))


def _read(file: WeightFile, vision: ClipVisionConfig, device: torch.device) -> SafetyChecker:
    shapes = {name: info.shape for name, info in file.header.items()}
    embeds = [shapes.get(name, ()) for name in ("concept_embeds", "special_care_embeds")]
    if any(len(shape) != 2 or not shape[0] for shape in embeds):
        raise CheckpointError(
            f"{shown(file.path)} holds no safety checker: there are no concept_embeds and "
            "special_care_embeds"
        )
    config = SafetyCheckerConfig(vision, concepts=embeds[0][0], special=embeds[1][0])
    part = Part("safety_checker", config, Selection.below(file), KeyMap(_ROWS), _IDLE)
    report = part.report()
    if not report.sound:
        raise CheckpointError(
            f"{shown(file.path)} does not fit the safety checker it seems to be: "
            f"{mismatch([report])}"
        )
    module = filled(part, dtype=torch.float32, device=device)
    assert isinstance(module, SafetyChecker)
    return module


def _measured(file: WeightFile) -> ClipVisionConfig:
    """The vision tower that fits the tensors of a file without config; OpenAI's activation."""
    shapes = {name.removeprefix(TOWER): info.shape for name, info in file.header.items()}
    try:
        return measured_vision(shapes, activation="quick_gelu").config
    except CheckpointError as error:
        raise CheckpointError(f"{shown(file.path)} holds no safety checker: {error}") from None
