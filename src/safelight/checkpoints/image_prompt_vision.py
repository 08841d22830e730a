"""The vision tower of a picture-prompt adapter: found near it, or told, and checked to fit."""

import os
from pathlib import Path

import torch

from safelight.checkpoints.checkpoint import mismatch
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.filling import filled
from safelight.checkpoints.measure_vision import measured_vision
from safelight.checkpoints.parts import Part, Selection
from safelight.checkpoints.vision_folder import clip_vision_part
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError, FileError
from safelight.models.clip import ClipVision, ClipVisionConfig
from safelight.models.image_prompt import ImagePromptConfig
from safelight.printable import shown

Pathlike = str | os.PathLike[str]

# Where the repository of the published adapters keeps its towers, seen from an adapter's folder.
_NEAR = ("image_encoder", "../models/image_encoder", "../sdxl_models/image_encoder")
# What other files hold beside a tower in Transformers' names, or in OpenCLIP's.
_IDLE = (
    "vision_model.embeddings.position_ids",
    "logit_scale",
    "text_model.",
    "text_projection.",
)
_QUICK_GELU_UP_TO = 1024  # OpenAI's towers, up to ViT-L; the wider ones are OpenCLIP's, with GELU

_H = "OpenCLIP ViT-H/14: the folder models/image_encoder of h94/IP-Adapter on Hugging Face"
_BIGG = "OpenCLIP ViT-bigG/14: the folder sdxl_models/image_encoder of h94/IP-Adapter, Hugging Face"
_L = "OpenAI ViT-L/14: openai/clip-vit-large-patch14 on Hugging Face"
# By what the adapter reads: the projected embedding, or the hidden states.
_EMBEDDINGS = {768: _L, 1024: _H, 1280: _BIGG}
_STATES = {1024: _L, 1280: _H, 1664: _BIGG}


def fitting_vision(
    adapter: Path,
    config: ImagePromptConfig,
    vision: Pathlike | ClipVision | None,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
) -> tuple[ClipVision, Path | None]:
    """The vision tower for an adapter, and where it was read from; None if it was given.

    Raises CheckpointError, saying which tower it must be and where to get it, if none is near or
    the one given is another; FileError if it cannot be read.
    """
    if isinstance(vision, ClipVision):
        _check(adapter, config, vision.config, "the vision tower given")
        return vision, None
    if vision is not None:
        path = Path(vision)
    else:
        near = [n for name in _NEAR if (n := adapter.parent / name).is_dir()]
        fits = [n for n in near if _fits(config, _config(n, config))]
        if not fits:
            raise CheckpointError(_missing(adapter, config, near))
        path = fits[0]
    return _loaded(adapter, config, path, dtype=dtype, device=device), path


def _loaded(
    adapter: Path,
    config: ImagePromptConfig,
    path: Path,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
) -> ClipVision:
    if path.is_dir():
        with clip_vision_part(path, projection=_projection(config)) as part:
            return _filled(adapter, config, path, part, dtype, device)
    with open_weights(path) as file:
        part = _file_part(file)
        return _filled(adapter, config, path, part, dtype, device)


def _filled(
    adapter: Path,
    config: ImagePromptConfig,
    path: Path,
    part: Part,
    dtype: torch.dtype | None,
    device: torch.device,
) -> ClipVision:
    assert isinstance(part.config, ClipVisionConfig)
    _check(adapter, config, part.config, shown(path))
    module = filled(part, dtype=dtype, device=device)
    assert isinstance(module, ClipVision)
    return module


def _file_part(file: WeightFile) -> Part:
    """A tower in a file without config: Transformers' names, or OpenCLIP's with `visual.`."""
    prefix = "visual." if "visual.conv1.weight" in file.header else ""
    tensors = Selection.below(file, prefix)
    conv = tensors.shapes.get("vision_model.embeddings.patch_embedding.weight", (1 << 30,))
    try:
        measured = measured_vision(
            tensors.shapes,
            activation="quick_gelu" if conv[0] <= _QUICK_GELU_UP_TO else "gelu",
        )
    except CheckpointError as error:
        raise CheckpointError(f"{shown(file.path)}: {error}") from None
    part = Part("image_encoder", measured.config, tensors, measured.keymap(), _IDLE)
    report = part.report()
    if not report.sound:
        raise CheckpointError(
            f"{shown(file.path)} does not fit the vision tower it seems to be: {mismatch([report])}"
        )
    return part


def _config(folder: Path, config: ImagePromptConfig) -> ClipVisionConfig | None:
    """The config of the tower in a folder near the adapter; None if there is none to be read."""
    try:
        with clip_vision_part(folder, projection=_projection(config)) as part:
            assert isinstance(part.config, ClipVisionConfig)
            return part.config
    except (CheckpointError, FileError):
        return None


def _projection(config: ImagePromptConfig) -> bool | None:
    """Whether the tower's projection is needed; None takes it if it is there."""
    return None if config.reads_patches else True


def _fits(config: ImagePromptConfig, tower: ClipVisionConfig | None) -> bool:
    return tower is not None and config.input_width == _gives(config, tower)


def _gives(config: ImagePromptConfig, tower: ClipVisionConfig) -> int | None:
    return tower.width if config.reads_patches else tower.projection


def _check(adapter: Path, config: ImagePromptConfig, tower: ClipVisionConfig, what: str) -> None:
    given = _gives(config, tower)
    if given != config.input_width:
        reads = "hidden states" if config.reads_patches else "embeddings"
        raise CheckpointError(
            f"{shown(adapter.name)} reads {reads} of width {config.input_width}, but those of "
            f"{what} have {given or 'no projection'}; it needs {_named(config)}"
        )


def _named(config: ImagePromptConfig) -> str:
    table = _STATES if config.reads_patches else _EMBEDDINGS
    if config.input_width in table:
        return table[config.input_width]
    kind = "hidden states" if config.reads_patches else "projected embeddings"
    return f"the tower it was trained with, with {kind} of width {config.input_width}"


def _missing(adapter: Path, config: ImagePromptConfig, near: list[Path]) -> str:
    seen = f" (not {', '.join(shown(n) for n in near)})" if near else ""
    return (
        f"{shown(adapter.name)} needs a vision tower{seen}: {_named(config)}; give its folder or "
        "file, or put it in image_encoder beside the adapter"
    )
