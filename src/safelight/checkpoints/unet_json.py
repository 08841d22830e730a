"""The `config.json` of a Diffusers U-Net, both ways."""

from typing import Literal

from safelight.checkpoints.json_object import LAYERS, MOST, Json, JsonObject, naming
from safelight.errors import CheckpointError
from safelight.families import without_idle_options
from safelight.models.unet import UNetConfig
from safelight.printable import shown

# Options that no model of this family uses; another value would change what is computed.
_FIXED: Json = {
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
_MOST_LAYERS = 1000  # SDXL has 75
_DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
_UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}


def unet_from_json(json: JsonObject) -> UNetConfig:
    """The config in a `UNet2DConditionModel`'s config.json.

    Raises CheckpointError for an option or a block type that our U-Net does not have.
    """
    json.require({"_class_name": "UNet2DConditionModel"} | dict(_FIXED), "the U-Net")
    channels = json.wholes("block_out_channels")
    levels = len(channels)
    down = _attentive(json, "down_block_types", _DOWN, levels)
    up = _attentive(json, "up_block_types", _UP, levels)
    blocks = _wholes(json, "layers_per_block", levels, 2, most=LAYERS)
    depths = _depths(json, down, blocks)
    up_depths = _up_depths(json, up, blocks, depths)
    _check_layers(json, depths, up_depths)
    implied = tuple((level[0],) * (len(level) + 1) for level in reversed(depths))
    even = all(len(set(level)) == 1 for level in depths)
    vector_width, vector_module, noise_levels = _embeddings(json)
    guidance_width = json.whole("time_cond_proj_dim") if json.has("time_cond_proj_dim") else None
    groups = json.whole("norm_num_groups", 32)
    if not groups:
        raise CheckpointError(f"{json.source}: norm_num_groups is 0; expected 1 or more")
    with naming(json):
        config = UNetConfig(
            in_channels=json.whole("in_channels", 4),
            out_channels=json.whole("out_channels", 4),
            channels=channels,
            depths=depths,
            up_depths=None if even and up_depths == implied else up_depths,
            mid_depth=_mid_depth(json),
            # The field's name is a mistake of 2022: it holds the number of heads.
            heads=_wholes(
                json,
                "num_attention_heads" if json.has("num_attention_heads") else "attention_head_dim",
                levels,
                8,
            ),
            context_width=_context_width(json, levels),
            linear_projection=json.flag("use_linear_projection", False),
            cross_only_levels=_cross_only_levels(json, levels),
            vector_width=vector_width,
            vector_module=vector_module,
            noise_levels=noise_levels,
            guidance_width=guidance_width,
            groups=groups,
            norm_eps=json.number("norm_eps", 1e-5),
        )
    return without_idle_options(config)


def unet_to_json(
    config: UNetConfig, *, sample_size: int, size_width: int = 256
) -> dict[str, object]:
    """The config.json from which Diffusers builds the same U-Net.

    sample_size: side of the pictures it was trained on, in latents. size_width: of the sinusoid of
    each size in the vector.
    """
    config = without_idle_options(config)  # as it is read back
    even = all(len(set(level)) == 1 for level in config.depths)
    mids = {None: None, 0: "UNetMidBlock2D"}
    uneven = config.up_depths is not None
    vector = config.vector_width is not None
    added = vector and config.vector_module == "add_embedding"
    return {
        "_class_name": "UNet2DConditionModel",
        **{name: value for name, value in _FIXED.items() if value is not None},
        "sample_size": sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.channels),
        "down_block_types": [
            "CrossAttnDownBlock2D" if level[0] else "DownBlock2D" for level in config.depths
        ],
        "mid_block_type": mids.get(config.mid_depth, "UNetMidBlock2DCrossAttn"),
        "up_block_types": [
            "CrossAttnUpBlock2D" if level[0] else "UpBlock2D" for level in config.depths_up
        ],
        "layers_per_block": _simplest([len(level) for level in config.depths]),
        "transformer_layers_per_block": _down_layers(config, even=even),
        "reverse_transformer_layers_per_block": (
            [
                max(level[0], 1) if len(set(level)) == 1 else list(level)
                for level in config.depths_up
            ]
            if uneven
            else None
        ),
        "attention_head_dim": _simplest(list(config.heads)),
        "cross_attention_dim": config.context_width,
        "use_linear_projection": config.linear_projection,
        "only_cross_attention": (
            [level in config.cross_only_levels for level in range(config.levels)]
            if config.cross_only_levels
            else False
        ),
        "addition_embed_type": "text_time" if added else None,
        "addition_time_embed_dim": size_width if added else None,
        "class_embed_type": "projection" if vector and not added else None,
        "projection_class_embeddings_input_dim": config.vector_width,
        "num_class_embeds": config.noise_levels,
        "time_cond_proj_dim": config.guidance_width,
        "norm_num_groups": config.groups,
        "norm_eps": config.norm_eps,
        "upcast_attention": False,
    }


def _down_layers(config: UNetConfig, *, even: bool) -> object:
    """Depths by level; Diffusers takes the middle's from the last entry, needed or not there."""
    levels: list[object] = [
        max(level[0], 1) if even or len(set(level)) == 1 else list(level) for level in config.depths
    ]
    if config.mid_depth:
        last = config.depths[-1]
        if last[0] and set(last) != {config.mid_depth}:
            raise CheckpointError(
                f"the Diffusers layout cannot say that the middle is {config.mid_depth} deep "
                f"where the last level is {last}; save in the original layout instead"
            )
        if not last[0]:
            levels[-1] = config.mid_depth
    return levels[0] if len(set(map(str, levels))) == 1 else levels


