"""Matrix products on x86 processors, through oneDNN.

PyTorch multiplies float32 matrices on a CPU by MKL, which on processors of other makers than its
own reaches half of what oneDNN does on the same core; convolutions go to oneDNN already. Products
in bfloat16 go there too, but take a bias in a pass of its own: without a gradient, they are asked
for in one (up to 27 % less time). Results differ in the last bits, as those of two sizes of batch
do.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Below these a call in float32 costs more than the product gains.
FEWEST_ROWS = 32
FEWEST_WEIGHTS = 1024

# Whether this PyTorch can, on this processor.
READY = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
_OWN = frozenset({Tensor, nn.Parameter})
NARROW = READY and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""Whether oneDNN can in bfloat16."""


def plain(*tensors: Tensor) -> bool:
    """Whether oneDNN's own operators may be given these.

    They must be tensors of one type, on a CPU, as they are, and not seen by a compiler, an
    exporter, a transform or autocast.
    """
    # Compilers and exporters see through PyTorch's own operators only, and not through questions.
    if not READY or torch.compiler.is_compiling() or not torch._C._get_mkldnn_enabled():
        return False
    dtype = tensors[0].dtype
    for x in tensors:  # asked at every layer: a loop costs half of what a generator does
        if type(x) not in _OWN or x.dtype != dtype or not x.is_cpu:
            return False
    return not (
        torch.is_autocast_enabled("cpu")
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
    )


def recorded(*tensors: Tensor) -> bool:
    """Whether what is made of these is recorded for a gradient."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, learns: bool = False
) -> Tensor:
    """x @ weight.T + bias by the fastest way there is: (..., in), (out, in), (out,) -> (..., out).

    Differentiable any number of times. With `learns` the bits do not hang on whether a gradient
    is recorded.
    """
    if not served(x, weight, bias) or (learns and weight.dtype == torch.bfloat16):
        return F.linear(x, weight, bias)
    if not recorded(*_given(x, weight, bias)):
        return product(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def served(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN is there, and this is a product that it does better."""
    given = _given(x, weight, bias)
    if not plain(*given):
        return False
    if weight.dtype == torch.bfloat16:
        return NARROW and not recorded(*given)
    return (
        weight.dtype == torch.float32
        and weight.numel() >= FEWEST_WEIGHTS
        and math.prod(x.shape[:-1]) >= FEWEST_ROWS
    )


def _given(*tensors: Tensor | None) -> list[Tensor]:
    return [x for x in tensors if x is not None]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias by oneDNN, without a gradient; for what is `plain`."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def gelu_of_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The exact GELU of `product`, taken before the sums are rounded to the type of x."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
    return y


class _Linear(torch.autograd.Function):
    """The product with a gradient; oneDNN's own operator has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

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
