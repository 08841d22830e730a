"""Adapters of the tiny model, every kind on some layers of it, and the tiny model's own layers."""

from functools import cache
from math import prod

import torch
from torch import Tensor

from cli_tiny import tiny_model
from models_tiny import random
from safelight.adapters.adapter import Adapter, AdapterFacts
from safelight.adapters.deltas import (
    Decomposed,
    Delta,
    Difference,
    Hadamard,
    Kronecker,
    LowRank,
    NormDifference,
    Orthogonal,
    Scaled,
)
from safelight.checkpoints.adapter_names import Layer, layers_of
from safelight.families import Family

LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
POINT = "mid_block.attentions.0.proj_in"  # a 1x1 convolution
CONV = "mid_block.resnets.0.conv1"
NORM = "mid_block.resnets.0.norm1"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
PLACES = (("unet", LINEAR), ("unet", POINT), ("unet", CONV), ("text_encoder", TEXT))


@cache
def family() -> Family:
    return tiny_model().family


def layer(part: str, path: str) -> Layer:
    found = layers_of(family()).at(part, path)
    assert found is not None, path
    return found


def lora_of(shape: tuple[int, ...], rank: int, seed: int = 0, scale: float = 0.5) -> LowRank:
    ones = (1,) * (len(shape) - 2)
    down = random(rank, *shape[1:], seed=seed + 1) * prod(shape[1:]) ** -0.5
    return LowRank(random(shape[0], rank, *ones, seed=seed), down, scale=scale)


def loras(rank: int = 4, seed: int = 0, name: str = "style") -> Adapter:
    """LoRA on a linear layer, a 1x1 and a 3x3 convolution and a text encoder."""
    return on(
        {place: lora_of(layer(*place).shape, rank, seed + n) for n, place in enumerate(PLACES)},
        name,
    )


def every_kind() -> Adapter:
    """Each kind of change on some layer, those that depend on the weight too."""
    linear, conv = layer("unet", LINEAR).shape, layer("unet", CONV).shape
    text = layer("text_encoder", TEXT).shape
    inner = prod(conv[1:])
    value, out = f"{LINEAR.removesuffix('to_k')}to_v", f"{LINEAR.removesuffix('to_k')}to_out.0"
    return on(
        {
            ("unet", LINEAR): lora_of(linear, 4),
            ("unet", value): Decomposed(lora_of(linear, 3), 1 + random(linear[0]).abs()),
            ("unet", CONV): Hadamard(
                random(conv[0], 3, seed=1),
                0.05 * random(3, inner, seed=2),
                random(conv[0], 3, seed=3),
                0.05 * random(3, inner, seed=4),
                scale=0.5,
            ),
            ("unet", NORM): NormDifference(0.1 * random(32), 0.1 * random(32, seed=2)),
            ("unet", out): Difference(
                0.1 * random(*layer("unet", out).shape), 0.1 * random(linear[0], seed=3)
            ),
            ("unet", POINT): Orthogonal(0.2 * random(8, 4, 4)),
            ("text_encoder", TEXT): Kronecker(
                random(4, 4), 0.02 * random(text[0] // 4, text[1] // 4, seed=5)
            ),
            ("text_encoder", TEXT.replace("q_proj", "v_proj")): Scaled(0.3 * random(text[0])),
        },
        "many",
    )


def on(deltas: dict[tuple[str, str], Delta], name: str = "style") -> Adapter:
    parts: dict[str, dict[str, Delta]] = {}
    for (part, path), delta in deltas.items():
        parts.setdefault(part, {})[path] = delta.requires_grad_(False)
    return Adapter(name, parts, AdapterFacts(("LoRA",)))


@torch.no_grad()
def change(adapter: Adapter, part: str, path: str) -> Tensor:
    """What an adapter adds to the weight of a layer, of the layer's own shape."""
    return adapter.deltas[part][path].change(torch.zeros(layer(part, path).shape))
