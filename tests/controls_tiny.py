"""Tiny control networks of Diffusers with every weight at random, and ours beside them."""

from collections.abc import Mapping
from functools import cache

import torch
from diffusers.models.adapter import T2IAdapter as TheirAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from torch import Tensor, nn

from safelight.models.controlnet import ControlNet, ControlNetConfig, UnionConfig
from safelight.models.t2i_adapter import T2IAdapter, T2IAdapterConfig
from unet_published import FAMILIES, randomise, tiny, tiny_json

WIDTHS = (4, 6, 8, 10)  # of the picture's convolutions
UNION = UnionConfig(types=3, width=8, layers=2, sinusoid=4)
_UNET_ONLY = {"up_block_types", "out_channels", "reverse_transformer_layers_per_block"}


def controlnet_json(name: str) -> dict[str, object]:
    """What `ControlNetModel` of one tiny family is built from."""
    json = {k: v for k, v in tiny_json(FAMILIES[name].theirs).items() if k not in _UNET_ONLY}
    return {**json, "in_channels": 4, "conditioning_embedding_out_channels": WIDTHS}


def config(name: str, union: UnionConfig | None = None, **changes: object) -> ControlNetConfig:
    encoder = tiny(FAMILIES[name].ours)
    assert encoder.in_channels == 4
    return ControlNetConfig(encoder, widths=WIDTHS, union=union, **changes)  # type: ignore[arg-type]


@cache
def controlnet_twins(name: str, seed: int = 0, **changes: object) -> tuple[ControlNet, nn.Module]:
    """Ours and Diffusers' with the same weights, zero convolutions too; do not change them."""
    theirs = ControlNetModel(**controlnet_json(name), **changes).eval()
    randomise(theirs, seed)
    own = {"global_pool_conditions": "global_pool"}
    named = {own[k]: v for k, v in changes.items() if k in own}
    bgr = changes.get("controlnet_conditioning_channel_order") == "bgr"
    mine = ControlNet(config(name, bgr=bgr, **named)).eval()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    return mine, theirs


@cache
def union_twins(name: str = "sdxl", seed: int = 0) -> tuple[ControlNet, nn.Module]:
    """The same for a union of three types."""
    theirs = ControlNetUnionModel(
        **controlnet_json(name),
        num_control_type=UNION.types,
        num_trans_channel=UNION.width,
        num_trans_head=2,
        num_trans_layer=UNION.layers,
        num_proj_channel=config(name).encoder.channels[0],
    ).eval()
    randomise(theirs, seed)
    mine = ControlNet(config(name, UNION)).eval()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    return mine, theirs


ADAPTERS: Mapping[str, tuple[str, T2IAdapterConfig]] = {
    "full": ("full_adapter", T2IAdapterConfig((8, 16, 24, 24), pictures=3)),
    "grey": ("full_adapter", T2IAdapterConfig((8, 16, 24, 24), pictures=1)),
    "light": ("light_adapter", T2IAdapterConfig((8, 16, 24, 24), blocks=3, light=True)),
    "xl": (
        "full_adapter_xl",
        T2IAdapterConfig((8, 16, 24, 24), (False, False, True, False), unshuffle=16),
    ),
}


@cache
def adapter_twins(name: str, seed: int = 0) -> tuple[T2IAdapter, nn.Module]:
    kind, own = ADAPTERS[name]
    theirs = TheirAdapter(
        in_channels=own.pictures,
        # the last width of a light one is used twice
        channels=list(own.channels[:-1] if own.light else own.channels),
        num_res_blocks=own.blocks,
        downscale_factor=own.unshuffle,
        adapter_type=kind,
    ).eval()
    randomise(theirs, seed)
    mine = T2IAdapter(own).eval()
    mine.load_state_dict(theirs.adapter.state_dict(), strict=True)
    return mine, theirs


def pictures(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
