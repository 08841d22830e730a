"""The `config.json` of Diffusers' ControlNets, unions of them, and T2I-Adapters, both ways."""

import math
from collections.abc import Mapping

from safelight.checkpoints.json_object import LAYERS, JsonObject, naming
from safelight.checkpoints.unet_json import unet_from_json, unet_to_json
from safelight.errors import CheckpointError
from safelight.models.controlnet import ControlNetConfig, UnionConfig
from safelight.models.t2i_adapter import T2IAdapterConfig
from safelight.printable import shown

CONTROLNET, UNION, ADAPTER = "ControlNetModel", "ControlNetUnionModel", "T2IAdapter"
CLASSES = (CONTROLNET, UNION, ADAPTER)

_UP = {"DownBlock2D": "UpBlock2D", "CrossAttnDownBlock2D": "CrossAttnUpBlock2D"}
_WAY_UP_ONLY = ("up_block_types", "out_channels", "reverse_transformer_layers_per_block")
_UNKNOWN_TO_THEM = (
    *_WAY_UP_ONLY,
    *("sample_size", "time_cond_proj_dim", "center_input_sample", "dual_cross_attention"),
    *("conv_in_kernel", "conv_out_kernel", "attention_type", "class_embeddings_concat"),
    *("resnet_out_scale_factor", "resnet_skip_time_act", "cross_attention_norm"),
    *("time_embedding_type",),
)
_ADAPTERS: Mapping[str, tuple[bool, tuple[bool, ...]]] = {  # light?, which stages halve
    "full_adapter": (False, (False, True, True, True)),
    "light_adapter": (True, (False, True, True, True)),
    "full_adapter_xl": (False, (False, False, True, False)),
}


def control_from_json(json: JsonObject) -> ControlNetConfig | T2IAdapterConfig:
    """The config in a control network's config.json, by its `_class_name`.

    Raises CheckpointError for another class, or an option that ours do not have.
    """
    kind = json.text("_class_name", "")
    if kind == ADAPTER:
        return _adapter(json)
    if kind not in (CONTROLNET, UNION):
        raise CheckpointError(
            f"{json.source} is of {shown(kind) or 'no class'}; expected {', '.join(CLASSES)}"
        )
    encoder = unet_from_json(_as_unet(json))
    order = json.text("controlnet_conditioning_channel_order", "rgb")
    if order not in ("rgb", "bgr"):
        raise CheckpointError(
            f"{json.source}: controlnet_conditioning_channel_order is {shown(order)}; "
            "expected rgb or bgr"
        )
    name = "conditioning_embedding_out_channels"
    default = (16, 32, 96, 256) if kind == CONTROLNET else (48, 96, 192, 384)
    with naming(json):
        return ControlNetConfig(
            encoder,
            channels=json.whole("conditioning_channels", 3),
            widths=json.wholes(name) if json.has(name) else default,
            global_pool=json.flag("global_pool_conditions", False),
            bgr=order == "bgr",
            union=_union(json) if kind == UNION else None,
        )


def control_to_json(
    config: ControlNetConfig | T2IAdapterConfig, *, size_width: int = 256
) -> dict[str, object]:
    """The config.json from which Diffusers builds the same control network.

    size_width: of the sinusoid of each size in the vector.
    Raises CheckpointError for a T2I-Adapter of another make than the published.
    """
    if isinstance(config, T2IAdapterConfig):
        return _adapter_to_json(config)
    json = unet_to_json(config.encoder, sample_size=0, size_width=size_width)
    own: dict[str, object] = {
        **{name: value for name, value in json.items() if name not in _UNKNOWN_TO_THEM},
        "_class_name": CONTROLNET,
        "conditioning_channels": config.channels,
        "conditioning_embedding_out_channels": list(config.widths),
        "controlnet_conditioning_channel_order": "bgr" if config.bgr else "rgb",
        "global_pool_conditions": config.global_pool,
    }
    if config.union is None:
        return own
    del own["mid_block_type"]  # always with attention
    return own | {
        "_class_name": UNION,
        "num_control_type": config.union.types,
        "num_trans_channel": config.union.width,
        # A token sees only itself, so the number of heads does not matter: Diffusers' where it may.
        "num_trans_head": math.gcd(8, config.union.width),
        "num_trans_layer": config.union.layers,
        "num_proj_channel": config.encoder.channels[0],
        "addition_time_embed_dim": config.union.sinusoid,
    }


def _as_unet(json: JsonObject) -> JsonObject:
    """The same settings as a U-Net's, with a way up that mirrors the way down."""
    values = {name: value for name, value in json.values.items() if name not in _WAY_UP_ONLY}
    down = json.texts("down_block_types")
    values["up_block_types"] = [_UP.get(kind, kind) for kind in reversed(down)]
    values["_class_name"] = "UNet2DConditionModel"
    layers = json.values.get("transformer_layers_per_block", 1)
    if isinstance(layers, list) and any(isinstance(level, list) for level in layers):
        values["reverse_transformer_layers_per_block"] = [
            [*level, level[-1]] if isinstance(level, list) and level else level
            for level in reversed(layers)
        ]
    return JsonObject(values, json.source)


def _union(json: JsonObject) -> UnionConfig:
    return UnionConfig(
        types=json.whole("num_control_type", 6),
        width=json.whole("num_trans_channel", 320),
        layers=json.whole("num_trans_layer", 1, most=LAYERS),
        sinusoid=json.whole("addition_time_embed_dim", 256),
    )


def _adapter(json: JsonObject) -> T2IAdapterConfig:
    kind = json.text("adapter_type", "full_adapter")
    if kind not in _ADAPTERS:
        raise CheckpointError(
            f"{json.source}: adapter_type is {shown(kind)}; expected {', '.join(_ADAPTERS)}"
        )
    light, down = _ADAPTERS[kind]
    channels = json.wholes("channels") if json.has("channels") else (320, 640, 1280, 1280)
    channels = (*channels, channels[-1]) if light and channels else channels
    # more widths than three halve, too
    down = (*down, *(True,) * (len(channels) - len(down)))[: len(channels)]
    with naming(json):
        return T2IAdapterConfig(
            channels=channels,
            down=down,
            blocks=json.whole("num_res_blocks", 2, most=LAYERS),
            pictures=json.whole("in_channels", 3),
            unshuffle=json.whole("downscale_factor", 8),
            light=light,
        )


def _adapter_to_json(config: T2IAdapterConfig) -> dict[str, object]:
    for kind, (light, down) in _ADAPTERS.items():
        if (light, down) == (config.light, config.down):
            channels = config.channels[:-1] if light else config.channels
            return {
                "_class_name": ADAPTER,
                "adapter_type": kind,
                "channels": list(channels),
                "downscale_factor": config.unshuffle,
                "in_channels": config.pictures,
                "num_res_blocks": config.blocks,
            }
    raise CheckpointError(
        "Diffusers has no T2I-Adapter of these halvings: "
        f"{config.down}{' (light)' if config.light else ''}"
    )
