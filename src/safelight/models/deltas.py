"""What an adapter changes of one layer, and the kind that needs no second weight to do so.

Shapes: out and in features of a Linear, or channels of a convolution with a kernel k k; r rank.
A kernel belongs to "in" wherever a weight is seen as a matrix: (out, in · k · k).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models.layers import Conv2d, Linear


class Delta(nn.Module, ABC):
    """What an adapter changes of one layer. Its tensors are parameters, so that it can be learned.

    additive: `change` asks of the weight nothing but its shape, so that strengths and several
        deltas add up. Others act in the order given, each on the weight that those before it left.
    kind: the word for it, as in files and messages.
    dims: how many dimensions a weight may have that it changes.
    """

    __call__: Callable[..., Tensor]
    additive: ClassVar[bool] = True
    kind: ClassVar[str] = ""
    dims: ClassVar[tuple[int, ...]] = (2, 4)

    @abstractmethod
    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """What is added to the weight: of its shape, float32, differentiable."""

    def changed(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """A weight in float32 and what is added to it."""
        return weight + self.change(weight, strength)

    def bias_change(self, bias: Tensor | None, strength: float = 1.0) -> Tensor | None:
        """What is added to the bias, float32; None if it stays as it is."""
        return None

    def fits(self, shape: Sequence[int], *, bias: bool = True) -> bool:
        """Whether it is for a weight of this shape, in a layer that has a bias or has not."""
        return len(shape) in self.dims and self._fits(tuple(shape), bias)

    @abstractmethod
    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        """`fits` for a weight of as many dimensions as the kind may have."""

    def extra_repr(self) -> str:
        return ", ".join(f"{name} {list(p.shape)}" for name, p in self.named_parameters())


class LowRank(Delta):
    """scale · up @ down: LoRA, LoCon for convolutions, and ControlLoRA's own changes.

    up (out, r), down (r, in), and for convolutions up (out, r, 1, 1), down (r, in, k, k). With mid
    (r, r, k, k), down is (r, in, 1, 1): the Tucker form, delta = up x mid x down.
    scale: alpha / rank. A 1 x 1 convolution and a Linear take each other's tensors.

    Hu et al. 2021 (arXiv:2106.09685); LyCORIS, Yeh et al. 2023 (arXiv:2309.14859).
    """

    kind = "LoRA"

    def __init__(
        self, up: Tensor, down: Tensor, mid: Tensor | None = None, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)
        self.mid = None if mid is None else nn.Parameter(mid)
        self.scale = scale

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def alpha(self) -> float:
        return self.scale * self.rank

    def change(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        up, down = self.up.float().flatten(1), self.down.float().flatten(1)
        if self.mid is None:
            product = (strength * self.scale * up) @ down
        else:
            product = tucker(self.mid.float(), strength * self.scale * up.mT, down)
        return product.reshape(weight.shape)

    def changed(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        if self.mid is not None or not weight.is_contiguous():
            return super().changed(weight, strength)
        # In one step, without memory for the product.
        up, down = self.up.float().flatten(1), self.down.float().flatten(1)
        matrix = weight.flatten(1)
        return torch.addmm(matrix, up, down, alpha=strength * self.scale).reshape(weight.shape)

    def _fits(self, shape: Sequence[int], bias: bool) -> bool:
        out, inner = shape[0], prod(shape[1:])
        up, down = self.up.flatten(1).shape, self.down.flatten(1).shape
        if self.mid is None:
            return up == (out, self.rank) and down[1] == inner
        mid = tuple(self.mid.shape)
        return up == (out, mid[0]) and down == (mid[1], shape[1]) and mid[2:] == tuple(shape[2:])

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        """What it adds to the output of `layer`, through the rank: no weight is made."""
        assert isinstance(layer, (Linear, Conv2d))
        x = x.to(self.down.dtype)
        up = self.up.flatten(1) if self.scale == 1 else self.scale * self.up.flatten(1)
        if isinstance(layer, Linear):
            narrow = layer.applied(x, self.down.flatten(1))
            if self.mid is not None:
                narrow = F.linear(narrow, self.mid.flatten(1))
            return F.linear(narrow, up)
        kernel = layer.weight.shape[2:]
        if self.mid is None:
            narrow = layer.applied(x, self.down.reshape(self.rank, -1, *kernel))
        else:
            point = F.conv2d(x, self.down.reshape(self.rank, -1, 1, 1))
            narrow = layer.applied(point, self.mid)
        return F.conv2d(narrow, up[..., None, None])

    def extra_repr(self) -> str:
        return f"rank {self.rank}, alpha {self.alpha:g}"


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """A core (r, s, k, k) with factors (r, out) and (s, in): (out, in, k, k)."""
    return torch.einsum("rs...,ro,si->oi...", core, up, down)
