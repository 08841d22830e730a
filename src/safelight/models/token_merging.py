"""Token merging: attention over fewer tokens, of which the most alike have become one.

Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion" (arXiv:2303.17604): the tokens of
a feature map are parted into destinations, one in each 2 x 2 cell, and sources, all others. The
sources that are most like a destination are averaged into it; after the layer, each of them gets
what its destination got.

Shapes: B batch, N = h w tokens, C channels, S sources, D destinations, M merged sources.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Part = Literal["self", "cross", "feed-forward"]
PARTS: tuple[Part, ...] = ("self", "cross", "feed-forward")

CELL = 2  # one destination in CELL x CELL tokens
MOST = 1 - 1 / CELL**2  # the largest share of tokens that can be merged: all sources
_SCORES = 2**24  # similarities computed at once: 64 MB in float32


@dataclass(frozen=True, slots=True)
class Merging:
    """How many tokens are merged, and where.

    ratio: the share of all tokens, in [0, 0.75]. levels: so many levels of the U-Net, the finest
        first; never its middle. parts: what sees merged tokens within a transformer block.
    seed: of the places of the destinations within their cells, the same for every picture.
    """

    ratio: float
    levels: int = 1
    parts: tuple[Part, ...] = ("self",)
    seed: int = 0


class Joined:
    """Which tokens of a batch are merged, for a block whose parts all merge alike."""

    def __init__(
        self, parts: tuple[Part, ...], kept: Tensor, merged: Tensor, into: Tensor, tokens: int
    ) -> None:
        """kept (B, N - M): the tokens that stay, destinations last; merged (B, M): those that do
        not; into (B, M): where among the kept ones each of them goes."""
        self.parts = parts
        self._kept, self._merged, self._into, self._tokens = kept, merged, into, tokens

    def merge(self, x: Tensor, part: Part) -> Tensor:
        """(B, N, C) -> (B, N - M, C), averages; x itself for a part that does not merge."""
        if part not in self.parts:
            return x
        batch, count = len(x), self._kept.shape[1]
        rows = torch.arange(batch, device=x.device)[:, None]
        stay = x[rows, self._kept].flatten(0, 1).contiguous()  # (B (N - M), C)
        into = (self._into + rows * count).flatten()
        total = stay.index_add(0, into, x[rows, self._merged].flatten(0, 1))
        ones = torch.ones(len(into), dtype=x.dtype, device=x.device)
        number = torch.ones(batch * count, dtype=x.dtype, device=x.device).index_add(0, into, ones)
        means: Tensor = (total / number[:, None]).unflatten(0, (batch, count))
        return means

    def split(self, y: Tensor, part: Part) -> Tensor:
        """(B, N - M, C) -> (B, N, C): each merged token gets what its destination got."""
        if part not in self.parts:
            return y
        rows = torch.arange(len(y), device=y.device)[:, None]
        whole = y.new_empty(len(y), self._tokens, y.shape[2])
        whole[rows, self._kept] = y
        whole[rows, self._merged] = y[rows, self._into]
        return whole


def joined(x: Tensor, size: tuple[int, int], merging: Merging) -> Joined | None:
    """Which of the tokens x (B, N, C) of an h x w map are merged; None if there are none.

    Pictures of a batch are merged apart. The same tokens give the same answer.
    """
    tokens, count = x.shape[1], int(x.shape[1] * merging.ratio)
    sources, destinations = _parted(*size, merging.seed)
    count = min(count, len(sources))
    if count == 0 or len(destinations) == 0:
        return None
    sources, destinations = sources.to(x.device), destinations.to(x.device)
    with torch.no_grad():
        unit = x.detach() / x.detach().norm(dim=-1, keepdim=True).clamp_min(1e-12)
        best, nearest = _nearest(unit[:, sources], unit[:, destinations])  # (B, S)
        order = best.argsort(dim=-1, descending=True, stable=True)
    merged, stays = order[:, :count], order[:, count:]
    whole = destinations.expand(len(x), -1)
    kept = torch.cat([sources[stays], whole], dim=1)
    into = nearest.gather(1, merged) + stays.shape[1]
    return Joined(merging.parts, kept, sources[merged], into, tokens)


def _nearest(sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """Likeness to the most alike destination, and its number: both (B, S)."""
    at_once = max(1, _SCORES // (len(sources) * destinations.shape[1]))
    found = [(part @ destinations.mT).max(dim=-1) for part in sources.split(at_once, dim=1)]
    return torch.cat([f.values for f in found], 1), torch.cat([f.indices for f in found], 1)


@lru_cache(maxsize=32)
def _parted(height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """The numbers of all sources (S) and destinations (D), each in rising order.

    A border that fills no cell is of sources alone.
    """
    rows, columns = height // CELL, width // CELL
    rng = torch.Generator().manual_seed(seed)
    place = torch.randint(CELL * CELL, (rows, columns), generator=rng)
    down = torch.arange(rows)[:, None] * CELL + place // CELL
    across = torch.arange(columns) * CELL + place % CELL
    chosen = torch.zeros(height * width, dtype=torch.bool)
    chosen[(down * width + across).flatten()] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
