"""What the words of a text were attended to by, summed over heads, layers and steps.

After DAAM (Tang et al. 2022, arXiv:2210.04885). Maps of one resolution are summed as they come, so
memory does not grow with steps or layers: for each text and picture, L numbers for every place of
each resolution at which the network attends.

Shapes: B rows of a batch, L tokens of a text, D their width, N queries, h w places.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.models.attention import Look, attention_map

COARSEST = 4
"""Maps of less than a fourth of the latents' side are too coarse to count, as in DAAM's code."""
MOST_AT_ONCE = 2**24  # numbers of attention maps held at one time

Size = tuple[int, int]


@dataclass
class _Sums:
    """What was seen of one text in one picture: maps by resolution, and how many heads of each."""

    maps: dict[Size, Tensor] = field(default_factory=dict)  # (L, h, w) float32
    heads: dict[Size, Tensor] = field(default_factory=dict)

    def add(self, size: Size, total: Tensor, heads: int) -> None:
        # A call that overflows is made again in float32; of the first one nothing may stay. No
        # number is asked for here: on a GPU, that would wait for all that is still being computed.
        finite = torch.isfinite(total).all()
        total = torch.where(finite, total, 0.0)
        counted = heads * finite.to(total.dtype)
        known = self.maps.get(size)
        self.maps[size] = total if known is None else known + total
        self.heads[size] = counted if known is None else self.heads[size] + counted


class AttentionRecorder:
    """An observer that sums cross-attention to some texts; see `Observer`.

    A row of a batch counts for the text whose tokens it was told, to the bit; so negatives and
    other texts are left out whatever calls they come in. Of several rows with the same tokens in
    one call, the first is that of the first picture. A network that is asked for tiles of a picture
    cannot be recorded: all tiles would lie on top of one another.
    """

    def __init__(self, contexts: Mapping[str, Tensor]) -> None:
        """contexts: what the network is told of each text: (L, D), or (B, L, D) with equal rows."""
        self._contexts = {
            text: (context if context.ndim == 2 else context[0]).detach()
            for text, context in contexts.items()
        }
        self._sums: dict[tuple[str, int], _Sums] = {}
        # The modules of one call are told the same tensor: it is compared once.
        self._source: Tensor | None = None
        self._rows: list[tuple[int, str, int]] = []

    def wants(self, module: str, cross: bool) -> bool:
        """Cross-attention only."""
        return cross

    @torch.no_grad()
    def saw(self, look: Look) -> None:
        """Add one attention to the sums."""
        if look.source is not self._source:
            self._source, self._rows = look.source, self._counted(look.source)
        for row, text, picture in self._rows:
            total = _over_heads(look.query[row], look.key[row], look.heads)  # (L, N)
            sums = self._sums.setdefault((text, picture), _Sums())
            sums.add(look.size, total.unflatten(1, look.size), look.heads)

    def pictures(self, text: str) -> int:
        """Of how many pictures the text was seen."""
        return sum(key[0] == text for key in self._sums)

    def maps(self, text: str, size: Size, *, picture: int = 0, coarsest: int = COARSEST) -> Tensor:
        """How much each place attends to each token: (L, h, w) float32 on the CPU.

        The mean over heads, layers and calls, each brought to `size` by bicubic interpolation. At
        every place the tokens (start, end and padding too) sum to 1. Layers more than `coarsest`
        times coarser than `size` are left out if there are others.
        Raises RequestError if the network was never asked for this text.
        """
        sums = self._sums.get((text, picture))
        if sums is None:
            raise RequestError(
                f"no attention to this text was recorded for picture {picture}; record while it is "
                "drawn, with a U-Net that attends to text"
            )
        fine = [s for s in sums.maps if s[0] * coarsest >= size[0] and s[1] * coarsest >= size[1]]
        # Interpolation is linear, so it may follow the sum over layers and steps.
        total = torch.stack([_resized(sums.maps[s], size) for s in fine or sums.maps]).sum(0)
        heads = torch.stack([sums.heads[s] for s in fine or sums.maps]).sum(0)
        mean = (total / heads.clamp(min=1)).clamp(min=0)  # bicubic may pass below 0
        return (mean / mean.sum(0).clamp(min=1e-12)).cpu()

    def _counted(self, source: Tensor) -> list[tuple[int, str, int]]:
        """(row, text, picture) of the rows of a batch (B, L, D) that tell a text of ours."""
        found, seen = [], dict.fromkeys(self._contexts, 0)
        told = {t: c.to(source.device, source.dtype) for t, c in self._contexts.items()}
        for row, tokens in enumerate(source):
            for text, context in told.items():
                if tokens.shape == context.shape and torch.equal(tokens, context):
                    found.append((row, text, seen[text]))
                    seen[text] += 1
                    break
        return found


def _over_heads(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """The attention maps of (N, C) to (L, C), summed over heads: (L, N) float32."""
    step = max(1, MOST_AT_ONCE // (heads * len(key)))
    parts = [attention_map(part[None], key[None], heads)[0].sum(0).mT for part in query.split(step)]
    return torch.cat(parts, dim=1)


def _resized(maps: Tensor, size: Size) -> Tensor:
    if maps.shape[1:] == size:
        return maps
    shrinks = maps.shape[1] > size[0] or maps.shape[2] > size[1]
    return F.interpolate(maps[None], size=size, mode="bicubic", antialias=shrinks)[0]
