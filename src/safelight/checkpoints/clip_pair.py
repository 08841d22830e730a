"""A whole CLIP from disk: Transformers' folders, ours, Diffusers' models, and OpenCLIP's files."""

import math
import os
from dataclasses import replace
from pathlib import Path

import torch

from safelight.checkpoints.clip_file import found_clip
from safelight.checkpoints.clip_json import preparation_at
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.filling import filled
from safelight.checkpoints.folders import find_weights, open_folder
from safelight.checkpoints.json_object import read_object
from safelight.checkpoints.load import load_clip
from safelight.checkpoints.tokenizer_files import read_vocabulary
from safelight.checkpoints.vision_folder import FOLDER as VISION
from safelight.checkpoints.vision_folder import load_clip_vision
from safelight.checkpoints.weight_file import WeightFile
from safelight.clip.pair import LOGIT_SCALE, ClipPair
from safelight.clip.preparation import Preparation
from safelight.errors import CheckpointError, FileError
from safelight.models.clip import ClipText, ClipVision
from safelight.printable import shown
from safelight.text.bpe import Tokenizer
from safelight.text.vocabulary import CLIP_VOCABULARY, Vocabulary

OPEN_CLIP_STEMS = ("open_clip_model", "open_clip_pytorch_model")
_SUFFIXES = (".safetensors", ".bin")
_TEXTS = ("text_encoder", "text_encoder_2")


def load_clip_pair(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    variant: str | None = None,
) -> ClipPair:
    """The CLIP in a folder or file: both towers, the tokenizer and the preparation of pictures.

    path: a folder of Transformers' `CLIPModel`; a model's folder with `text_encoder`,
    `image_encoder` and `tokenizer`; OpenCLIP's weights file, or the folder it lies in with its
    `open_clip_config.json`. dtype, device, variant: as for `load`.
    Raises FileError if something cannot be read, CheckpointError if it is no whole CLIP: a tower
    is missing or has no projection, they end in different spaces, or the tokenizer does not fit.
    """
    path, where = Path(path), torch.device(device)
    if not path.is_dir():
        with open_weights(path) as file:
            return _of_file(file, path, dtype=dtype, device=where)
    if (path / VISION / "config.json").is_file():
        return _of_parts(path, dtype=dtype, device=where, variant=variant)
    if _is_whole(path):
        with open_folder(path, "model", variant) as file:
            pair = _of_file(file, path, dtype=dtype, device=where)
            return replace(pair, files=tuple(find_weights(path, "model", variant)))
    single = _open_clip_file(path)
    if single is None:
        raise FileError(
            f"{shown(path)} holds no whole CLIP: expected a folder with {VISION}/ and text_encoder/"
            ", the folder of a Transformers CLIPModel, or OpenCLIP's open_clip_model.safetensors"
        )
    with open_weights(single) as file:
        return replace(_of_file(file, single, dtype=dtype, device=where), name=_name(path))


def clip_pair_with(
    text: ClipText, tokenizer: Tokenizer, path: str | os.PathLike[str], *, vision: ClipVision
) -> ClipPair:
    """A text tower and the vision tower of a folder, both loaded already, as a pair.

    path: where `load_clip_vision` found the tower; how pictures are prepared is read from there.
    Raises CheckpointError if the towers do not end in one space, or the preparation is another's.
    """
    path = Path(path)
    inner = path / VISION if (path / VISION / "config.json").is_file() else path
    prepared_at = _prepared_at(path) if inner != path else inner
    return _pair(
        path, text, vision, tokenizer.vocabulary, preparation_at(prepared_at, vision.config),
        files=tuple(find_weights(inner, "model")), logit_scale=_stated_scale(inner / "config.json"),
    )  # fmt: skip


def holds_clip_pair(path: Path) -> bool:
    """Whether a file or folder seems to hold both towers; nothing but JSON is read."""
    if not path.is_dir():
        return path.is_file()
    if (path / VISION / "config.json").is_file():
        return any((path / role / "config.json").is_file() for role in _TEXTS)
    return _is_whole(path) or _open_clip_file(path) is not None


