"""Nearest-neighbour doubling and the 3 x 3 convolution after it, as four 2 x 2 convolutions before.

Of the nine places that the convolution looks at in the doubled map, some are copies of one place of
the small map, so their weights add up. Which, depends only on whether the row and the column of the
result are even or odd: four kernels of 2 x 2 do the work of one of 3 x 3 on four times the places,
with 4/9 of the products. The result is the same but for the order of sums.

Shapes: B batch, C channels, h w height and width of the small map.
"""

import weakref
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from safelight.models.cpu_convolution import (
    CHANNELS_LAST,
    by_rows,
    convolution,
    padded_places,
    served,
)

CHANNELS_AT_A_TIME = 64
PHASES = tuple((row, column) for row in (0, 1) for column in (0, 1))


def folded(weight: Tensor) -> Tensor:
    """The four kernels of one: (n, C, 3, 3) -> (4, n, C, 2, 2), in the order of `PHASES`.

    Summed in float32, and cast once. Each of the four is channels-last. A few output channels at a
    time: all sums in float32 at once are five times as large as a weight in half precision.
    """
    count, channels = weight.shape[:2]
    kernels = weight.new_empty(4, count, 2, 2, channels)
    for some in torch.arange(count).split(CHANNELS_AT_A_TIME):
        at = slice(int(some[0]), int(some[-1]) + 1)
        places = weight[at].float().permute(0, 2, 3, 1)  # (n', 3, 3, C)
        phases = (kernel for rows in _merged(places, 1) for kernel in _merged(rows, 2))
        for phase, kernel in enumerate(phases):
            kernels[phase, at] = kernel
    return kernels.permute(0, 1, 4, 2, 3)


def _merged(kernel: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Three taps as two, for even and for odd places of the result.

    The three taps of an even place see one place before, and then its own twice; those of an odd
    one see its own place twice, and then the one behind.
    """
    first, middle, last = kernel.unbind(dim)
    return torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)


def doubled(x: Tensor, kernels: Tensor, bias: Tensor | None = None) -> Tensor:
    """The doubled and convolved map: (B, C, h, w), (4, n, C, 2, 2), (n,) -> (B, n, 2 h, 2 w)."""
    if has_torch_function_unary(x):
        made: Tensor = handle_torch_function(doubled, (x,), x, kernels, bias)
        return made
    batch, _, height, width = x.shape
    made_of = (batch, kernels.shape[1], 2 * height, 2 * width)
    out = torch.empty(made_of, dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST)
    deep = served(kernels, bias, x) and batch * height * width <= kernels.shape[1]
    around = padded_places(x, (1, 1)) if deep else x
    for (row, column), kernel in zip(PHASES, kernels, strict=True):
        if deep:
            seen = around[:, row : row + height + 1, column : column + width + 1]
            phase = by_rows(seen, kernel, bias).permute(0, 3, 1, 2)
        else:
            # With zeros on every side, there is a result more each way than there is room for.
            phase = convolution(x, kernel, bias, (1, 1), (1, 1))
            phase = phase[:, :, row : row + height, column : column + width]
        out[:, :, row::2, column::2] = phase
    return out


@dataclass(frozen=True)
class _Kept:
    """Kernels, and the weight that they are of, as it was."""

    kernels: Tensor
    weight: "weakref.ref[Tensor]"
    state: tuple[Any, ...]

    def are_of(self, weight: Tensor) -> bool:
        return self.weight() is weight and self.state == _state(weight)


# Beside the modules, not in them: nothing of it reaches a state dict, a copy or a file.
_KEPT: "WeakKeyDictionary[nn.Module, _Kept]" = WeakKeyDictionary()


def kernels_of(conv: nn.Conv2d) -> Tensor:
    """The four kernels of a layer, computed again only if its weight is another or has changed.

    16/9 of the memory of the weight, for as long as the layer lives; `forget` lets go of them.
    """
    kept = _KEPT.get(conv)
    if kept is None or not kept.are_of(conv.weight):
        with torch.no_grad():
            kernels = folded(conv.weight)
        kept = _Kept(kernels, weakref.ref(conv.weight), _state(conv.weight))
        _KEPT[conv] = kept
    return kept.kernels


def forget(network: nn.Module) -> None:
    """Let go of all kernels that are kept for the layers of a network."""
    for module in network.modules():
        _KEPT.pop(module, None)


def _state(weight: Tensor) -> tuple[Any, ...]:
    # Tensors of inference mode count no versions; nothing may write to them outside of it.
    version = 0 if weight.is_inference() else weight._version
    return version, weight.data_ptr(), weight.dtype, weight.device