def _simplest(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values


def _attentive(json: JsonObject, name: str, known: dict[str, bool], levels: int) -> list[bool]:
    """For each level, whether its blocks have attention."""
    types = json.texts(name)
    for kind in types:
        if kind not in known:
            raise CheckpointError(
                f"{json.source}: {shown(kind)} in {name} is no block of our U-Net; "
                f"it has {', '.join(known)}"
            )
    if len(types) != levels:
        raise CheckpointError(
            f"{json.source}: {name} has {len(types)} entries and block_out_channels {levels}"
        )
    return [known[kind] for kind in types]


def _wholes(
    json: JsonObject, name: str, count: int, default: int, *, most: int = MOST
) -> tuple[int, ...]:
    return json.wholes(name, count, most=most) if json.has(name) else (default,) * count


def _check_layers(json: JsonObject, *ways: tuple[tuple[int, ...], ...]) -> None:
    """Refuse more blocks and layers than anybody would train: each costs memory and time before it
    is known whether the weights have it."""
    layers = sum(len(level) + sum(level) for way in ways for level in way)
    if layers > _MOST_LAYERS:
        raise CheckpointError(
            f"{json.source}: layers_per_block and transformer_layers_per_block make {layers} "
            f"layers; at most {_MOST_LAYERS} are built"
        )


def _layers(json: JsonObject, name: str, counts: list[int]) -> list[tuple[int, ...]]:
    """Depths of each block of each level: one number for all, or one or a list for a level."""
    value = json.values.get(name, 1)
    levels = [value] * len(counts) if isinstance(value, int) else value
    if not isinstance(levels, (list, tuple)) or len(levels) != len(counts):
        raise CheckpointError(f"{json.source}: {name} must have {len(counts)} entries")
    found = []
    for level, count in zip(levels, counts, strict=True):
        depths = (level,) * count if isinstance(level, int) else level
        if (
            not isinstance(depths, (list, tuple))
            or len(depths) != count
            or not all(isinstance(depth, int) and depth > 0 for depth in depths)
        ):
            raise CheckpointError(
                f"{json.source}: {name} has {shown(level)} for a level of {count} blocks"
            )
        found.append(tuple(depths))
    return found


def _depths(
    json: JsonObject, attentive: list[bool], blocks: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    layers = _layers(json, "transformer_layers_per_block", list(blocks))
    return tuple(
        level if has else (0,) * count
        for level, has, count in zip(layers, attentive, blocks, strict=True)
    )


def _up_depths(
    json: JsonObject,
    attentive: list[bool],
    blocks: tuple[int, ...],
    depths: tuple[tuple[int, ...], ...],
) -> tuple[tuple[int, ...], ...]:
    counts = [count + 1 for count in reversed(blocks)]
    if json.has("reverse_transformer_layers_per_block"):
        layers = _layers(json, "reverse_transformer_layers_per_block", counts)
    else:
        given = _layers(json, "transformer_layers_per_block", list(blocks))
        if any(len(set(level)) > 1 for level in given):
            raise CheckpointError(
                f"{json.source}: reverse_transformer_layers_per_block must be given where depths "
                f"differ within a level; got {shown(depths)}"
            )
        layers = [(level[0],) * count for level, count in zip(reversed(given), counts, strict=True)]
    return tuple(
        level if has else (0,) * count
        for level, has, count in zip(layers, attentive, counts, strict=True)
    )


def _mid_depth(json: JsonObject) -> int | None:
    # Absent means the default; null means that there is no middle.
    kind = json.values.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if kind is None:
        return None
    if kind == "UNetMidBlock2D":
        return 0
    if kind != "UNetMidBlock2DCrossAttn":
        raise CheckpointError(
            f"{json.source}: mid_block_type is {shown(kind)}; our U-Net has "
            "UNetMidBlock2DCrossAttn, UNetMidBlock2D or none"
        )
    levels = json.values.get("transformer_layers_per_block", 1)
    last = levels[-1] if isinstance(levels, (list, tuple)) and levels else levels
    depth = last[0] if isinstance(last, (list, tuple)) and last else last
    if not isinstance(depth, int):
        raise CheckpointError(f"{json.source}: transformer_layers_per_block is {shown(levels)}")
    return depth


def _context_width(json: JsonObject, levels: int) -> int:
    widths = set(_wholes(json, "cross_attention_dim", levels, 1280))
    if len(widths) != 1:
        raise CheckpointError(
            f"{json.source}: cross_attention_dim differs by level ({shown(sorted(widths))}); "
            "our U-Net reads one text width"
        )
    return widths.pop()


def _cross_only_levels(json: JsonObject, levels: int) -> tuple[int, ...]:
    value = json.values.get("only_cross_attention", False)
    flags = [value] * levels if isinstance(value, bool) else value
    if not isinstance(flags, (list, tuple)) or len(flags) != levels:
        raise CheckpointError(f"{json.source}: only_cross_attention is {shown(value)}")
    return tuple(i for i, flag in enumerate(flags) if flag)


def _embeddings(
    json: JsonObject,
) -> tuple[int | None, Literal["add_embedding", "class_embedding"], int | None]:
    """(vector width, its module's name, noise levels)."""
    added, classes = json.text("addition_embed_type", ""), json.text("class_embed_type", "")
    if added not in ("", "text_time") or classes not in ("", "projection"):
        raise CheckpointError(
            f"{json.source}: addition_embed_type {shown(added)} with class_embed_type "
            f"{shown(classes)} is no embedding of our U-Net"
        )
    noise_levels = json.whole("num_class_embeds") if json.has("num_class_embeds") else None
    if not added and not classes:
        return None, "add_embedding", noise_levels
    width = json.whole("projection_class_embeddings_input_dim")
    return width, "add_embedding" if added else "class_embedding", noise_levels