# -- folders of parts ------------------------------------------------------------------------------


def _of_parts(
    folder: Path, *, dtype: torch.dtype | None, device: torch.device, variant: str | None
) -> ClipPair:
    vision = load_clip_vision(folder, dtype=dtype, device=device, variant=variant)
    width = vision.config.projection
    refused = []
    for role in _TEXTS:
        inner = folder / role
        if not (inner / "config.json").is_file():
            continue
        try:
            text = load_clip(inner, dtype=dtype, device=device, variant=variant)
        except CheckpointError as error:  # SDXL's first encoder has no projection, its second has
            refused.append(str(error))
            continue
        if text.config.projection == width:
            words = read_vocabulary(folder / role.replace("text_encoder", "tokenizer"))
            weights = [
                *find_weights(inner, "model", variant),
                *find_weights(folder / VISION, "model", variant),
            ]
            return _pair(
                folder, text, vision, words, preparation_at(_prepared_at(folder), vision.config),
                files=tuple(weights), logit_scale=_stated_scale(folder / VISION / "config.json"),
            )  # fmt: skip
        refused.append(f"{role} ends in {text.config.projection} numbers, {VISION} in {width}")
    why = "; ".join(refused) or f"there is no {' or '.join(_TEXTS)}"
    raise CheckpointError(
        f"{shown(folder)} has a vision tower but no text tower that was trained with it: {why}"
    )


def _prepared_at(folder: Path) -> Path:
    """Where the preparation is stated: beside the tower, or where Diffusers keeps it."""
    beside = folder / VISION
    elsewhere = folder / "feature_extractor"
    has = (beside / "preprocessor_config.json").is_file()
    return beside if has or not elsewhere.is_dir() else elsewhere


def _of_file(
    file: WeightFile, path: Path, *, dtype: torch.dtype | None, device: torch.device
) -> ClipPair:
    """path: the file, or the folder that it is the `model` of."""
    found = found_clip(file, path if path.is_dir() else path.parent)
    text, vision = (filled(part, dtype=dtype, device=device) for part in found.parts)
    assert isinstance(text, ClipText) and isinstance(vision, ClipVision)
    return _pair(
        path, text, vision, found.vocabulary, found.preparation,
        files=(file.path,), logit_scale=found.logit_scale, notes=found.notes,
    )  # fmt: skip


def _stated_scale(config: Path) -> float:
    """The scale of a folder of parts, whose weights files have no place for it."""
    json = read_object(config)
    number = json.number("logit_scale", LOGIT_SCALE)
    if not math.isfinite(number):
        raise CheckpointError(f"{json.source}: logit_scale is {shown(number)}; expected its log")
    return min(number, LOGIT_SCALE)


# -- both ------------------------------------------------------------------------------------------


def _pair(
    path: Path,
    text: ClipText,
    vision: ClipVision,
    words: Vocabulary | None,
    preparation: Preparation,
    *,
    files: tuple[Path, ...],
    logit_scale: float = LOGIT_SCALE,
    notes: tuple[str, ...] = (),
) -> ClipPair:
    try:
        return ClipPair(
            name=_name(path),
            text=text,
            vision=vision,
            tokenizer=Tokenizer(vocabulary=words or CLIP_VOCABULARY),
            preparation=preparation,
            logit_scale=logit_scale,
            files=files,
            notes=notes,
        )
    except ValueError as error:
        raise CheckpointError(f"{shown(path)}: {error}; its parts do not belong together") from None


def _is_whole(folder: Path) -> bool:
    """Whether a folder is of Transformers' `CLIPModel`."""
    config = folder / "config.json"
    return config.is_file() and "text_config" in read_object(config).values


def _name(path: Path) -> str:
    return path.resolve().name


def _open_clip_file(folder: Path) -> Path | None:
    files = (folder / (stem + suffix) for suffix in _SUFFIXES for stem in OPEN_CLIP_STEMS)
    return next((file for file in files if file.is_file()), None)
