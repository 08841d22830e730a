"""How weights act on the encoding of a chunk.

Shapes: L rows of a chunk (77), D width. All in float32.
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

EPSILON = 1e-5  # compel's smallest weight: at 0 the tangent below is infinite


def multiplied(encoding: Tensor, weights: Tensor) -> Tensor:
    """A1111's "No norm": every row times its weight. (L, D), (L,) -> (L, D)."""
    return encoding * weights[:, None]


def mean_restored(encoding: Tensor, weights: Tensor) -> Tensor:
    """A1111's "Original": rows times weights, then all scaled so that the mean is as before.

    The mean is over rows and channels. Where the new mean is 0 or the factor is not finite, the
    rows stay as multiplied. (L, D), (L,) -> (L, D).
    """
    weighted = multiplied(encoding, weights)
    factor = encoding.mean() / weighted.mean()
    return weighted * factor if factor.isfinite() else weighted


def from_empty(encoding: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """ComfyUI's way: rows move on the line from the empty prompt's. (L, D), (L, D), (L,).

    Rows of weight 1 keep their bits.
    """
    moved = empty + (encoding - empty) * weights[:, None]
    return encoding.where((weights == 1)[:, None], moved)


def weakened(
    base: Tensor, weights_below_one: Sequence[float], without: Callable[[int], Tensor]
) -> Tensor:
    """compel's way for weights below 1: mixed with the encoding in which those tokens are hidden.

    base: (L, D), already moved by `from_empty`. without(i): the same with the tokens of the i-th
    weakened span hidden from attention. Shares are 1 for the base and tan((1 - w) π/2) for each.
    """
    total = base
    shares = 1.0
    for at, weight in enumerate(weights_below_one):
        share = math.tan((1 - max(EPSILON, weight)) * math.pi / 2)
        total = total + share * without(at)
        shares += share
    return total / shares
