"""Tiny control networks of Diffusers, and the files in which their like are published.

The original layouts are made by a translation of its own, name by name: it shares nothing with the
rows in src/, which it is there to check.
"""

import re
from collections.abc import Mapping
from functools import cache

import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

import tiny
from models_tiny import randomised

State = dict[str, Tensor]
WIDTHS = (4, 6, 8, 10)
FAMILIES: Mapping[str, Mapping[str, object]] = {
    "sd1": tiny._SD1,
    "sd2": tiny._SD2,
    "sdxl": tiny._SDXL,
}
_UNET_ONLY = {"up_block_types", "sample_size"}


@cache
def unet(family: str, seed: int = 1) -> UNet2DConditionModel:
    return randomised(UNet2DConditionModel(**FAMILIES[family]), seed)


@cache  # do not change what these give
def controlnet(family: str, seed: int = 2, **changes: object) -> ControlNetModel:
    return randomised(ControlNetModel(**_json(family), **changes), seed)


@cache
def union(seed: int = 3) -> ControlNetUnionModel:
    made = ControlNetUnionModel(
        **_json("sdxl"),
        num_control_type=8,
        num_trans_channel=12,
        num_trans_head=2,
        num_proj_channel=32,
    )
    return randomised(made, seed)


def _json(family: str) -> dict[str, object]:
    json = {k: v for k, v in FAMILIES[family].items() if k not in _UNET_ONLY}
    return {**json, "conditioning_embedding_out_channels": WIDTHS}


@cache
def adapter(kind: str, seed: int = 4) -> T2IAdapter:
    light = kind == "light_adapter"
    made = T2IAdapter(
        in_channels=3,
        channels=[32, 64, 96] if light else [32, 64, 96, 96],
        num_res_blocks=4 if light else 2,
        downscale_factor=16 if kind == "full_adapter_xl" else 8,
        adapter_type=kind,
    )
    return randomised(made, seed)


def original_controlnet(state: Mapping[str, Tensor], prefix: str = "") -> State:
    """formats.md 3.2, its last paragraph."""
    return {prefix + _original(name): tensor for name, tensor in state.items()}


def _original(name: str) -> str:
    if found := re.match(r"controlnet_down_blocks\.(\d+)\.(.*)", name):
        return f"zero_convs.{found[1]}.0.{found[2]}"
    if found := re.match(r"controlnet_mid_block\.(.*)", name):
        return f"middle_block_out.0.{found[1]}"
    if found := re.match(r"controlnet_cond_embedding\.(conv_in|blocks\.(\d)|conv_out)\.(.*)", name):
        places = ["conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out"]
        return f"input_hint_block.{2 * places.index(found[1])}.{found[3]}"
    if name.startswith(("task_embedding", "transformer_layes", "spatial_ch", "control_add_emb")):
        return name
    return tiny.original_unet_name(name, 2, [])


def original_adapter(made: T2IAdapter) -> State:
    """The layout of TencentARC/T2I-Adapter: blocks numbered through, `body` in light ones."""
    found = {}
    for name, tensor in made.adapter.state_dict().items():
        block = re.match(r"body\.(\d)\.(resnets\.(\d)|in_conv|out_conv)\.(.*)", name)
        if block is None:
            found[name] = tensor
            continue
        stage, what, number, rest = int(block[1]), block[2], block[3], block[4]
        if made.config.adapter_type == "light_adapter":
            inner = f"body.{number}" if number else what
            found[f"body.{stage}.{inner}.{rest}"] = tensor
        elif number:
            found[f"body.{2 * stage + int(number)}.{rest}"] = tensor
        else:
            found[f"body.{2 * stage}.{what}.{rest}"] = tensor
    return found


def low_rank(base: nn.Module, made: nn.Module, rank: int = 3, seed: int = 7) -> tuple[State, State]:
    """A ControlLoRA, and the ControlNet that it stands for, in Diffusers' names.

    All matrices of the first half are the base's and a product of rank `rank`; norms and biases of
    attention are the base's, other biases are written whole.
    """
    rng = torch.Generator().manual_seed(seed)
    own, whole, file = base.state_dict(), {}, {"lora_controlnet": torch.tensor([])}
    for name, tensor in made.state_dict().items():
        module, _, leaf = name.rpartition(".")
        theirs = _original(name).rpartition(".")[0]
        if name not in own:
            whole[name] = tensor
            file[f"{theirs}.{leaf}"] = tensor
        elif leaf == "weight" and tensor.ndim > 1:
            up = 0.3 * torch.randn(tensor.shape[0], rank, *[1] * (tensor.ndim - 2), generator=rng)
            down = 0.3 * torch.randn(rank, *tensor.shape[1:], generator=rng)
            change = (up.flatten(1) @ down.flatten(1)).reshape(tensor.shape)
            whole[name] = own[name] + change
            file[f"{theirs}.up"], file[f"{theirs}.down"] = up, down
        elif leaf == "bias" and "attentions" not in module and "norm" not in module:
            whole[name] = file[f"{theirs}.bias"] = tensor
        else:
            whole[name] = own[name]
    return file, whole
