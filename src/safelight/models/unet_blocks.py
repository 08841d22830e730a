"""The blocks of the U-Net: transformers, and the levels on the way down, in the middle and up.

Shapes: B batch, C channels, h w height and width, N = h w tokens, L text length, D width of the
text tokens, T width of the time embedding.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from safelight.models.attention import Attention, ImageTokens, Nudge, Observer, Reference
from safelight.models.layers import (
    Conv2d,
    Downsample,
    FeedForward,
    GroupNorm,
    LayerNorm,
    Linear,
    ResBlock,
    Upsample,
)
from safelight.models.text_states import KeptText
from safelight.models.token_merging import Joined, Merging, joined

NO_REFERENCES: Mapping[str, Reference] = MappingProxyType({})


class Told(NamedTuple):
    """What every block is told in one forward pass."""

    embedding: Tensor  # (B, T) time, class and vector, through SiLU
    context: Tensor  # (B, L, D)
    images: Sequence[ImageTokens] = ()
    checkpointing: bool = False  # training: recompute activations instead of keeping them
    observer: Observer | None = None
    references: Mapping[str, Reference] = NO_REFERENCES  # by the name of the self-attention
    nudges: Sequence[Nudge] = ()
    merging: Merging | None = None  # of tokens, before attention
    texts: KeptText | None = None  # what attention made of the context in an earlier pass

    def at(self, level: int) -> "Told":
        """What the blocks of one level are told, the finest being 0."""
        if self.merging is None or level < self.merging.levels:
            return self
        return self._replace(merging=None)


class FreeU(NamedTuple):
    """Factors of one level: of half of the backbone's channels, and of the skip's lowest tones."""

    backbone: float
    skip: float


@dataclass(frozen=True, slots=True)
class BlockShape:
    """What all blocks of one U-Net share."""

    time_width: int
    context_width: int
    linear_projection: bool
    groups: int
    eps: float

    def res(self, in_channels: int, out_channels: int) -> ResBlock:
        return ResBlock(
            in_channels, out_channels, time_width=self.time_width, groups=self.groups, eps=self.eps
        )

    def transformer(
        self, channels: int, heads: int, depth: int, *, cross_only: bool = False
    ) -> "Transformer":
        return Transformer(
            channels,
            heads,
            depth,
            context_width=self.context_width,
            linear_projection=self.linear_projection,
            groups=self.groups,
            cross_only=cross_only,
        )


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, feed-forward; each normed first and added.

    With `cross_only`, the first attention looks at the context too (the x4 upscaler).
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self, width: int, heads: int, context_width: int, *, cross_only: bool = False
    ) -> None:
        super().__init__()
        self.cross_only = cross_only
        self.norm1 = LayerNorm(width)
        self.attn1 = Attention(width, heads, context_width=context_width if cross_only else None)
        self.norm2 = LayerNorm(width)
        self.attn2 = Attention(width, heads, context_width=context_width)
        self.norm3 = LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(
        self, x: Tensor, told: Told, size: tuple[int, int], identity: bool = False
    ) -> Tensor:
        """(B, N, C) -> (B, N, C); `identity` replaces the self-attention map by the identity."""
        alike = None if told.merging is None else joined(x, size, told.merging)
        y = self.norm1(x)
        if identity:
            assert not self.cross_only, "there is no self-attention here to perturb"
            y = self.attn1.identity(y, told.nudges)
        elif self.cross_only:
            y = self.attn1(y, told.context, size=size, observer=told.observer, nudges=told.nudges)
        else:
            reference = told.references.get(self.attn1.module)
            y = self.attn1(
                y if alike is None else alike.merge(y, "self"),
                size=size,
                observer=told.observer,
                reference=reference,
                nudges=told.nudges,
            )
            y = y if alike is None else alike.split(y, "self")
        return self._after_self_attention(x + y, told, size, alike)

    def with_map(self, x: Tensor, told: Told, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The output (B, N, C) and the map of the self-attention (B, heads, N, N)."""
        y, weights = self.attn1.with_map(self.norm1(x))
        return self._after_self_attention(x + y, told, size), weights

    def _after_self_attention(
        self, x: Tensor, told: Told, size: tuple[int, int], alike: Joined | None = None
    ) -> Tensor:
        y = self.norm2(x)
        seen = self.attn2(
            y if alike is None else alike.merge(y, "cross"),
            told.context,
            told.images,
            size=size,
            observer=told.observer,
            nudges=told.nudges,
            texts=told.texts,
        )
        x = x + (seen if alike is None else alike.split(seen, "cross"))
        y = self.norm3(x)
        if alike is None:
            return x + self.ff(y)
        return x + alike.split(self.ff(alike.merge(y, "feed-forward")), "feed-forward")


