"""Image prompts: pictures as tokens beside the text (IP-Adapter, Ye et al. 2023, arXiv:2308.06721).

A projection makes tokens of what a CLIP vision tower says of a picture; a branch in every
cross-attention of the U-Net attends to them with keys and values of its own. Names are those of
the published files.

Shapes: B batch, E width of the vision tower's output, P its patches and class token, T tokens, D
width of the tokens (that of the text), W width inside the resampler, N queries, d width of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models.attention import attend, split_heads
from safelight.models.layers import LayerNorm, Linear

HEAD_WIDTH = 64
"""Of every published resampler; its files do not tell."""

Kind = Literal["plain", "plus", "full"]


@dataclass(frozen=True, slots=True)
class ImagePromptConfig:
    """The shape of an adapter.

    kind: "plain" reads the vision tower's projected embedding; "plus" its patches, through a
        resampler; "full" its patches, each through a small MLP (full-face).
    """

    kind: Kind
    input_width: int  # E
    context_width: int  # D
    branches: tuple[tuple[int, int], ...]  # number and width of each cross-attention it extends
    tokens: int | None = 4  # T of one picture; None: one for each patch, and the class ("full")
    hidden_width: int = 0  # W; with the three below for "plus" only
    depth: int = 0
    heads: int = 0
    mlp_width: int = 0

    @property
    def reads_patches(self) -> bool:
        """Whether it reads the penultimate hidden states, and not the projected embedding."""
        return self.kind != "plain"


class ImagePromptNet(nn.Module):
    """The weights of an adapter: `image_proj`, and `ip_adapter` with one branch by its number.

    Numbers count all attentions of a U-Net, self-attentions too, in Diffusers' order.
    """

    def __init__(self, config: ImagePromptConfig) -> None:
        super().__init__()
        self.config = config
        self.image_proj = _projection(config)
        self.ip_adapter = nn.ModuleDict(
            {str(n): Branch(config.context_width, width) for n, width in config.branches}
        )

    def branch(self, number: int) -> "Branch":
        """The branch for the attention of that number."""
        branch = self.ip_adapter[str(number)]
        assert isinstance(branch, Branch)
        return branch

    def forward(self, features: Tensor) -> Tensor:
        """Plain: embeddings (B, E); else hidden states (B, P, E) -> tokens (B, T, D)."""
        tokens: Tensor = self.image_proj(features)
        return tokens


class Branch(nn.Module):
    """Attention of a cross-attention's own queries to image tokens.

    (B, heads, N, d) and (B, T, D) -> (B, heads, N, d).
    """

    __call__: Callable[..., Tensor]

    def __init__(self, context_width: int, width: int) -> None:
        super().__init__()
        self.to_k_ip = Linear(context_width, width, bias=False)
        self.to_v_ip = Linear(context_width, width, bias=False)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        heads = query.shape[1]
        key = split_heads(self.to_k_ip(tokens).to(query.dtype), heads)
        value = split_heads(self.to_v_ip(tokens).to(query.dtype), heads)
        return F.scaled_dot_product_attention(query, key, value)


class ScaledBranch(nn.Module):
    """A branch times a factor, for adapters that count more in some layers than in others."""

    def __init__(self, branch: Branch, factor: float) -> None:
        super().__init__()
        self.branch = branch
        self.factor = factor

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """As `Branch.forward`."""
        seen: Tensor = self.branch(query, tokens)
        return seen * self.factor


class PlainProjection(nn.Module):
    """One embedding to T tokens: linear, then normed. (B, E) -> (B, T, D)."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: ImagePromptConfig) -> None:
        super().__init__()
        assert config.tokens is not None
        self.tokens = config.tokens
        self.proj = Linear(config.input_width, config.tokens * config.context_width)
        self.norm = LayerNorm(config.context_width)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(self.proj(embedding).unflatten(-1, (self.tokens, -1)))


class FullProjection(nn.Module):
    """Every patch to a token: linear, GELU, linear, norm. (B, P, E) -> (B, P, D)."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: ImagePromptConfig) -> None:
        super().__init__()
        width = config.input_width
        self.proj = nn.Sequential(
            Linear(width, width),
            nn.GELU(),
            Linear(width, config.context_width),
            LayerNorm(config.context_width),
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        tokens: Tensor = self.proj(hidden_states)
        return tokens


class Resampler(nn.Module):
    """T learned queries that look at the patches and at one another, layer by layer.

    (B, P, E) -> (B, T, D). The perceiver of Flamingo (Alayrac et al. 2022, arXiv:2204.14198).
    """

    __call__: Callable[..., Tensor]

    def __init__(self, config: ImagePromptConfig) -> None:
        super().__init__()
        assert config.tokens is not None
        width = config.hidden_width
        self.latents = nn.Parameter(torch.randn(1, config.tokens, width) * width**-0.5)
        self.proj_in = Linear(config.input_width, width)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width, config.heads), _mlp(width, config.mlp_width)])
            for _ in range(config.depth)
        )
        self.proj_out = Linear(width, config.context_width)
        self.norm_out = LayerNorm(config.context_width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        patches = self.proj_in(hidden_states)
        x = self.latents.expand(len(patches), -1, -1)  # (B, T, W)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            attention, mlp = layer
            x = x + attention(patches, x)
            x = x + mlp(x)
        return self.norm_out(self.proj_out(x))


class PerceiverAttention(nn.Module):
    """Queries (B, T, W) looking at patches (B, P, W) and at themselves -> (B, T, W)."""

    __call__: Callable[..., Tensor]

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        inner = heads * HEAD_WIDTH
        self.heads = heads
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)
        self.to_q = Linear(width, inner, bias=False)
        self.to_kv = Linear(width, 2 * inner, bias=False)
        self.to_out = Linear(inner, width, bias=False)

    def forward(self, patches: Tensor, queries: Tensor) -> Tensor:
        queries = self.norm2(queries)
        seen = torch.cat([self.norm1(patches), queries], dim=1)
        key, value = self.to_kv(seen).chunk(2, dim=-1)
        y = attend(self.to_q(queries), key, value, self.heads, learns=self.training)
        return self.to_out(y)


def _mlp(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        LayerNorm(width),
        Linear(width, inner, bias=False),
        nn.GELU(),
        Linear(inner, width, bias=False),
    )


def _projection(config: ImagePromptConfig) -> nn.Module:
    match config.kind:
        case "plain":
            return PlainProjection(config)
        case "plus":
            return Resampler(config)
        case "full":
            return FullProjection(config)
