"""LAION's safety classifiers from their files: a head alone, and the CLIP tower that it is for."""

import os
from itertools import count, takewhile
from pathlib import Path

import torch

from safelight.checkpoints.checkpoint import mismatch
from safelight.checkpoints.clip_pair import load_clip_pair
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.filling import filled
from safelight.checkpoints.keymap import KeyMap, Row
from safelight.checkpoints.parts import Part, Selection
from safelight.checkpoints.vision_folder import load_clip_vision
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError
from safelight.models.clip import ClipVision
from safelight.models.safety_head import SafetyHead, SafetyHeadConfig
from safelight.printable import shown

_TOWERS = {512: "OpenAI ViT-B/32", 768: "OpenAI ViT-L/14", 1024: "OpenCLIP ViT-H/14 (laion2b)"}


def is_safety_head(path: Path) -> bool:
    """Whether a file holds such a head. Raises FileError if it cannot be read."""
    if path.is_dir():
        return False
    with open_weights(path) as file:
        return _config(file) is not None


def load_safety_head(
    path: str | os.PathLike[str], tower: ClipVision, *, device: torch.device | str = "cpu"
) -> SafetyHead:
    """The head of a file (`.pth` or safetensors), which must be one for this tower.

    Raises FileError for what cannot be read, CheckpointError for what is no such head, does not
    fit, or was trained on another tower.
    """
    with open_weights(Path(path)) as file:
        config = _config(file)
        if config is None:
            raise CheckpointError(
                f"{shown(file.path)} holds no safety classifier of LAION: neither linear_1 nor "
                "layers.0"
            )
        part = Part("safety_checker", config, Selection.below(file), KeyMap([Row("", "")]))
        report = part.report()
        if not report.sound:
            raise CheckpointError(
                f"{shown(file.path)} does not fit the safety classifier it seems to be: "
                f"{mismatch([report])}"
            )
        if tower.config.projection != (width := config.widths[0]):
            raise CheckpointError(
                f"{shown(file.path)} reads embeddings of width {width}"
                f"{f' ({_TOWERS[width]})' if width in _TOWERS else ''}; those of the CLIP given "
                f"have {tower.config.projection}."
            )
        module = filled(part, dtype=torch.float32, device=torch.device(device))
    assert isinstance(module, SafetyHead)
    return module


def load_safety_tower(path: Path, *, device: torch.device | str = "cpu") -> ClipVision:
    """The vision tower of a CLIP: its folder, a model's with `image_encoder/`, OpenCLIP's file.

    Raises FileError or CheckpointError.
    """
    if path.is_dir() and any((path / name).is_file() for name in _CONFIGS):
        return load_clip_vision(path, dtype=torch.float32, device=device)
    return load_clip_pair(path, dtype=torch.float32, device=device).vision


_CONFIGS = ("config.json", "image_encoder/config.json")


def _config(file: WeightFile) -> SafetyHeadConfig | None:
    """The layers of a head by its names, in order; None if there are none."""
    shapes = {name: info.shape for name, info in file.header.items()}
    normed = "linear_1.weight" in shapes
    found = [shapes.get(name) for name in _names(normed, shapes)]
    if not found or any(shape is None or len(shape) != 2 for shape in found):
        return None
    matrices = [shape for shape in found if shape is not None]
    widths = (matrices[0][1], *(shape[0] for shape in matrices))
    return SafetyHeadConfig(widths, normed) if len(matrices) > 1 else None


def _names(normed: bool, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    if normed:
        names = (f"linear_{number}.weight" for number in count(1))
        return list(takewhile(lambda name: name in shapes, names))
    places = [name.split(".")[1] for name in shapes if name.startswith("layers.")]
    numbers = sorted({int(place) for place in places if place.isdecimal() and len(place) < 4})
    return [f"layers.{number}.weight" for number in numbers]