class Transformer(nn.Module):
    """A stack of transformer blocks over the pixels of a feature map, added to the map.

    The projections are 1x1 convolutions in SD 1.x and linear layers on tokens since.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        channels: int,
        heads: int,
        depth: int,
        *,
        context_width: int,
        linear_projection: bool = False,
        groups: int = 32,
        cross_only: bool = False,
    ) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = _projection(channels, linear_projection)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context_width, cross_only=cross_only)
            for _ in range(depth)
        )
        self.proj_out = _projection(channels, linear_projection)

    def forward(self, x: Tensor, told: Told, identity: bool = False) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        y, size = self._tokens(x), (x.shape[2], x.shape[3])
        for block in self.transformer_blocks:
            y = block(y, told, size, identity)
        return self._added(x, y)

    def with_map(self, x: Tensor, told: Told) -> tuple[Tensor, Tensor]:
        """The output, and the self-attention map of the first block (B, heads, N, N)."""
        first, *others = self.transformer_blocks
        assert isinstance(first, TransformerBlock)
        size = (x.shape[2], x.shape[3])
        y, weights = first.with_map(self._tokens(x), told, size)
        for block in others:
            y = block(y, told, size)
        return self._added(x, y), weights

    def _tokens(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if isinstance(self.proj_in, Conv2d):
            return _to_tokens(self.proj_in(y))
        return self.proj_in(_to_tokens(y))

    def _added(self, x: Tensor, y: Tensor) -> Tensor:
        if isinstance(self.proj_out, Conv2d):
            y = self.proj_out(_to_map(y, x))
        else:
            y = _to_map(self.proj_out(y), x)
        # The map comes first: the sum takes its memory format.
        return x + y


def _projection(channels: int, linear: bool) -> Linear | Conv2d:
    return Linear(channels, channels) if linear else Conv2d(channels, channels, 1)


def _to_tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C); a view if the map is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _to_map(y: Tensor, like: Tensor) -> Tensor:
    """(B, h w, C) -> (B, C, h, w) in the memory format of `like`."""
    y = y.unflatten(1, (like.shape[2], like.shape[3])).permute(0, 3, 1, 2)
    last = like.is_contiguous(memory_format=torch.channels_last)
    return y if last else y.contiguous()


class _Level(nn.Module):
    """What all three kinds of level do: a residual block, then its transformer if it has one."""

    resnets: nn.ModuleList
    attentions: nn.ModuleList

    def _res(self, i: int, x: Tensor, told: Told) -> Tensor:
        return _recomputed(told, self.resnets[i], x, told.embedding)

    def _attend(self, i: int, x: Tensor, told: Told, identity: Collection[int]) -> Tensor:
        if i >= len(self.attentions):
            return x
        return _recomputed(told, self.attentions[i], x, told, i in identity)


def _recomputed(told: Told, module: nn.Module, *inputs: object) -> Tensor:
    """The module's output, kept for the backward pass by its inputs only if so told."""
    output: Tensor
    if told.checkpointing and torch.is_grad_enabled():
        output = checkpoint(module, *inputs, use_reentrant=False)
    else:
        output = module(*inputs)
    return output


