"""Parts of pictures painted anew and judged: random masks, the part they lie in, and how far two
ways of painting are apart in kernel distance.

Shapes: S pixels of a side, N M pictures, D features.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safelight.canvas.region import only_masked
from safelight.errors import RequestError
from safelight.evaluation.intervals import Estimate, percentiles

Pixels = NDArray[np.uint8]
SHAPES = ("box", "ellipse", "stroke")
MIDDLE, LENGTH = (0.3, 0.7), (0.35, 0.7)  # of the side: where a mask's middle lies, how long it is
MARGIN = 12  # pixels around a mask that are looked at with it, so that seams are seen


def random_mask(side: int, seed: int) -> Pixels:
    """A white box, ellipse or thick stroke on black, (S, S, 3): the same for the same seed."""
    dice = np.random.default_rng(seed)
    shape = SHAPES[int(dice.integers(len(SHAPES)))]
    x, y = dice.uniform(*MIDDLE, size=2)
    across, along = dice.uniform(*LENGTH, size=2) / 2
    v, u = np.meshgrid(*2 * ((np.arange(side) + 0.5) / side,), indexing="ij")
    u, v = u - x, v - y
    if shape == "box":
        inside = (np.abs(u) <= across) & (np.abs(v) <= along)
    elif shape == "ellipse":
        inside = (u / across) ** 2 + (v / along) ** 2 <= 1
    else:
        turn = dice.uniform(0, np.pi)
        length = along + 0.1
        run = np.clip(u * np.cos(turn) + v * np.sin(turn), -length, length)
        gap = (u - run * np.cos(turn)) ** 2 + (v - run * np.sin(turn)) ** 2
        inside = gap <= (0.35 * across + 0.05) ** 2
    return np.repeat((inside * np.uint8(255))[..., None], 3, axis=2)


def masked_part(picture: Pixels, mask: Pixels) -> Pixels:
    """The square around a mask with a margin, cut out of the picture (S, S, 3): (s, s, 3).

    Raises RequestError for an empty mask.
    """
    side = picture.shape[0]
    region = only_masked((mask[..., 0] > 127).astype(np.float32), (side, side), MARGIN)
    if region is None:
        raise RequestError("the mask is empty; there is no part to look at.")
    return np.ascontiguousarray(picture[region.slices])


def kernel_gain(
    real: Tensor, one: Tensor, other: Tensor, *, seed: int = 0, draws: int = 500
) -> Estimate:
    """How much farther `other` is from `real` than `one`: a difference of two kernel distances.

    Features (N, D) of real pictures and (M, D) of two ways to paint the same M pictures. The
    distance is that of `evaluation.kernel` (unbiased squared MMD, cubic kernel); the bootstrap
    draws pictures, and with each both ways of painting it, so what they share cancels.
    Raises RequestError unless the two ways have the same number of pictures.
    """
    if one.shape != other.shape:
        raise RequestError(
            f"two ways to paint the same pictures are compared; got {len(one)} and {len(other)}"
        )
    x, a, b = (features.detach().double() for features in (real, one, other))
    within = _kernel(b, b) - _kernel(a, a)
    within.fill_diagonal_(0)
    between = _kernel(x, b) - _kernel(x, a)

    def gain(p: Tensor, q: Tensor) -> Tensor:
        """For the weights p (R, N) and q (R, M) of the pictures: (R,)."""
        pairs = q.sum(dim=1) ** 2 - q.square().sum(dim=1)
        crossed = ((p @ between) * q).sum(dim=1) / (p.sum(dim=1) * q.sum(dim=1))
        return ((q @ within) * q).sum(dim=1) / pairs - 2 * crossed

    value = float(gain(x.new_ones(1, len(x)), x.new_ones(1, len(a)))[0])
    generator = torch.Generator().manual_seed(seed)
    picks = [torch.randint(len(z), (draws, len(z)), generator=generator) for z in (x, a)]
    p, q = (
        x.new_zeros(draws, chosen.shape[1]).scatter_add_(1, chosen, torch.ones_like(chosen).to(x))
        for chosen in picks
    )
    low, high = percentiles(gain(p, q))
    return Estimate(value, low, high, len(a))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
