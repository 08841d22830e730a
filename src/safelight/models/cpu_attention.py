"""Attention on x86 processors without a gradient, in blocks of queries, through oneDNN.

PyTorch's own kernel (`F.scaled_dot_product_attention`) multiplies by MKL, which on processors of
other makers than its own reaches half of what oneDNN does. Here one head sees a block of queries at
a time, with all keys, so that the scores stay in the cache between the first product, the softmax
and the second product. All of it is float32, whatever the type: only the result is rounded.

Measured on one Zen 5 core, nanoseconds for each score, PyTorch's kernel -> here: 4096 tokens and
heads of 40 in bfloat16 2.15 -> 1.41, in float32 1.97 -> 1.39; 1024 of 80 3.72 -> 2.31 and 3.38 ->
2.24; 1024 of 64 3.13 -> 1.91 and 2.86 -> 1.91; 4096 of 512 20 -> 10.2 and 19.7 -> 10.0; 4096 to 77
keys of 40 3.55 -> 2.72 and 3.43 -> 2.74; 256 of 160 7.7 -> 5.7 and 7.2 -> 5.4. Below
`FEWEST_PRODUCTS` the two are equal, or PyTorch's is faster. Error against float64, of the output:
in bfloat16 1.7e-3, by rounding the output alone (PyTorch's 2.3e-3), in float32 6e-7 (4e-7).

A second product in bfloat16 would take 7 (heads of 40) to 15 % (of 80) less, but by weights of
eight bits errs more than PyTorch's kernel: by 3 % where a query looks at many keys, by more than
10 % where it looks at few.

Shapes: B batch, N query tokens, M key tokens, C width, d width of a head.
"""

import math

import torch
from torch import Tensor

from safelight.models.cpu_product import READY, plain, product, recorded

SCORES = 2**20  # of a block: 4 MiB in float32
FEWEST_ROWS = 128  # of a block
FEWEST_PRODUCTS = 2**22  # N M d of one head; below, the calls cost more than they gain

# Processors with tile registers: PyTorch's kernel uses them for bfloat16.
_TILES = READY and torch.cpu._is_amx_tile_supported()


def served(query: Tensor, key: Tensor, value: Tensor, heads: int) -> bool:
    """Whether `blocked` is the faster way to attend with these: (B, N, C), (B, M, C), (B, M, C)."""
    if not plain(query, key, value) or recorded(query, key, value):
        return False
    if query.dtype != torch.float32 and (query.dtype != torch.bfloat16 or _TILES):
        return False
    return query.shape[1] * key.shape[1] * query.shape[2] >= FEWEST_PRODUCTS * heads


def blocked(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / √d) v for each head: (B, N, C), (B, M, C), (B, M, C) -> (B, N, C)."""
    batch, n, width = query.shape
    out = torch.empty(batch, n, heads, width // heads, dtype=query.dtype)
    q = _by_head(query, heads).mul_(1.0 / math.sqrt(width // heads))  # (B, heads, N, d) float32
    k = _by_head(key, heads)
    v = _by_head(value, heads).mT.contiguous()  # (B, heads, d, M), as a layer's weight
    rows = max(FEWEST_ROWS, SCORES // key.shape[1])
    for b in range(batch):
        for h in range(heads):
            for start in range(0, n, rows):
                scores = product(q[b, h, start : start + rows], k[b, h])
                torch.softmax(scores, -1, out=scores)
                out[b, start : start + rows, h] = product(scores, v[b, h])
    return out.view(batch, n, width)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) -> (B, heads, N, d), a copy in float32."""
    split = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return torch.empty(split.shape, dtype=torch.float32).copy_(split)