class DownBlock(_Level):
    """One level on the way down: residual blocks, each with a transformer of the given depth.

    `depths` has one entry for each residual block; all are 0 (no attention here), or none is.
    """

    __call__: Callable[..., tuple[Tensor, list[Tensor]]]

    def __init__(
        self,
        in_channels: int,
        channels: int,
        depths: tuple[int, ...],
        heads: int,
        shape: BlockShape,
        *,
        cross_only: bool = False,
        downsample: bool = True,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            shape.res(channels if i else in_channels, channels) for i in range(len(depths))
        )
        self.attentions = nn.ModuleList(
            shape.transformer(channels, heads, depth, cross_only=cross_only)
            for depth in depths
            if depth
        )
        self.downsamplers = nn.ModuleList([Downsample(channels)] if downsample else [])

    def forward(
        self,
        x: Tensor,
        told: Told,
        identity: Collection[int] = (),
        inner: Tensor | None = None,
        count: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """(B, C_in, h, w) -> the output, and what each step leaves for the way up.

        `identity` lists the transformers, by position, whose self-attention is perturbed. `inner`
        is what a T2I-Adapter adds to this level: after the last transformer, before that skip is
        left; in a level without attention after everything, to the last skip too. `count` runs the
        first of the residual blocks alone, with what belongs to them.
        """
        skips: list[Tensor] = []
        for i in range(len(self.resnets) if count is None else count):
            x = self._attend(i, self._res(i, x, told), told, identity)
            if inner is not None and self.attentions and i == len(self.resnets) - 1:
                x = x + inner
            skips.append(x)
        if count is not None:
            return x, skips
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        if inner is not None and not self.attentions:
            x = skips[-1] = x + inner
        return x, skips


class MidBlock(_Level):
    """Residual block, transformer, residual block; with depth 0 only the first of the three."""

    __call__: Callable[..., Tensor]

    def __init__(self, channels: int, depth: int, heads: int, shape: BlockShape) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            shape.res(channels, channels) for _ in range(2 if depth else 1)
        )
        self.attentions = nn.ModuleList(
            [shape.transformer(channels, heads, depth)] if depth else []
        )

    def forward(self, x: Tensor, told: Told, identity: Collection[int] = ()) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = self._attend(0, self._res(0, x, told), told, identity)
        return self._res(1, x, told) if len(self.resnets) > 1 else x

    def with_map(self, x: Tensor, told: Told) -> tuple[Tensor, Tensor]:
        """The output, and the map of the first self-attention (B, heads, N, N)."""
        transformer = self.attentions[0]
        assert isinstance(transformer, Transformer)
        x, weights = transformer.with_map(self._res(0, x, told), told)
        return self._res(1, x, told), weights


class UpBlock(_Level):
    """One level on the way up: as `DownBlock`, but each residual block first takes a skip.

    `skip_channels` has the channels of the skips in the order in which they are taken.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        channels: int,
        skip_channels: tuple[int, ...],
        depths: tuple[int, ...],
        heads: int,
        shape: BlockShape,
        *,
        cross_only: bool = False,
        upsample: bool = True,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            shape.res((channels if i else in_channels) + skip, channels)
            for i, skip in enumerate(skip_channels)
        )
        self.attentions = nn.ModuleList(
            shape.transformer(channels, heads, depth, cross_only=cross_only)
            for depth in depths
            if depth
        )
        self.upsamplers = nn.ModuleList([Upsample(channels)] if upsample else [])

    def forward(
        self,
        x: Tensor,
        skips: Sequence[Tensor],
        told: Told,
        *,
        size: tuple[int, int],
        identity: Collection[int] = (),
        freeu: FreeU | None = None,
        first: int = 0,
    ) -> Tensor:
        """(B, C_in, h, w) and one skip for each residual block -> (B, C, *size).

        `size` is that of the next skip: an odd size was rounded up on the way down. `first` is the
        position of the residual block that takes the first skip.
        """
        for i, skip in enumerate(skips, first):
            if freeu is not None:
                x, skip = strengthened(x, freeu.backbone), low_tones_scaled(skip, freeu.skip)
            x = self._attend(i, self._res(i, torch.cat([x, skip], 1), told), told, identity)
        for upsample in self.upsamplers:
            x = upsample(x, size)
        return x


def strengthened(x: Tensor, factor: float) -> Tensor:
    """The first half of the channels times `factor` (FreeU, Si et al. 2023, arXiv:2309.11497)."""
    half = x.shape[1] // 2
    return torch.cat([x[:, :half] * factor, x[:, half:]], 1)


def low_tones_scaled(x: Tensor, factor: float) -> Tensor:
    """The skip (B, C, h, w) with its four lowest frequencies, 0 and -1 each way, times `factor`.

    FreeU's filter with threshold 1 (Si et al. 2023, arXiv:2309.11497). In float32 at least, as
    Fourier transforms of half precision exist for few sizes.
    """
    spectrum = torch.fft.fft2(x.to(torch.promote_types(x.dtype, torch.float32)))
    height, width = x.shape[-2:]
    low = torch.outer(_is_low(height, x.device), _is_low(width, x.device))  # (h, w)
    scaled: Tensor = torch.fft.ifft2(spectrum * (1.0 + (factor - 1.0) * low)).real
    return scaled.to(x.dtype)


def _is_low(size: int, device: torch.device) -> Tensor:
    index = torch.arange(size, device=device)
    return ((index == 0) | (index == size - 1)).to(torch.float32)
