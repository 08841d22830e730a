"""Convolutions on x86 processors without a gradient.

oneDNN computes with the channels of a place side by side. A map in that order (channels-last) is
taken as it is; any other is brought into it and back by every layer. So here maps are put in order
once, and stay so. Weights are brought into an order of their own at each call: for a deep layer
on a small map that is half of the work. There, the patches are laid out as rows and multiplied
with the weights as they lie in memory: less work, and no second copy of the weights is kept.

Measured on one Zen 5 core, milliseconds, as `F.conv2d` does it for maps in the usual order -> here:
1280 channels on 2 maps of 8 x 8 in bfloat16 16 -> 12, in float32 47 -> 20; on 16 x 16 42 -> 43 and
100 -> 79; 320 channels on 64 x 64 31 -> 30 and 66 -> 61; 1 x 1 with 320 channels on 64 x 64 5.4 ->
3.5 and 18 -> 7.5. Weights that are channels-last, too, would take another 4 % from a step of SD
1.5 in bfloat16, but not with the same bits, and could not be the mapped file itself.

Shapes: B batch, C channels, h w height and width of the map, k size of the kernel.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.models.cpu_product import NARROW, plain, product, recorded

CHANNELS_LAST = torch.channels_last
ROWS_OF_CHANNELS = 0.5  # up to so many places for each channel made, rows beat a convolution


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
) -> Tensor:
    """`F.conv2d` by the fastest way there is: (B, C, h, w), (n, C, k, k), (n,) -> (B, n, h', w').

    Without a gradient the result is channels-last, whatever the order of the map.
    """
    if not served(weight, bias, x):
        return F.conv2d(x, weight, bias, stride, padding)
    x = x.contiguous(memory_format=CHANNELS_LAST)
    if weight.shape[2:] == (1, 1) and stride == (1, 1) and padding == (0, 0):
        return product(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    height, width = (
        (x.shape[2 + i] + 2 * padding[i] - weight.shape[2 + i]) // stride[i] + 1 for i in (0, 1)
    )
    if 0 < x.shape[0] * height * width <= ROWS_OF_CHANNELS * len(weight):
        return by_rows(padded_places(x, padding), weight, bias, stride).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, stride, padding)


def served(weight: Tensor, bias: Tensor | None, *maps: Tensor) -> bool:
    """Whether `convolution` goes its own way with these weights, and maps."""
    given = (*maps, weight) if bias is None else (*maps, weight, bias)
    return (
        plain(*given)
        and not recorded(*given)
        and (weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and NARROW))
        and all(x.ndim == 4 for x in maps)
    )


def by_rows(
    places: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...] = (1, 1)
) -> Tensor:
    """Each patch a row, times the weights as they lie: (B, h, w, C), padded -> (B, h', w', n)."""
    tall, wide = weight.shape[2:]
    patches = places.unfold(1, tall, stride[0]).unfold(2, wide, stride[1])  # (B, h', w', C, k, k)
    if weight.is_contiguous():
        return product(patches.flatten(3), weight.flatten(1), bias)
    rows = patches.permute(0, 1, 2, 4, 5, 3).flatten(3)
    return product(rows, weight.permute(0, 2, 3, 1).flatten(1), bias)


def padded_places(x: Tensor, padding: tuple[int, ...]) -> Tensor:
    """The places of a map with zeros around: (B, C, h, w) -> (B, h + 2 p, w + 2 p, C)."""
    above, aside = padding
    places = x.permute(0, 2, 3, 1)
    return F.pad(places, (0, 0, aside, aside, above, above)) if above or aside else places
