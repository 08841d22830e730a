"""The JSON files of a CLIP vision tower as Transformers writes them, both ways."""

from safelight.checkpoints.json_object import LAYERS, JsonObject
from safelight.errors import CheckpointError
from safelight.models.clip import IMAGE_DEVIATION, IMAGE_MEAN, ClipVisionConfig
from safelight.printable import shown

PREPROCESSOR = "preprocessor_config.json"
_BICUBIC = 3  # Pillow's number


def vision_from_json(json: JsonObject, *, projected: bool) -> ClipVisionConfig:
    """What is in the config.json of a `CLIPVisionModel`, or the vision part of a `CLIPModel`'s.

    Raises CheckpointError for settings that our vision tower does not have.
    """
    inner = json.values.get("vision_config")
    if isinstance(inner, dict):  # a whole CLIP, whose projection is the outer one
        outer = {"projection_dim": json.whole("projection_dim", 512)}
        json = JsonObject({**inner, **outer}, f"{json.source}, vision_config")
    activation = json.text("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise CheckpointError(
            f"{json.source}: hidden_act is {shown(activation)}; expected quick_gelu or gelu"
        )
    json.require({"layer_norm_eps": 1e-5}, "the vision tower")
    config = ClipVisionConfig(
        layers=json.whole("num_hidden_layers", 12, most=LAYERS),
        width=json.whole("hidden_size", 768),
        heads=json.whole("num_attention_heads", 12),
        mlp_width=json.whole("intermediate_size", 3072),
        activation="gelu" if activation == "gelu" else "quick_gelu",
        projection=json.whole("projection_dim", 512) if projected else None,
        image_size=json.whole("image_size", 224),
        patch=json.whole("patch_size", 32),
        channels=json.whole("num_channels", 3),
    )
    if not (config.heads and config.width % config.heads == 0 and config.patch):
        raise CheckpointError(
            f"{json.source}: {config.heads} heads of a width of {config.width} and patches of "
            f"{config.patch} pixels make no vision tower"
        )
    return config


def vision_to_json(config: ClipVisionConfig) -> dict[str, object]:
    """The config.json from which Transformers builds the same vision tower."""
    projected = config.projection is not None
    return {
        "architectures": ["CLIPVisionModelWithProjection" if projected else "CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_act": config.activation,
        "projection_dim": config.projection if projected else config.width,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "num_channels": config.channels,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
    }


def preprocessor_to_json(config: ClipVisionConfig) -> dict[str, object]:
    """The preprocessor_config.json by which Transformers makes pictures fit the tower."""
    side = config.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_DEVIATION),
    }
