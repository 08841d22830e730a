"""Matrix products on x86 processors, through oneDNN.

PyTorch multiplies float32 matrices on a CPU by MKL, which on processors of other makers than its
own reaches half of what oneDNN does on the same core; convolutions go to oneDNN already. Results
differ in the last bits, as those of two sizes of batch do.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Below these a call costs more than the product gains.
FEWEST_ROWS = 32
FEWEST_WEIGHTS = 1024

# Whether this PyTorch can, on this processor.
READY = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias by the fastest way there is: (..., in), (out, in), (out,) -> (..., out).

    Differentiable any number of times.
    """
    if not _served(x, weight, bias):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _product(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def _served(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN is there, and this is a product that it does better."""
    if not READY or x.device.type != "cpu" or weight.device.type != "cpu":
        return False
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    if bias is not None and bias.dtype != torch.float32:
        return False
    # Compilers and exporters see through PyTorch's own operators only; autocast chooses itself.
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    if type(x) is not Tensor or type(weight) not in (Tensor, nn.Parameter):
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    return (
        bool(torch.backends.mkldnn.enabled)
        and weight.numel() >= FEWEST_WEIGHTS
        and math.prod(x.shape[:-1]) >= FEWEST_ROWS
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class _Linear(torch.autograd.Function):
    """The product with a gradient; oneDNN's own operator has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            linear(gradient, weight.t()) if needs_x else None,
            linear(rows.t(), x.reshape(-1, x.shape[-1]).t()) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )
