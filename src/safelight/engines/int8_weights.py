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

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from safelight.engines.int8_tensor import Int8Weight, as_int8
from safelight.models.cpu_product import READY
from safelight.models.layers import Conv2d, Linear

if TYPE_CHECKING:
    from safelight.model import Model

NAME = "int8-weights"
DYNAMIC = "int8-dynamic"
FEWEST = 1024  # weights; below there is nothing to save
LEFT = ("conv_in", "conv_out")  # few weights, and every picture goes through them
TIME = "time_emb"  # in the paths of layers that are told the time
_KEPT = "taken_as_int8"  # where a layer waits with what the sink took, until the engine is applied


class Int8Sink:
    """A `Sink` that keeps large weights as bytes."""

    def wants(self, role: str, module: nn.Module, name: str) -> bool:
        """Whether a weight is kept so: of a product or a convolution, of U-Net or text encoder."""
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or not (role == "unet" or role.startswith("text_encoder")):
            return False
        return _served(path, module.get_submodule(path))

    def take(self, module: nn.Module, name: str, weight: Tensor) -> None:
        layer = module.get_submodule(name.rpartition(".")[0])
        vars(layer)[_KEPT] = as_int8(weight, weight.dtype)


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
    for path, layer in _layers(network):
        weight = layer.weight
        kept: Int8Weight | None = vars(layer).pop(_KEPT, None)
        by_bytes = dynamic and TIME not in path
        if kept is not None:
            made = kept.another(weight.dtype, dynamic=by_bytes)
        elif isinstance(weight, Int8Weight):
            continue
        else:
            made = as_int8(weight, weight.dtype, dynamic=by_bytes)
        layer.weight = nn.Parameter(made, requires_grad=False)


def nbytes(network: nn.Module) -> int:
    """What the weights of a network take in memory."""
    return sum(
        weight.kept_bytes if isinstance(weight, Int8Weight) else weight.nbytes
        for weight in network.parameters()
    )


def missing() -> None:
    """Nothing: every PyTorch can."""


def missing_dynamic() -> str | None:
    """Why products of bytes cannot be had here; None if they can."""
    if not READY or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return "this build of PyTorch has no oneDNN; use --engine int8-weights"
    if not torch.cpu._is_vnni_supported():
        return "this processor has no VNNI instructions; use --engine int8-weights"
    return None


def _layers(network: nn.Module) -> Iterator[tuple[str, Linear | Conv2d]]:
    for path, layer in network.named_modules():
        if _served(path, layer):
            assert isinstance(layer, Linear | Conv2d)
            yield path, layer


def _served(path: str, layer: nn.Module) -> bool:
    return (
        isinstance(layer, Linear | Conv2d)
        and path not in LEFT
        and layer.weight.numel() >= FEWEST
        and ".deltas." not in path
    )
