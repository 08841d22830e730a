"""Both towers of a CLIP in one weights file, found and checked: whichever names they have."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from safelight.checkpoints.checkpoint import mismatch
from safelight.checkpoints.clip_json import (
    half_of,
    inner_of,
    open_clip_config,
    open_clip_preparation,
    preparation_at,
)
from safelight.checkpoints.json_object import JsonObject, read_object
from safelight.checkpoints.kinds import kind_of
from safelight.checkpoints.measure_clip import MeasuredClip, measured_clip
from safelight.checkpoints.measure_vision import MeasuredVision, measured_vision
from safelight.checkpoints.model_json import clip_from_json
from safelight.checkpoints.parts import Part, Role, Selection
from safelight.checkpoints.tokenizer_files import read_vocabulary
from safelight.checkpoints.vision_json import vision_from_json
from safelight.checkpoints.weight_file import WeightFile
from safelight.clip.pair import LOGIT_SCALE
from safelight.clip.preparation import Preparation
from safelight.errors import CheckpointError, FileError
from safelight.models.clip import Activation
from safelight.printable import shown
from safelight.text.vocabulary import Vocabulary

# Where Transformers' names have the text tower and the vision tower, and what is never needed.
_TRANSFORMERS = (("text_model.", "text_projection."), ("vision_model.", "visual_projection."))
_IDLE = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


@dataclass(frozen=True)
class FoundClip:
    """A CLIP in a file: its towers, not read yet, and what stands beside them.

    vocabulary: None where none is stated, which is CLIP's. notes: guesses.
    """

    parts: tuple[Part, Part]  # text, vision
    preparation: Preparation
    vocabulary: Vocabulary | None
    logit_scale: float
    notes: tuple[str, ...]


def found_clip(file: WeightFile, folder: Path) -> FoundClip:
    """The CLIP in a weights file, with what the JSON files of a folder say of it.

    Raises CheckpointError if the file does not hold both towers, holds more, or does not fit.
    """
    halves = _halves(file)
    if halves.open_clip:
        stated = open_clip_config(folder)
        clip, seen, notes = _measured_open_clip(halves, stated and stated[0])
        preparation = open_clip_preparation(stated and stated[1], seen.config)
        vocabulary = None
    else:
        clip, seen, notes = _transformers(halves, folder)
        preparation = preparation_at(folder, seen.config)
        vocabulary = read_vocabulary(folder)
    return FoundClip(
        (_part("text_encoder", halves.text, clip), _part("image_encoder", halves.vision, seen)),
        preparation,
        vocabulary,
        _logit_scale(file),
        notes,
    )


def _part(role: Role, tensors: Selection, found: MeasuredClip | MeasuredVision) -> Part:
    part = Part(role, found.config, tensors, found.keymap())
    report = part.report()
    if not report.sound:
        raise CheckpointError(
            f"{shown(tensors.file.path)} does not fit the CLIP it seems to be ({role}): "
            f"{mismatch([report])}"
        )
    return part


@dataclass(frozen=True, slots=True)
class _Halves:
    """A file's tensors, told apart: those of each tower under the names their rows know."""

    text: Selection
    vision: Selection
    open_clip: bool


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


@contextmanager
def _about(where: str) -> Iterator[None]:
    """Put the name of the file before a CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
