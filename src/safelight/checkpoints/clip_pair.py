"""A whole CLIP from disk: Transformers' folders, ours, Diffusers' models, and OpenCLIP's files."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from safelight.checkpoints.checkpoint import mismatch
from safelight.checkpoints.clip_json import (
    half_of,
    inner_of,
    open_clip_config,
    open_clip_preparation,
    preparation_at,
)
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.filling import filled
from safelight.checkpoints.folders import find_weights, open_folder
from safelight.checkpoints.json_object import JsonObject, read_object
from safelight.checkpoints.kinds import kind_of
from safelight.checkpoints.load import load_clip
from safelight.checkpoints.measure_clip import MeasuredClip, measured_clip
from safelight.checkpoints.measure_vision import MeasuredVision, measured_vision
from safelight.checkpoints.model_json import clip_from_json
from safelight.checkpoints.parts import Part, Role, Selection
from safelight.checkpoints.tokenizer_files import read_vocabulary
from safelight.checkpoints.vision_folder import FOLDER as VISION
from safelight.checkpoints.vision_folder import load_clip_vision
from safelight.checkpoints.vision_json import vision_from_json
from safelight.checkpoints.weight_file import WeightFile
from safelight.clip.pair import LOGIT_SCALE, ClipPair
from safelight.clip.preparation import Preparation
from safelight.errors import CheckpointError, FileError
from safelight.models.clip import Activation, ClipText, ClipVision
from safelight.printable import shown
from safelight.text.bpe import Tokenizer
from safelight.text.vocabulary import CLIP_VOCABULARY, Vocabulary

OPEN_CLIP_STEMS = ("open_clip_model", "open_clip_pytorch_model")
_SUFFIXES = (".safetensors", ".bin")
_TEXTS = ("text_encoder", "text_encoder_2")

# Where each naming has the text tower and the vision tower, and what stands beside, never needed.
_TRANSFORMERS = (("text_model.", "text_projection."), ("vision_model.", "visual_projection."))
_IDLE = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


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
    if (path / "config.json").is_file() and "text_config" in read_object(
        path / "config.json"
    ).values:
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


# -- files that hold both towers -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Halves:
    """A file's tensors, told apart: those of each tower under the names their rows know."""

    text: Selection
    vision: Selection
    open_clip: bool


def _of_file(
    file: WeightFile, path: Path, *, dtype: torch.dtype | None, device: torch.device
) -> ClipPair:
    """path: the file, or the folder that it is the `model` of."""
    folder = path if path.is_dir() else path.parent
    halves = _halves(file)
    notes: tuple[str, ...] = ()
    if halves.open_clip:
        stated = open_clip_config(folder)
        clip, seen, notes = _measured_open_clip(halves, stated and stated[0])
        preparation = open_clip_preparation(stated and stated[1], seen.config)
    else:
        clip, seen, notes = _transformers(halves, folder)
        preparation = preparation_at(folder, seen.config)
    modules = []
    parts: tuple[tuple[Role, Selection, MeasuredClip | MeasuredVision], ...] = (
        ("text_encoder", halves.text, clip),
        ("image_encoder", halves.vision, seen),
    )
    for role, tensors, found in parts:
        part = Part(role, found.config, tensors, found.keymap())
        report = part.report()
        if not report.sound:
            raise CheckpointError(
                f"{shown(path)} does not fit the CLIP it seems to be ({role}): {mismatch([report])}"
            )
        modules.append(part)
    text, vision = (filled(part, dtype=dtype, device=device) for part in modules)
    assert isinstance(text, ClipText) and isinstance(vision, ClipVision)
    words = read_vocabulary(folder) if path.is_dir() or not halves.open_clip else None
    return _pair(
        path, text, vision, words, preparation,
        files=(file.path,), logit_scale=_logit_scale(file), notes=notes,
    )  # fmt: skip


