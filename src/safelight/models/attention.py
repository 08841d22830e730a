"""Attention over tokens, with the doors that adapters, guidances and observers need.

Shapes: B batch, N query tokens, M key tokens, C width of the queries, D width of the context,
T image tokens, R reference tokens, d width of a head, h w height and width of the feature map whose
pixels are the queries (N = h w).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models import cpu_attention
from safelight.models.layers import Linear
from safelight.models.text_states import KeptText

FEW_KEYS = 256  # up to here attention on a CPU learns faster in float32 than in bfloat16


class ImageTokens(NamedTuple):
    """What one image prompt brings to the branches of its adapter."""

    adapter: str
    tokens: Tensor  # (B, T, D)
    scale: float = 1.0
    mask: Tensor | None = None  # (B, 1, H, W) in 0..1, any size: how much it counts at each place


class Look(NamedTuple):
    """One attention in one forward pass, as an observer is told of it."""

    module: str  # as in `UNet.named_modules()`: "mid_block.attentions.0.transformer_blocks.0.attn2"
    cross: bool  # to the context; else to itself
    size: tuple[int, int]  # h, w
    heads: int
    query: Tensor  # (B, N, C), not yet split into heads
    key: Tensor  # (B, M, C)
    source: Tensor  # (B, M, D) what the keys and values are made of: the context, or the tokens


class Observer(Protocol):
    """Told what attention looks at while a network runs; it changes nothing.

    Under gradient checkpointing, it is told again in the backward pass.
    """

    def wants(self, module: str, cross: bool) -> bool:
        """Whether to tell it of this module."""
        ...

    def saw(self, look: Look) -> None:
        """Told of one attention. The tensors are the network's own: leave them as they are."""
        ...


class Reference(NamedTuple):
    """What a self-attention looks at besides its own tokens (reference-only control).

    share: how much of the result comes from looking at both; the rest from looking at itself alone.
    """

    tokens: Tensor  # (B, R, C), such as `Look.source` of the same module in another pass
    share: Tensor | None = None  # (B,) in 0..1; None is 1 for all


class Nudge(NamedTuple):
    """What is added to the inputs of some projections (ControlNet-LLLite).

    of: (name of the layer, such as "....attn1.to_q"; its input (B, N, C)) -> what to add to the
    input, or None for a layer that is left alone.
    """

    of: Callable[[str, Tensor], Tensor | None]
    scale: float = 1.0


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) -> (B, heads, N, d)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    learns: bool = False,
) -> Tensor:
    """Multi-head attention, softmax(q kᵀ / √d) v, on tokens before they are split into heads.

    query (B, N, C), key and value (B, M, C) -> (B, N, C). `mask` is added to the scores if it is
    floating point; if boolean, True means "may look"; it broadcasts to (B, heads, N, M).
    """
    if mask is None and not learns and cpu_attention.served(query, key, value, heads):
        return cpu_attention.blocked(query, key, value, heads)
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
    prompt's scale and mask, this is added before the output projection (decoupled cross-attention,
    Ye et al. 2023, arXiv:2308.06721). An empty door adds no keys to the state dict.

    `module` is the name of this attention in its network (`named_attentions`), for observers.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self, width: int, heads: int, *, context_width: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.module = ""
        self.to_q = Linear(width, width, bias)
        self.to_k = Linear(context_width or width, width, bias)
        self.to_v = Linear(context_width or width, width, bias)
        # A list of one, as in files, where a dropout stood second.
        self.to_out = nn.ModuleList([Linear(width, width)])
        self.branches = nn.ModuleDict()

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        images: Sequence[ImageTokens] = (),
        *,
        size: tuple[int, int] | None = None,
        observer: Observer | None = None,
        reference: Reference | None = None,
        nudges: Sequence[Nudge] = (),
        texts: KeptText | None = None,
    ) -> Tensor:
        """(B, N, C) attending to `context` (B, M, D), or to itself -> (B, N, C).

        texts: what is kept of this context, if anything is.
        size: h, w of the map whose pixels the N tokens are, for masks and observers; None: N, 1.
        """
        source = x if context is None else context
        query = self.to_q(self._nudged("to_q", x, nudges))
        if texts is not None and not nudges:
            key, value = texts.through(self.to_k, source), texts.through(self.to_v, source)
        else:
            key = self.to_k(self._nudged("to_k", source, nudges))
            value = self.to_v(self._nudged("to_v", source, nudges))
        size = size or (x.shape[1], 1)
        cross = context is not None
        if observer is not None and observer.wants(self.module, cross):
            observer.saw(Look(self.module, cross, size, self.heads, query, key, source))
        y = attend(query, key, value, self.heads, learns=self.training)
        if reference is not None:
            y = self._with_reference(y, query, key, value, reference)
        for image in images:
            if image.scale and image.adapter in self.branches:
                branch = self.branches[image.adapter]
                seen = branch(split_heads(query, self.heads), image.tokens)  # (B, heads, N, d)
                added = image.scale * join_heads(seen).to(y.dtype)
                if image.mask is not None:
                    added = added * mask_of_tokens(image.mask, size).to(y)
                y = y + added
        return self._out(y)

    def identity(self, x: Tensor, nudges: Sequence[Nudge] = ()) -> Tensor:
        """Self-attention whose map is the identity: every token sees only itself.

        Perturbed-attention guidance (Ahn et al. 2024, arXiv:2403.17377), eq. 13.
        """
        return self._out(self.to_v(self._nudged("to_v", x, nudges)))

    def with_map(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output (B, N, C), and the attention map (B, heads, N, M) in float32."""
        source = x if context is None else context
        weights = attention_map(self.to_q(x), self.to_k(source), self.heads)
        return self(x, context), weights

    def _nudged(self, layer: str, x: Tensor, nudges: Sequence[Nudge]) -> Tensor:
        moved = x
        for nudge in nudges:
            change = nudge.of(f"{self.module}.{layer}", x)
            if change is not None:
                moved = moved + nudge.scale * change.to(x.dtype)
        return moved

    def _with_reference(
        self, alone: Tensor, query: Tensor, key: Tensor, value: Tensor, reference: Reference
    ) -> Tensor:
        """`alone`, the attention to its own tokens, mixed with attention to the reference, too."""
        keys = torch.cat([key, self.to_k(reference.tokens)], dim=1)
        values = torch.cat([value, self.to_v(reference.tokens)], dim=1)
        both = attend(query, keys, values, self.heads, learns=self.training)
        if reference.share is None:
            return both
        return torch.lerp(alone, both, reference.share.to(alone.dtype)[:, None, None])

    def _out(self, y: Tensor) -> Tensor:
        out: Tensor = self.to_out[0](y)
        return out


def mask_of_tokens(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (B, 1, H, W) of any size at the places of h w tokens: (B, h w, 1).

    Bicubic without smoothing, as Diffusers' `IPAdapterMaskProcessor.downsample`.
    """
    if mask.shape[-2:] != size:
        mask = F.interpolate(mask.float(), size=size, mode="bicubic")
    return mask.flatten(2).mT


def named_attentions(network: nn.Module) -> dict[str, Attention]:
    """Every attention in a network by its name in `named_modules()`."""
    return {
        name: module for name, module in network.named_modules() if isinstance(module, Attention)
    }


def tell_names(network: nn.Module) -> None:
    """Let every attention know its name in the network, which it tells observers."""
    for name, module in named_attentions(network).items():
        module.module = name
