"""Attention over tokens, with the doors that adapters and guidances need.

Shapes: B batch, N query tokens, M key tokens, C width of the queries, D width of the context,
T image tokens, d width of a head.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models.layers import Linear

FEW_KEYS = 256  # up to here attention on a CPU learns faster in float32 than in bfloat16


class ImageTokens(NamedTuple):
    """What one image prompt brings to the branches of its adapter."""

    adapter: str
    tokens: Tensor  # (B, T, D)
    scale: float = 1.0


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) -> (B, heads, N, d)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, *, mask: Tensor | None = None
) -> Tensor:
    """Multi-head attention, softmax(q kᵀ / √d) v, on tokens before they are split into heads.

    query (B, N, C), key and value (B, M, C) -> (B, N, C). `mask` is added to the scores if it is
    floating point; if boolean, True means "may look"; it broadcasts to (B, heads, N, M).
    """
    q, k, v = (split_heads(x, heads) for x in (query, key, value))
    if _better_wide(q, k):
        wide = mask.float() if mask is not None and mask.is_floating_point() else mask
        y = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=wide)
        return join_heads(y.to(q.dtype))
    return join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def _better_wide(query: Tensor, key: Tensor) -> bool:
    """Whether float32 learns faster than the narrow type, and so is better in every way.

    PyTorch's bfloat16 kernel for CPUs repacks its operands for blocks of many keys: over few, its
    backward pass takes up to five times as long as that of float32.
    """
    return (
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and torch.is_grad_enabled()
        and (query.requires_grad or key.requires_grad)
        and key.shape[-2] <= FEW_KEYS
        and not torch.compiler.is_compiling()
    )


def attention_map(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """The weights themselves: (B, N, C), (B, M, C) -> (B, heads, N, M), rows sum to 1; float32."""
    q, k = split_heads(query.float(), heads), split_heads(key.float(), heads)
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)


class Attention(nn.Module):
    """Self-attention, or cross-attention to a context of width `context_width`.

    `branches` is the door of image prompts: an adapter puts a module there under its name, which is
    called with (query (B, heads, N, d), tokens (B, T, D)) and returns (B, heads, N, d); times the
    prompt's scale, this is added before the output projection (decoupled cross-attention, Ye et al.
    2023, arXiv:2308.06721). An empty door adds no keys to the state dict.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self, width: int, heads: int, *, context_width: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias)
        self.to_k = Linear(context_width or width, width, bias)
        self.to_v = Linear(context_width or width, width, bias)
        # A list of one, as in files, where a dropout stood second.
        self.to_out = nn.ModuleList([Linear(width, width)])
        self.branches = nn.ModuleDict()

    def forward(
        self, x: Tensor, context: Tensor | None = None, images: Sequence[ImageTokens] = ()
    ) -> Tensor:
        """(B, N, C) attending to `context` (B, M, D), or to itself -> (B, N, C)."""
        source = x if context is None else context
        query = self.to_q(x)
        y = attend(query, self.to_k(source), self.to_v(source), self.heads)
        for image in images:
            if image.adapter in self.branches:
                branch = self.branches[image.adapter]
                seen = branch(split_heads(query, self.heads), image.tokens)  # (B, heads, N, d)
                y = y + image.scale * join_heads(seen).to(y.dtype)
        return self._out(y)

    def identity(self, x: Tensor) -> Tensor:
        """Self-attention whose map is the identity: every token sees only itself.

        Perturbed-attention guidance (Ahn et al. 2024, arXiv:2403.17377), eq. 13.
        """
        return self._out(self.to_v(x))

    def with_map(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output (B, N, C), and the attention map (B, heads, N, M) in float32."""
        source = x if context is None else context
        weights = attention_map(self.to_q(x), self.to_k(source), self.heads)
        return self(x, context), weights

    def _out(self, y: Tensor) -> Tensor:
        out: Tensor = self.to_out[0](y)
        return out
