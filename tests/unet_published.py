"""The published U-Net configurations, ours and Diffusers' side by side, and tiny copies of both.

The values on Diffusers' side are those of the models' `config.json` files; what a file leaves out
has Diffusers' default. A tiny copy keeps every structural trait and shrinks widths and depths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from safelight.models import unet_configs as ours
from safelight.models.unet import UNet, UNetConfig

Json = Mapping[str, object]

SD15: Json = {
    "in_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
}
SD21: Json = {
    **SD15,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
SDXL: Json = {
    **SD21,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@dataclass(frozen=True)
class Family:
    ours: UNetConfig
    theirs: Json


FAMILIES: dict[str, Family] = {
    "sd15": Family(ours.SD15, SD15),
    "sd15-inpaint": Family(ours.SD15_INPAINT, {**SD15, "in_channels": 9}),
    "pix2pix": Family(ours.PIX2PIX, {**SD15, "in_channels": 8}),
    "sd21": Family(ours.SD21, SD21),
    "sd2-inpaint": Family(ours.SD2_INPAINT, {**SD21, "in_channels": 9}),
    "sd2-depth": Family(ours.SD2_DEPTH, {**SD21, "in_channels": 5}),
    "sd21-unclip-l": Family(
        ours.SD21_UNCLIP_L,
        {**SD21, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 1536},
    ),
    "sd21-unclip-h": Family(
        ours.SD21_UNCLIP_H,
        {**SD21, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048},
    ),
    "x4-upscaler": Family(
        ours.X4_UPSCALER,
        {
            **SD21,
            "in_channels": 7,
            "block_out_channels": [256, 512, 512, 1024],
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
            "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
            "attention_head_dim": 8,
            "only_cross_attention": [True, True, True, False],
            "num_class_embeds": 1000,
        },
    ),
    "sdxl": Family(ours.SDXL, SDXL),
    "sdxl-inpaint": Family(ours.SDXL_INPAINT, {**SDXL, "in_channels": 9}),
    "sdxl-refiner": Family(
        ours.SDXL_REFINER,
        {
            **SDXL,
            "block_out_channels": [384, 768, 1536, 1536],
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
            "attention_head_dim": [6, 12, 24, 24],
            "cross_attention_dim": 1280,
            "transformer_layers_per_block": 4,
            "projection_class_embeddings_input_dim": 2560,
        },
    ),
    "ssd-1b": Family(
        ours.SSD_1B,
        {
            **SDXL,
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": [1, [2, 2], [4, 4]],
            "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        },
    ),
    "vega": Family(
        ours.VEGA,
        {**SDXL, "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, 1, 2]},
    ),
    "koala-700m": Family(
        ours.KOALA_700M,
        {
            **SDXL,
            "layers_per_block": 1,
            "mid_block_type": None,
            "transformer_layers_per_block": [1, 2, 5],
        },
    ),
    "koala-1b": Family(
        ours.KOALA_1B, {**SDXL, "layers_per_block": 1, "transformer_layers_per_block": [1, 2, 6]}
    ),
    "small-sd": Family(ours.SMALL_SD, {**SD15, "layers_per_block": 1}),
    "bk-sdm-small": Family(
        ours.BK_SDM_SMALL, {**SD15, "layers_per_block": 1, "mid_block_type": None}
    ),
    "tiny-sd": Family(
        ours.TINY_SD,
        {
            **SD15,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["CrossAttnDownBlock2D"] * 3,
            "up_block_types": ["CrossAttnUpBlock2D"] * 3,
            "layers_per_block": 1,
            "mid_block_type": None,
        },
    ),
    "lcm": Family(replace(ours.SD15, guidance_width=256), {**SD15, "time_cond_proj_dim": 256}),
    # No published model: no attention at the first level, uneven widths, heads by width.
    "own": Family(
        UNetConfig(
            channels=(64, 128, 192),
            depths=((0, 0), (1, 1), (2, 2)),
            mid_depth=2,
            heads=(1, 2, 3),
            context_width=192,
            linear_projection=True,
        ),
        {
            **SDXL,
            "block_out_channels": [64, 128, 192],
            "attention_head_dim": [1, 2, 3],
            "cross_attention_dim": 192,
            "transformer_layers_per_block": [1, 1, 2],
            "addition_embed_type": None,
            "projection_class_embeddings_input_dim": None,
        },
    ),
}

# What a tiny copy puts in the place of each number: by size, so that both sides stay in step.
TINY_WIDTHS = {64: 8, 128: 16, 192: 24, 256: 8, 320: 8, 384: 8, 512: 16, 640: 16, 768: 16}
TINY_WIDTHS |= {1024: 24, 1280: 24, 1536: 24}
TINY_DEPTHS = {0: 0, 1: 1, 2: 2, 4: 2, 5: 2, 6: 2, 10: 3}
TINY_HEADS = {1: 1, 2: 2, 3: 2, 5: 1, 6: 1, 8: 8, 10: 2, 12: 2, 20: 2, 24: 2}
TINY_GROUPS, TINY_CONTEXT, TINY_VECTOR, TINY_GUIDANCE = 4, 12, 20, 6


def tiny(config: UNetConfig) -> UNetConfig:
    def shrunk(levels: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(TINY_DEPTHS[d] for d in level) for level in levels)

    return replace(
        config,
        channels=tuple(TINY_WIDTHS[c] for c in config.channels),
        depths=shrunk(config.depths),
        up_depths=None if config.up_depths is None else shrunk(config.up_depths),
        mid_depth=None if config.mid_depth is None else TINY_DEPTHS[config.mid_depth],
        heads=tuple(TINY_HEADS[h] for h in config.heads),
        context_width=TINY_CONTEXT,
        vector_width=None if config.vector_width is None else TINY_VECTOR,
        guidance_width=None if config.guidance_width is None else TINY_GUIDANCE,
        groups=TINY_GROUPS,
    )


def tiny_json(config: Json) -> Json:
    def shrunk(depths: object) -> object:
        return (
            [shrunk(d) for d in depths]
            if isinstance(depths, list)
            else TINY_DEPTHS[int(str(depths))]
        )

    changed: dict[str, object] = {
        "block_out_channels": [TINY_WIDTHS[c] for c in config["block_out_channels"]],  # type: ignore[attr-defined]
        "cross_attention_dim": TINY_CONTEXT,
        "norm_num_groups": TINY_GROUPS,
    }
    heads = config["attention_head_dim"]
    changed["attention_head_dim"] = (
        [TINY_HEADS[h] for h in heads] if isinstance(heads, list) else TINY_HEADS[int(str(heads))]
    )
    for name in ("transformer_layers_per_block", "reverse_transformer_layers_per_block"):
        if config.get(name) is not None:
            changed[name] = shrunk(config[name])
    if config.get("addition_embed_type") is not None:
        # One pooled text of 8 and three sizes of 4.
        changed |= {
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": TINY_VECTOR,
        }
    elif config.get("projection_class_embeddings_input_dim") is not None:
        changed["projection_class_embeddings_input_dim"] = TINY_VECTOR
    if config.get("time_cond_proj_dim") is not None:
        changed["time_cond_proj_dim"] = TINY_GUIDANCE
    return {**config, **changed}


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Fill every tensor: norm weights around 1, others so that activations keep their size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float32)
            if p.ndim > 1:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


@cache
def twins(name: str) -> tuple[UNet, UNet2DConditionModel]:
    """Ours and Diffusers' tiny network of one family, same random weights; do not change them."""
    family = FAMILIES[name]
    theirs = UNet2DConditionModel(**tiny_json(family.theirs)).eval()
    randomise(theirs)
    mine = UNet(tiny(family.ours)).eval()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    return mine, theirs
