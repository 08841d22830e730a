"""The JSON files of a whole CLIP: Transformers' two halves, OpenCLIP's config, the preparation."""

from pathlib import Path

from safelight.checkpoints.json_object import JsonObject, naming, read_object
from safelight.checkpoints.vision_json import PREPROCESSOR
from safelight.clip.preparation import Fit, Preparation, Resample
from safelight.errors import CheckpointError
from safelight.models.clip import IMAGE_DEVIATION, IMAGE_MEAN, ClipVisionConfig
from safelight.printable import shown

OPEN_CLIP = "open_clip_config.json"

_FILTERS: dict[object, Resample] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# What OpenCLIP builds by default, and our towers are; anything else is another network.
_TEXT = {"pool_type": "argmax", "no_causal_mask": False, "embed_cls": False}
_VISION = {
    "pool_type": "tok",
    "attentional_pool": False,
    "no_ln_pre": False,
    "final_ln_after_pool": False,
    "pos_embed_type": "learnable",
    "timm_model_name": "",
}


def half_of(json: JsonObject, half: str) -> JsonObject:
    """One half, "text" or "vision", of the config.json of a `CLIPModel`, with the outer projection.

    Older files state what differs from the defaults once more, which then counts.
    Raises CheckpointError if the config has no halves.
    """
    values: dict[str, object] = {}
    for name in (f"{half}_config", f"{half}_config_dict"):
        inner = json.values.get(name)
        values |= inner if isinstance(inner, dict) else {}
    if not values:
        raise CheckpointError(
            f"{json.source} has no {half}_config; expected the config of a whole CLIP (CLIPModel)"
        )
    values["projection_dim"] = json.whole("projection_dim", 512)
    return JsonObject(values, f"{json.source}, {half}_config")


def preparation_at(folder: Path, config: ClipVisionConfig) -> Preparation:
    """How the folder of a vision tower says pictures are prepared; CLIP's way if it does not.

    Raises CheckpointError for a way that we do not have, or another size than the tower's.
    """
    path = folder / PREPROCESSOR
    if not path.is_file():
        return Preparation(config.image_size)
    json = read_object(path)
    with naming(json):
        shorter, whole = _size(json)
        fit: Fit = "crop" if json.flag("do_center_crop", True) and shorter else "squash"
        side = _side(json, "crop_size") if fit == "crop" else whole
        if side is not None and side != config.image_size:
            raise CheckpointError(
                f"pictures are prepared to {side} pixels, but the vision tower beside sees "
                f"{config.image_size}"
            )
        return Preparation(
            config.image_size,
            _colours(json, "image_mean", IMAGE_MEAN),
            _colours(json, "image_std", IMAGE_DEVIATION),
            _filter(json),
            fit,
            None if shorter == config.image_size else shorter,
        )


def open_clip_config(folder: Path) -> tuple[JsonObject, JsonObject] | None:
    """What OpenCLIP's config in a folder says of model and preparation; None if there is none.

    Raises CheckpointError for towers built in another way than ours.
    """
    path = folder / OPEN_CLIP
    if not path.is_file():
        return None
    json = read_object(path)
    model = inner_of(json, "model_cfg")
    inner_of(model, "text_cfg").require(_TEXT, "the text tower")
    inner_of(model, "vision_cfg").require(_VISION, "the vision tower")
    return model, inner_of(json, "preprocess_cfg")


def open_clip_preparation(json: JsonObject | None, config: ClipVisionConfig) -> Preparation:
    """The preparation of OpenCLIP's `preprocess_cfg`; the usual one where it says nothing."""
    if json is None:
        return Preparation(config.image_size)
    with naming(json):
        mode, names = json.text("resize_mode", "shortest"), json.text("interpolation", "bicubic")
        if mode not in ("shortest", "squash") or names not in ("bicubic", "bilinear"):
            raise CheckpointError(
                f"pictures are resized by {shown(mode)} with {shown(names)}; expected shortest or "
                "squash, with bicubic or bilinear"
            )
        return Preparation(
            config.image_size,
            _colours(json, "mean", IMAGE_MEAN),
            _colours(json, "std", IMAGE_DEVIATION),
            "bilinear" if names == "bilinear" else "bicubic",
            "squash" if mode == "squash" else "crop",
        )


def inner_of(json: JsonObject, name: str) -> JsonObject:
    """An object within an object; empty if it is not there."""
    inner = json.values.get(name)
    return JsonObject(inner if isinstance(inner, dict) else {}, f"{json.source}, {name}")


def _size(json: JsonObject) -> tuple[int | None, int | None]:
    """(the shorter side, both sides): the one that is stated; CLIP's 224 if neither is."""
    size = json.values.get("size")
    if isinstance(size, dict):
        inner = inner_of(json, "size")
        if inner.has("shortest_edge"):
            return inner.whole("shortest_edge"), None
        height, width = inner.whole("height"), inner.whole("width")
        if height != width:
            raise CheckpointError(f"pictures are resized to {width} x {height}; expected a square")
        return None, height
    return json.whole("size", 224), None


def _side(json: JsonObject, name: str) -> int | None:
    value = json.values.get(name)
    if not isinstance(value, dict):
        return json.whole(name) if json.has(name) else None
    inner = inner_of(json, name)
    height, width = inner.whole("height"), inner.whole("width")
    if height != width:
        raise CheckpointError(f"pictures are cropped to {width} x {height}; expected a square")
    return height


def _filter(json: JsonObject) -> Resample:
    number = json.values.get("resample", 3)
    if number not in _FILTERS:
        raise CheckpointError(f"resample is {shown(number)}; expected 2 (bilinear) or 3 (bicubic)")
    return _FILTERS[number]


def _colours(json: JsonObject, name: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    if not json.has(name):
        return usual
    numbers = json.numbers(name)
    if len(numbers) != 3 or (name.endswith("std") and min(numbers) <= 0):
        raise CheckpointError(
            f"{name} is {shown(list(numbers))}; expected three numbers, std above 0"
        )
    return numbers
