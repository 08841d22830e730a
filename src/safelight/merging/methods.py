"""The ways of merging, on one tensor of every model at a time.

Numbers are computed in float64, a few million at a time, and rounded once to the type of the
result. So merging a model with itself gives its bits, and memory holds the tensors that went in,
the one that comes out, and little more.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from math import atan2, sin, sqrt

import numpy as np
import torch
from torch import Tensor

PIECE = 2**21  # numbers at a time; dropped places depend on it, so it stays

Mix = Callable[[Sequence[Tensor]], Tensor]  # pieces in float64 -> their merge


def weighted_sum(models: Sequence[Tensor], weights: Sequence[float], dtype: torch.dtype) -> Tensor:
    """The sum of the models, each times its weight."""
    return _mixed(models, lambda pieces: _summed(pieces, weights), dtype)


def added_difference(
    first: Tensor,
    others: Sequence[Tensor],
    base: Tensor,
    weights: Sequence[float],
    *,
    dtype: torch.dtype,
) -> Tensor:
    """The first model, and of each other what it has learned since the base, times its weight."""

    def mix(pieces: Sequence[Tensor]) -> Tensor:
        origin, start, *rest = pieces
        return start + _summed([piece - origin for piece in rest], weights)

    return _mixed([base, first, *others], mix, dtype)


def spherical(a: Tensor, b: Tensor, t: float, dtype: torch.dtype) -> Tensor:
    """The point at share t of the way from a to b along the arc between their directions.

    Shoemake 1985, "Animating rotation with quaternion curves". Where the directions are the same
    or opposite, or one tensor is zero, there is no arc and the straight line is taken.
    """
    share_a, share_b = 1 - t, t
    if (angle := _angle(a, b)) is not None:
        share_a, share_b = (sin(share * angle) / sin(angle) for share in (1 - t, t))
    return _mixed([a, b], lambda pieces: _summed(pieces, (share_a, share_b)), dtype)


def elected(
    base: Tensor,
    others: Sequence[Tensor],
    weights: Sequence[float],
    *,
    density: float,
    dtype: torch.dtype,
) -> Tensor:
    """The base, and what the others have learned where most of them agree (TIES).

    Of each difference only the share `density` of largest magnitude counts; each place takes the
    sign of the weighted sum, and the mean of the weighted differences with that sign.
    Yadav et al. 2023 (arXiv:2306.01708), with weights of one lambda each.
    """
    cuts = [_cut(other, base, density) for other in others]

    def mix(pieces: Sequence[Tensor]) -> Tensor:
        origin, *rest = pieces
        kept = [cut(piece - origin) for cut, piece in zip(cuts, rest, strict=True)]
        return origin + _agreed(kept, weights)

    return _mixed([base, *others], mix, dtype)


def dropped(
    base: Tensor,
    others: Sequence[Tensor],
    weights: Sequence[float],
    *,
    density: float,
    seeds: Sequence[int],
    elect: bool,
    dtype: torch.dtype,
) -> Tensor:
    """The base, and of each difference a random share `density`, made as much larger (DARE).

    elect: join what remains as TIES does, instead of adding it up. seeds: one for each of the
    others. Yu et al. 2023 (arXiv:2311.03099).
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def mix(pieces: Sequence[Tensor]) -> Tensor:
        origin, *rest = pieces
        kept = [
            _thinned(piece - origin, density, generator)
            for generator, piece in zip(generators, rest, strict=True)
        ]
        return origin + (_agreed(kept, weights) if elect else _summed(kept, weights))

    return _mixed([base, *others], mix, dtype)


def place_seed(seed: int, *place: object) -> int:
    """A seed of its own for each place (model, part, tensor), whatever the order they come in."""
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little") >> 1


# -- pieces ----------------------------------------------------------------------------------------


def _mixed(tensors: Sequence[Tensor], mix: Mix, dtype: torch.dtype) -> Tensor:
    """A tensor of the same shape, made piece by piece."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    out = torch.empty(flat[0].numel(), dtype=dtype)
    for piece in _pieces(out.numel()):
        out[piece] = mix([tensor[piece].to(torch.float64) for tensor in flat]).to(dtype)
    return out.view(tensors[0].shape)


def _pieces(count: int) -> Iterator[slice]:
    return (slice(start, start + PIECE) for start in range(0, count, PIECE))


def _summed(pieces: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    # Weights of 0 are left out: 0 times an infinity would not be 0.
    weighed = [piece * w for piece, w in zip(pieces, weights, strict=True) if w]
    return reduce(torch.add, weighed) if weighed else torch.zeros_like(pieces[0])


def _angle(a: Tensor, b: Tensor) -> float | None:
    """The angle between two tensors in radians; None where it makes no arc."""
    flat = (a.reshape(-1), b.reshape(-1))
    norms = [sqrt(sum(float((_wide(t, p) ** 2).sum()) for p in _pieces(t.numel()))) for t in flat]
    if not all(norms):
        return None
    # Half the angle is the arc tangent of |u - v| over |u + v|: exact where a cosine is not.
    apart = together = 0.0
    for piece in _pieces(flat[0].numel()):
        u, v = (_wide(t, piece) / norm for t, norm in zip(flat, norms, strict=True))
        apart += float(((u - v) ** 2).sum())
        together += float(((u + v) ** 2).sum())
    angle = 2 * atan2(sqrt(apart), sqrt(together))
    return angle if sin(angle) > 1e-6 else None


def _wide(tensor: Tensor, piece: slice) -> Tensor:
    return tensor[piece].to(torch.float64)


def _agreed(kept: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Of differences the mean of those with the sign of their sum; 0 where none has."""
    weighed = [piece * weight for piece, weight in zip(kept, weights, strict=True)]
    upwards = torch.stack(weighed).sum(0) >= 0
    total, count = torch.zeros_like(kept[0]), torch.zeros_like(kept[0])
    for piece in weighed:
        fits = torch.where(upwards, piece > 0, piece < 0)
        total += torch.where(fits, piece, 0.0)
        count += fits
    return total / count.clamp(min=1)


def _thinned(difference: Tensor, density: float, generator: torch.Generator) -> Tensor:
    kept = torch.rand(difference.shape, generator=generator) < density
    return torch.where(kept, difference / density, 0.0)


def _cut(other: Tensor, base: Tensor, density: float) -> Callable[[Tensor], Tensor]:
    """What sets all but the largest share of a difference to 0, given its pieces in order.

    Exactly `density` of the places stay; of equals at the edge the first ones do.
    """
    flat, origin = other.reshape(-1), base.reshape(-1)
    count = flat.numel()
    keep = int(density * count)
    if keep >= count:
        return lambda piece: piece
    sizes = np.empty(count, np.float32)
    for piece in _pieces(count):
        sizes[piece] = (_wide(flat, piece) - _wide(origin, piece)).abs().float().numpy()
    if keep == 0:
        return torch.zeros_like
    sizes.partition(count - keep)
    edge = float(sizes[count - keep])
    left = keep - int((sizes[count - keep :] > edge).sum())  # of those equal to the edge

    def cut(difference: Tensor) -> Tensor:
        nonlocal left
        size = difference.abs().float()
        equal = size == edge
        first = equal & (equal.cumsum(0) <= left)
        left -= int(first.sum())
        return torch.where((size > edge) | first, difference, 0.0)

    return cut
