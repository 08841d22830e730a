"""Single layers and tiny networks on which adapters act, and every kind of delta at random."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from models_tiny import random
from safelight.adapters.adapter import Adapter
from safelight.adapters.attach import Mode, attached
from safelight.adapters.deltas import (
    Butterfly,
    Decomposed,
    Delta,
    Difference,
    Generalised,
    Hadamard,
    Kronecker,
    LowRank,
    NormDifference,
    Orthogonal,
    Scaled,
)
from safelight.adapters.strengths import Strengths
from safelight.models.layers import Conv2d, LayerNorm, Linear

OUT, IN, RANK = 16, 12, 4
WEIGHTS = (0.3, 1.0, -1.0)


def linear(bias: bool = True) -> Linear:
    return filled(Linear(IN, OUT, bias))


def convolution(kernel: int = 3, stride: int = 2) -> Conv2d:
    return filled(Conv2d(IN, OUT, kernel, stride=stride, padding=kernel // 2))


M = TypeVar("M", bound=nn.Module)


def filled(module: M, seed: int = 0) -> M:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.3)
    return module.eval().requires_grad_(False)


def seen_by(layer: nn.Module) -> Tensor:
    """An input for it."""
    return random(2, IN, 7, 6) if isinstance(layer, Conv2d) else random(2, 5, IN)


def with_delta(
    layer: nn.Module,
    x: Tensor,
    deltas: Delta | Sequence[Delta],
    strength: float = 1.0,
    mode: Mode = "auto",
) -> Tensor:
    """What a layer says with adapters of one delta each on it, given one after the other."""
    several = [deltas] if isinstance(deltas, Delta) else deltas
    parts = {"unet": nn.ModuleDict({"layer": layer})}
    order = [
        (Adapter(f"a{n}", {"unet": {"layer": delta}}), Strengths(unet=strength))
        for n, delta in enumerate(several)
    ]
    with torch.no_grad(), attached(parts, order, mode=mode):
        y: Tensor = layer(x)
    return y


def kernel_of(layer: nn.Module) -> tuple[int, ...]:
    return tuple(layer.weight.shape[2:])  # type: ignore[union-attr,operator]


def lora(layer: nn.Module, seed: int = 3, rank: int = RANK) -> LowRank:
    kernel = kernel_of(layer)
    one = [1] * len(kernel)
    down = random(rank, IN, *kernel, seed=seed + 1)
    return LowRank(random(OUT, rank, *one, seed=seed), 0.2 * down, scale=0.5)


def tucker_lora(layer: nn.Module) -> LowRank:
    kernel = kernel_of(layer)
    one = [1] * len(kernel)
    up, down = random(OUT, RANK, *one, seed=3), random(RANK, IN, *one, seed=4)
    return LowRank(0.2 * up, 0.2 * down, random(RANK, RANK, *kernel, seed=5), 0.5)


def loha(layer: nn.Module) -> Hadamard:
    columns = IN * int(torch.tensor(kernel_of(layer)).prod())
    a, b = random(OUT, RANK, seed=3), random(RANK, columns, seed=4)
    c, d = random(OUT, RANK, seed=5), random(RANK, columns, seed=6)
    return Hadamard(0.3 * a, b, 0.3 * c, b.flip(0) + d, scale=0.5)


def lokr(layer: nn.Module) -> Kronecker:
    kernel = kernel_of(layer)
    a = random(OUT // 4, RANK, seed=4)
    b = random(RANK, IN // 3 * int(torch.tensor(kernel).prod()), seed=5)
    return Kronecker(random(4, 3, seed=3), w2_a=0.2 * a, w2_b=0.3 * b, scale=0.5)


def full(layer: nn.Module) -> Difference:
    shape = tuple(layer.weight.shape)  # type: ignore[union-attr,operator,arg-type]
    bias = None if layer.bias is None else random(OUT, seed=4)
    return Difference(0.2 * random(*shape, seed=3), bias)


def dora(layer: nn.Module) -> Decomposed:
    return Decomposed(lora(layer), 1 + random(OUT, seed=7).abs())


def ia3(layer: nn.Module) -> Scaled:
    return Scaled(0.5 * random(OUT, seed=3))


def glora(layer: nn.Module) -> Generalised:
    kernel = kernel_of(layer)
    return Generalised(
        random(IN, RANK, seed=3),
        0.2 * random(RANK, IN, seed=4),
        random(OUT, RANK, seed=5),
        0.2 * random(RANK, IN, *kernel, seed=6),
        scale=0.5,
    )


def oft(layer: nn.Module) -> Orthogonal:
    return Orthogonal(0.3 * random(OUT // 4, 4, 4, seed=3))


def boft(layer: nn.Module) -> Butterfly:
    return Butterfly(0.3 * random(3, OUT // 4, 4, 4, seed=3))


KINDS: dict[str, Callable[[nn.Module], Delta]] = {
    f.__name__: f for f in (lora, tucker_lora, loha, lokr, full, dora, ia3, glora, oft, boft)
}
ADDITIVE = ("lora", "tucker_lora", "loha", "lokr", "full")


def norm_difference(channels: int) -> NormDifference:
    return NormDifference(0.5 * random(channels, seed=3), 0.5 * random(channels, seed=4))


def network() -> nn.Module:
    """Three layers and a norm."""
    return nn.ModuleDict(
        {"first": linear(), "second": linear(bias=False), "norm": filled(LayerNorm(OUT))}
    )


def adapter(name: str = "style", **deltas: Delta) -> Adapter:
    return Adapter(name, {"unet": deltas})


def said(net: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = net["norm"](net["first"](x) + net["second"](x))  # type: ignore[index]
    return y


def state(net: nn.Module) -> dict[str, tuple[int, Tensor]]:
    """Every tensor: which object it is, and a copy of what it holds."""
    return {name: (id(p), p.detach().clone()) for name, p in net.named_parameters()}


def same(before: dict[str, tuple[int, Tensor]], after: dict[str, tuple[int, Tensor]]) -> bool:
    return before.keys() == after.keys() and all(
        before[n][0] == after[n][0] and torch.equal(before[n][1], after[n][1]) for n in before
    )