def _halves(file: WeightFile) -> _Halves:
    """The towers in a file. Raises CheckpointError if one is missing or a name is unknown."""
    names = file.header
    if any(name.startswith("visual.") for name in names):
        prefix = "text." if "text.token_embedding.weight" in names else ""
        text = {
            name.removeprefix(prefix): name
            for name in names
            if name.startswith(prefix) and not name.startswith(("visual.", "logit_"))
        }
        text.pop("attn_mask", None)
        found = _Halves(Selection(file, text), Selection.below(file, "visual."), open_clip=True)
        rest = [n for n in names if prefix and not n.startswith((prefix, "visual.", "logit_"))]
    else:
        text, vision = (
            {n: n for n in names if n.startswith(half) and n not in _IDLE} for half in _TRANSFORMERS
        )
        found = _Halves(Selection(file, text), Selection(file, vision), open_clip=False)
        rest = [
            n for n in names if not {n} & (text.keys() | vision.keys() | {*_IDLE, "logit_scale"})
        ]
    if not found.text.names or not found.vision.names:
        kind = kind_of({name: info.shape for name, info in names.items()})
        raise CheckpointError(
            f"{shown(file.path)} is no whole CLIP but {kind.kind}: {kind.evidence}; expected both "
            "towers in one file, or the folder of a model with text_encoder and image_encoder"
        )
    if rest:
        raise CheckpointError(
            f"{shown(file.path)} holds {len(rest)} tensors that no CLIP has, such as "
            f"{shown(rest[0])}"
        )
    return found


def _transformers(
    halves: _Halves, folder: Path
) -> tuple[MeasuredClip, MeasuredVision, tuple[str, ...]]:
    where = shown(halves.text.file.path)
    with _about(where):
        clip = measured_clip(halves.text.shapes, projection=True)
        seen = measured_vision(halves.vision.shapes, activation=clip.config.activation)
    if not (folder / "config.json").is_file():
        note = (
            f"{where}: there is no config.json beside, so the activation "
            f"({clip.config.activation}) and the number of heads are guesses from the widths"
        )
        return clip, seen, (note,)
    json = read_object(folder / "config.json")
    clip = replace(clip, config=clip_from_json(half_of(json, "text"), projected=True))
    own = vision_from_json(half_of(json, "vision"), projected=True)
    return clip, replace(seen, config=own), ()


def _measured_open_clip(
    halves: _Halves, stated: JsonObject | None
) -> tuple[MeasuredClip, MeasuredVision, tuple[str, ...]]:
    where = shown(halves.text.file.path)
    quick = stated is not None and stated.flag("quick_gelu", False)
    activation: Activation = "quick_gelu" if quick else "gelu"
    head_width = None if stated is None else inner_of(stated, "vision_cfg").whole("head_width", 64)
    with _about(where):
        clip = measured_clip(halves.text.shapes, projection=True)
        seen = measured_vision(halves.vision.shapes, activation=activation, head_width=head_width)
    config = replace(clip.config, activation=activation)
    if stated is not None:
        config = replace(config, heads=inner_of(stated, "text_cfg").whole("heads", 8))
        return replace(clip, config=config), seen, ()
    note = (
        f"{where}: no open_clip_config.json lies beside, so GELU is a guess; weights trained with "
        "quick-GELU (OpenAI's own, DFN) need it there"
    )
    return replace(clip, config=config), seen, (note,)


def _logit_scale(file: WeightFile) -> float:
    """The stored scale, at most where training holds it; that if none is stored."""
    if "logit_scale" not in file.header:
        return LOGIT_SCALE
    value = file.read("logit_scale")
    number = float(value) if value.numel() == 1 else math.nan
    if not math.isfinite(number):
        raise FileError(f"{shown(file.path)}: logit_scale is not one finite number")
    return min(number, LOGIT_SCALE)


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


@contextmanager
def _about(where: str) -> Iterator[None]:
    """Put the name of the file before a CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
