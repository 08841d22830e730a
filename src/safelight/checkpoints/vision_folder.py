"""CLIP vision towers in folders as Transformers writes them: read alone, and written alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from safelight.checkpoints.checkpoint import mismatch
from safelight.checkpoints.filling import filled
from safelight.checkpoints.folders import open_folder
from safelight.checkpoints.json_object import read_object
from safelight.checkpoints.keymap import KeyMap, Row
from safelight.checkpoints.parts import Part, Selection
from safelight.checkpoints.stock import entries, stock_of_module
from safelight.checkpoints.vision_json import (
    PREPROCESSOR,
    preprocessor_to_json,
    vision_from_json,
    vision_to_json,
)
from safelight.checkpoints.weight_file import WeightFile
from safelight.checkpoints.writing import write_json, write_shards
from safelight.errors import CheckpointError, FileError
from safelight.models.clip import ClipVision
from safelight.printable import shown
from safelight.writing import make_folder, whole_folder

FOLDER = "image_encoder"
# What a whole CLIP's file holds beside the vision tower.
_IDLE = ("vision_model.embeddings.position_ids", "embeddings.position_ids", "logit_scale")
_IDLE_TEXT = ("text_model.", "text_projection.")


def load_clip_vision(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    projection: bool = True,
    variant: str | None = None,
) -> ClipVision:
    """The CLIP vision tower of a model's folder, or in a folder of its own, alone.

    path: a model's folder with `image_encoder/`, or the folder of a vision tower or a whole CLIP.
    projection: whether the matrix that makes embeddings comparable with texts is wanted.
    Raises FileError, or CheckpointError if there is no vision tower or no such matrix.
    """
    with clip_vision_part(Path(path), projection=projection, variant=variant) as part:
        module = filled(part, dtype=dtype, device=torch.device(device))
    assert isinstance(module, ClipVision)
    return module


@contextmanager
def clip_vision_part(
    path: Path, *, projection: bool | None = None, variant: str | None = None
) -> Iterator[Part]:
    """The vision tower of a folder, found and checked but not read; see `load_clip_vision`.

    projection: None takes the matrix if it is there.
    """
    folder = _folder(path)
    with open_folder(folder, "model", variant) as file:
        matrix = "visual_projection.weight" in file.header
        part = _part(folder, file, matrix if projection is None else projection)
        report = part.report()
        if not report.sound:
            raise CheckpointError(
                f"{shown(folder)} does not fit the vision tower it seems to be: "
                f"{mismatch([report])}"
            )
        yield part


def save_clip_vision(
    tower: ClipVision,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    max_file_bytes: int | None = None,
) -> None:
    """Write a vision tower as a folder that Transformers and `load_clip_vision` open.

    How pictures are prepared stands beside, so `CLIPImageProcessor` opens the same folder. The
    folder must be new or empty. Raises OutputError and RequestError as `save` does.
    """
    target = Path(folder)
    stock = stock_of_module("image_encoder", tower.config, tower)
    written = entries(stock, (Row("", ""),), dtype=dtype)
    make_folder(target.parent)
    with whole_folder(target, sum(entry.nbytes for entry in written)) as inner:
        write_shards(inner, "model", written, {"format": "pt"}, max_file_bytes)
        write_json(inner / "config.json", vision_to_json(tower.config))
        write_json(inner / PREPROCESSOR, preprocessor_to_json(tower.config))


def has_clip_vision(folder: Path) -> bool:
    """Whether a model's folder holds a vision tower."""
    return (folder / FOLDER / "config.json").is_file()


def _folder(path: Path) -> Path:
    for folder in (path / FOLDER, path):
        if (folder / "config.json").is_file():
            return folder
    raise FileError(
        f"{shown(path)} holds no vision tower: neither {FOLDER}/config.json nor config.json"
    )


def _part(folder: Path, file: WeightFile, projection: bool) -> Part:
    tensors = Selection.below(file)
    bare = "embeddings.patch_embedding.weight" in tensors.names
    if not bare and "vision_model.embeddings.patch_embedding.weight" not in tensors.names:
        raise CheckpointError(
            f"{shown(folder)} holds no CLIP vision tower: there is no patch embedding"
        )
    config = vision_from_json(read_object(folder / "config.json"), projected=projection)
    rows = [Row("" if bare else "vision_model", "vision_model")]
    if bare:
        modules = ("embeddings", "pre_layrnorm", "encoder", "post_layernorm")
        rows = [Row(module, f"vision_model.{module}") for module in modules]
    if projection:
        rows.append(Row("visual_projection", "visual_projection"))
    idle = _IDLE + _IDLE_TEXT + (() if projection else ("visual_projection.",))
    return Part("image_encoder", config, tensors, KeyMap(rows), idle)
