"""The engines `int8-weights` and `int8-dynamic`: weights in a quarter of the memory.

Products and convolutions of the U-Net and the text encoders keep their weights as bytes, each
output channel with its own step; all else stays as it is. Weights are taken as they are read from
the file, one at a time, so no more than one of them is ever there in full.

`int8-weights` computes in the type asked for. `int8-dynamic` brings the inputs of the U-Net's
layers to bytes, too, and multiplies by the processor's integer instructions.

Modules stay what they were, so everything that works with them works: adapters in slots, ControlNet
residuals, FreeU and the rest. An adapter that is folded into a weight leaves that weight in full,
for rounding again would lose what the adapter is: small changes.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from safelight.engines.int8_tensor import Int8Weight, as_int8
from safelight.engines.narrow_layers import NarrowSink, layers, place_of, taken
from safelight.engines.narrow_weight import NarrowWeight
from safelight.models.cpu_product import READY

if TYPE_CHECKING:
    from safelight.model import Model

NAME = "int8-weights"
DYNAMIC = "int8-dynamic"
TIME = "time_emb"  # in the paths of layers that are told the time


class Int8Sink(NarrowSink):
    """A `Sink` that keeps large weights of U-Net and text encoders as bytes."""

    def keeps(self, role: str) -> bool:
        return role == "unet" or role.startswith("text_encoder")

    def made(self, weight: Tensor) -> NarrowWeight:
        return as_int8(weight, weight.dtype)


def int8_weights(model: "Model") -> "Model":
    """The model with large weights as bytes: those that a sink took, and all others there are."""
    for part in (model.network.unet, *model.text.encoders):
        if isinstance(part, nn.Module):
            to_int8(part)
    return replace(model, engine=NAME)


def int8_dynamic(model: "Model") -> "Model":
    """The model with large weights as bytes, and such products in the U-Net."""
    to_int8(model.network.unet, dynamic=True)
    return replace(int8_weights(model), engine=DYNAMIC)


@torch.no_grad()
def to_int8(network: nn.Module, *, dynamic: bool = False) -> None:
    """Let every large product and convolution of a network keep its weight as bytes.

    dynamic: multiply as bytes, too, but for layers that are told the time: those have few rows.
    """
    place = place_of(network)
    for path, layer in layers(network):
        weight = layer.weight
        kept = taken(layer, place)
        by_bytes = dynamic and TIME not in path
        if isinstance(kept, Int8Weight):
            made = kept.another(weight.dtype, dynamic=by_bytes)
        elif isinstance(weight, NarrowWeight):
            continue
        else:
            made = as_int8(weight, weight.dtype, dynamic=by_bytes)
        layer.weight = nn.Parameter(made, requires_grad=False)


def missing() -> None:
    """Nothing: every PyTorch can."""


def missing_dynamic() -> str | None:
    """Why products of bytes cannot be had here; None if they can."""
    if not READY or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return "this build of PyTorch has no oneDNN; use --engine int8-weights"
    if not torch.cpu._is_vnni_supported():
        return "this processor has no VNNI instructions; use --engine int8-weights"
    return None
