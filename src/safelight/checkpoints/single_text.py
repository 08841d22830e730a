"""The text encoders of a model in the original layout: where they are, and how they are used."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from safelight.checkpoints.json_object import JsonObject
from safelight.checkpoints.measure_clip import (
    IDLE,
    MeasuredClip,
    clip_naming,
    measured_clip,
    without_last_block,
)
from safelight.checkpoints.model_json import clip_from_json, is_projected
from safelight.checkpoints.parts import Part, Role, Selection
from safelight.checkpoints.vocabulary_json import vocabulary_from_json
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError
from safelight.families import REFINER_TEXT, SD1_TEXT, SD2_TEXT, SDXL_TEXT
from safelight.models.clip import ClipTextConfig
from safelight.models.unet import UNetConfig
from safelight.printable import shown
from safelight.text.spec import TextSpec
from safelight.text.vocabulary import CLIP_VOCABULARY, Vocabulary


@dataclass(frozen=True, slots=True)
class Place:
    """Where the text encoders of a base are, and how it uses them."""

    prefixes: tuple[str, ...]
    spec: TextSpec


XL = Place(("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."), SDXL_TEXT)
REFINER = Place(("conditioner.embedders.0.model.",), REFINER_TEXT)
SD1 = Place(("cond_stage_model.transformer.",), SD1_TEXT)
SD2 = Place(("cond_stage_model.model.",), SD2_TEXT)
ROLES: tuple[Role, ...] = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class FoundText:
    """The text side of a file: its encoders as parts, and how a condition is made of them."""

    place: Place
    parts: tuple[Part, ...]
    spec: TextSpec


def has_vector_of_text(backbone: UNetConfig) -> bool:
    """Whether the U-Net's vector is pooled text and sizes, as in XL and its refiner."""
    return backbone.vector_width is not None and backbone.vector_module == "add_embedding"


def place_for(backbone: UNetConfig) -> Place:
    """Where the text encoders of such a U-Net are expected."""
    if has_vector_of_text(backbone):
        return REFINER if backbone.context_width == 1280 else XL
    return SD2 if backbone.linear_projection else SD1


def find_text(
    file: WeightFile, backbone: UNetConfig, configs: Mapping[str, JsonObject]
) -> FoundText:
    """The text encoders of a single file. Raises CheckpointError if they are absent or do not fit.

    configs: what the file itself says of its parts.
    """
    place = _place(file, backbone)
    pooled = has_vector_of_text(backbone)
    last = len(place.prefixes) - 1
    roles = ROLES[: len(place.prefixes)]  # a family has one or two encoders
    parts = tuple(
        _part(role, Selection.below(file, prefix), configs.get(role), pooled and i == last)
        for i, (role, prefix) in enumerate(zip(roles, place.prefixes, strict=True))
    )
    vocabulary = vocabulary_from_json(configs.get("tokenizer"))
    spec = spec_of(place.spec, parts, backbone, vocabulary, shown(file.path))
    return FoundText(place, parts, spec)


def _place(file: WeightFile, backbone: UNetConfig) -> Place:
    for place in (XL, REFINER, SD1, SD2):
        found = [clip_naming(Selection.below(file, prefix).shapes) for prefix in place.prefixes]
        if all(found):
            return place
    expected = " and ".join(f"{prefix}*" for prefix in place_for(backbone).prefixes)
    raise CheckpointError(
        f"{shown(file.path)} holds a U-Net but no text encoder (expected {expected}); it is a "
        "part of a model: get the full checkpoint, or the model as a Diffusers folder"
    )


def _part(role: Role, tensors: Selection, stated: JsonObject | None, pooled: bool) -> Part:
    clip, idle = _measured(tensors, pooled)
    if stated is not None:
        with_matrix = is_projected(stated) and "text_projection.weight" in tensors.names
        clip = replace(clip, config=clip_from_json(stated, projected=pooled or with_matrix))
    return Part(role, clip.config, tensors, clip.keymap(), (*IDLE, *idle))


def _measured(tensors: Selection, pooled: bool) -> tuple[MeasuredClip, tuple[str, ...]]:
    clip = measured_clip(tensors.shapes, projection=pooled)
    if pooled:
        return clip, ()
    complete = "text_projection" in tensors.names or clip.config.layers == 24
    if clip.naming == "open_clip" and complete:
        return without_last_block(clip)
    return clip, ("text_projection",)


def spec_of(
    base: TextSpec,
    parts: tuple[Part, ...],
    backbone: UNetConfig,
    vocabulary: Vocabulary,
    source: str,
) -> TextSpec:
    """The base's way with text, with these encoders and this vocabulary.

    Raises CheckpointError if they do not give what the U-Net reads, or do not belong together.
    """
    encoders = [part.config for part in parts if isinstance(part.config, ClipTextConfig)]
    roles = tuple(
        replace(role, encoder=encoder) for role, encoder in zip(base.roles, encoders, strict=True)
    )
    for part, encoder in zip(parts, encoders, strict=True):
        _check_rows(part.role, encoder.vocabulary, vocabulary, source)
    width = sum(role.encoder.width for role in roles)
    if width != backbone.context_width:
        raise CheckpointError(
            f"{source}: the U-Net reads text {backbone.context_width} wide, but the text encoders "
            f"give {width}; these parts do not belong together"
        )
    pooled = next((role.encoder.projection for role in roles if role.pooled), None)
    size_width = _size_width(base, backbone, pooled, source)
    return replace(base, roles=roles, size_width=size_width, vocabulary=vocabulary)


def _check_rows(role: str, rows: int, vocabulary: Vocabulary, source: str) -> None:
    """Refuse an encoder of other tokens. Encoders of CLIP's may have rows added behind them."""
    if rows == vocabulary.size or (vocabulary == CLIP_VOCABULARY and rows > vocabulary.size):
        return
    own = "CLIP's" if vocabulary == CLIP_VOCABULARY else "the"
    raise CheckpointError(
        f"{source}: the {role} reads {rows} tokens, but {own} tokenizer has {vocabulary.size}; "
        "they do not belong together: a model with a vocabulary of its own needs its tokenizer"
    )


def _size_width(base: TextSpec, backbone: UNetConfig, pooled: int | None, source: str) -> int:
    """Width of the sinusoid of each size: what the vector holds besides the pooled text."""
    numbers = {"none": 0, "sdxl": 6, "refiner": 5}[base.vector]
    if not numbers:
        return base.size_width
    width, text = backbone.vector_width or 0, pooled or 0
    if width <= text or (width - text) % numbers:
        raise CheckpointError(
            f"{source}: the U-Net's vector is {width} wide and the pooled text {text}; the rest "
            f"does not divide into {numbers} sizes"
        )
    return (width - text) // numbers
