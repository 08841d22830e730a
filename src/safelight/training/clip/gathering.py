"""The rows of all ranks in one place, with gradients that find their way back.

A loss that compares every picture with every text needs the features of the whole batch. Plain
`all_gather` cuts the graph, so that each rank would learn from its own half of every pair only.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(rows: Tensor) -> Tensor:
    """The rows (B, ...) of every rank in the order of the ranks: (ranks x B, ...).

    Every rank must give as many. The gradient of a row is the sum of what it gets on all ranks; so
    if each rank's loss is the mean over its own rows and gradients are averaged over the ranks,
    the outcome is that of the whole batch on one. Without a process group the rows themselves.
    """
    if ranks() == 1:
        return rows
    if not rows.requires_grad:
        return _gather(rows)
    return _Gather.apply(rows)  # type: ignore[no-any-return, no-untyped-call]


def ranks() -> int:
    """How many processes train together: 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rows(count: int) -> slice:
    """Where the `count` rows of this rank lie among those that `gathered` gives."""
    rank = dist.get_rank() if ranks() > 1 else 0
    return slice(rank * count, (rank + 1) * count)


def _gather(rows: Tensor) -> Tensor:
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in range(ranks())]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return _gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[own_rows(ctx.count)]
