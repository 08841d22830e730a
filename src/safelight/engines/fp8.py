"""The engine `fp8`: the U-Net's weights in eight-bit floating point, multiplied so by a GPU.

Products and convolutions keep their weights as float8 (e4m3: 4 bits of exponent, 3 of mantissa),
each output channel with its own factor: half of what float16 takes. Products bring their input to
the same type, each row by its own largest value, and go through the GPU's eight-bit units;
convolutions, for which PyTorch has none, are done with the weight in full.

Modules stay what they were, as with `int8-weights`.

Source of the format: Micikevicius et al. 2022, arXiv:2209.05433.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from safelight.engines.narrow_layers import NarrowSink, layers, place_of, taken
from safelight.engines.narrow_weight import NarrowWeight, along, steps

if TYPE_CHECKING:
    from safelight.model import Model

NAME = "fp8"
TYPE = torch.float8_e4m3fn
LARGEST = 448.0  # of that type
CAPABILITY = (8, 9)  # of GPUs that multiply such numbers: Ada, Hopper and later
SIDE = 16  # of which the sides of a matrix must be multiples
GIVEN = torch.bfloat16  # what PyTorch gives of products whose rows have factors of their own


class Fp8Weight(NarrowWeight):
    """weight[o] = scale[o] * numbers[o], numbers in e4m3."""

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The product in eight bits, but where a gradient is wanted or a side does not fit."""
        if not _fits(x, self):
            return super().linear(x, bias)
        numbers, scale = as_fp8(x.reshape(-1, x.shape[-1]))
        y: Tensor = torch._scaled_mm(
            numbers,
            self.numbers.t(),
            scale_a=scale[:, None],
            scale_b=self.scale[None, :],
            out_dtype=GIVEN,
        )
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias


def narrowed(weight: Tensor) -> Fp8Weight:
    """A weight in e4m3: of every output channel the largest value becomes the type's largest."""
    numbers, scale = as_fp8(weight.detach().flatten(1))
    return Fp8Weight(numbers.view(weight.shape), scale, weight.dtype)


def as_fp8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, m) in e4m3, and the factors (n,) float32 by which they become what they were.

    A row with a NaN or an infinity gives NaN in all that follows.
    """
    wide = rows.float()
    scale = steps(wide, LARGEST)
    return (wide / along(scale, 2)).clamp(-LARGEST, LARGEST).to(TYPE), scale


def _fits(x: Tensor, weight: Fp8Weight) -> bool:
    recorded = torch.is_grad_enabled() and x.requires_grad
    sides = weight.numbers.shape
    return not recorded and x.numel() > 0 and all(side % SIDE == 0 for side in sides)


class Fp8Sink(NarrowSink):
    """A `Sink` that keeps large weights of the U-Net in e4m3."""

    def keeps(self, role: str) -> bool:
        return role == "unet"

    def made(self, weight: Tensor) -> NarrowWeight:
        return narrowed(weight)


def fp8(model: "Model") -> "Model":
    """The model with the U-Net's large weights in e4m3: those that a sink took, and all others."""
    to_fp8(model.network.unet)
    return replace(model, engine=NAME)


@torch.no_grad()
def to_fp8(network: nn.Module) -> None:
    """Let every large product and convolution of a network keep its weight in e4m3."""
    place = place_of(network)
    for _, layer in layers(network):
        weight, kept = layer.weight, taken(layer, place)
        if isinstance(kept, Fp8Weight):
            made = kept.another(weight.dtype)
        elif isinstance(weight, NarrowWeight):
            continue
        else:
            made = narrowed(weight)
        layer.weight = nn.Parameter(made, requires_grad=False)


def missing() -> str | None:
    """Why there are no products of such numbers here; None if there are."""
    if not torch.cuda.is_available():
        return "there is no CUDA device; draw with --engine int8-weights, or eager"
    if torch.cuda.get_device_capability() < CAPABILITY:
        name = torch.cuda.get_device_name()
        return f"{name} has no eight-bit floating point; draw with --engine eager"
    return None
