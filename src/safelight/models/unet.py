"""The U-Net of Stable Diffusion 1.x, 2.x and XL and of everything cut or grown from them.

Shapes: B batch, C latent channels, h w latent height and width, L text length, D width of the text
tokens, V width of the vector, T width of the time embedding.

Module names are those of the Diffusers layout. Published configurations are in `unet_configs.py`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import CheckpointError
from safelight.models.attention import ImageTokens, Nudge, Observer, Reference, tell_names
from safelight.models.layers import (
    Conv2d,
    GroupNorm,
    TimeEmbedding,
    guidance_embedding,
    timestep_embedding,
)
from safelight.models.text_states import KeepsTexts
from safelight.models.token_merging import Merging
from safelight.models.unet_blocks import (
    NO_REFERENCES,
    BlockShape,
    DownBlock,
    FreeU,
    MidBlock,
    Told,
    UpBlock,
)


def heads_of_width(channels: Sequence[int], width: int = 64) -> tuple[int, ...]:
    """The number of heads at each level if every head is `width` wide (SD 2.x and XL: 64)."""
    return tuple(max(1, c // width) for c in channels)


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """The shape of a U-Net; any widths and depths that fit together will do. Defaults: SD 1.x.

    A level is a resolution, counted from the finest. A depth is the number of transformer blocks
    after one residual block; 0 means no attention there.
    Raises CheckpointError if the parts do not fit together.
    """

    in_channels: int = 4  # latents and the channels of `Condition.concat`
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # one for each level
    # For each level, one depth for each residual block on the way down; all are 0, or none is.
    depths: tuple[tuple[int, ...], ...] = ((1, 1), (1, 1), (1, 1), (0, 0))
    # The same on the way up, deepest level first and one block more; None: as on the way down.
    up_depths: tuple[tuple[int, ...], ...] | None = None
    mid_depth: int | None = 1  # 0: one residual block and no attention; None: no middle at all
    heads: tuple[int, ...] = (8, 8, 8, 8)  # number of heads at each level; see heads_of_width
    context_width: int = 768  # D
    linear_projection: bool = False  # of the transformers; else 1x1 convolutions
    cross_only_levels: tuple[int, ...] = ()  # where self-attention looks at the context too
    vector_width: int | None = None  # V; None: no vector
    vector_module: Literal["add_embedding", "class_embedding"] = "add_embedding"  # its name
    noise_levels: int | None = None  # a table of so many levels (x4 upscaler: 1000)
    guidance_width: int | None = None  # told the guidance scale it was distilled from (LCM: 256)
    groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise CheckpointError(f"a U-Net cannot be built from these sizes: {problem}")

    @property
    def levels(self) -> int:
        return len(self.channels)

    @property
    def time_width(self) -> int:
        """T, the width of the embedding that every residual block is told."""
        return 4 * self.channels[0]

    @property
    def depths_up(self) -> tuple[tuple[int, ...], ...]:
        """Depths on the way up, deepest level first, resolved."""
        if self.up_depths is not None:
            return self.up_depths
        return tuple((level[0],) * (len(level) + 1) for level in reversed(self.depths))


def _problems(config: UNetConfig) -> list[str]:
    """Everything that does not fit together, in words."""
    levels, found = config.levels, []
    if not levels or len(config.depths) != levels or len(config.heads) != levels:
        return [
            f"channels, depths and heads need one entry for each level; "
            f"got {levels}, {len(config.depths)} and {len(config.heads)}"
        ]
    if config.up_depths is None and any(len(set(level)) > 1 for level in config.depths):
        found.append("up_depths must be given where depths differ within a level")
    elif [len(d) for d in config.depths_up] != [len(d) + 1 for d in reversed(config.depths)]:
        found.append("each level needs one block more on the way up than on the way down")
    for name, depths in (("depths", config.depths), ("up_depths", config.depths_up)):
        if any(not level or min(level) < 0 or (0 in level and any(level)) for level in depths):
            found.append(f"{name} of a level must be all 0 or all positive; got {depths}")
    if config.mid_depth is not None and config.mid_depth < 0:
        found.append(f"mid_depth must be None, 0 or positive; got {config.mid_depth}")
    for i, (channels, heads) in enumerate(zip(config.channels, config.heads, strict=True)):
        if channels % config.groups:
            found.append(
                f"{channels} channels at level {i} are no multiple of {config.groups} groups"
            )
        if heads < 1 or channels % heads:
            found.append(f"{channels} channels at level {i} do not divide into {heads} heads")
    if config.noise_levels is not None and (
        config.vector_width is not None and config.vector_module == "class_embedding"
    ):
        found.append("class_embedding cannot hold both a vector and noise levels")
    return found


class Residuals(NamedTuple):
    """What control networks add.

    skips: one tensor for each skip in the order made, or none. mid: to the middle's output.
    inner: features of T2I-Adapters, one for each level on the way down and then the middle; there
        may be fewer. Unlike the skips', they change what the rest of the way down sees.
    nudges: to the inputs of attention's projections.
    """

    skips: tuple[Tensor, ...] = ()
    mid: Tensor | None = None
    inner: tuple[Tensor, ...] = ()
    nudges: tuple[Nudge, ...] = ()


class UNetEncoder(nn.Module, KeepsTexts):
    """The half of a U-Net that it shares with its control networks: in, down and the middle.

    Built under `torch.device("meta")` it costs no memory and no random numbers; assign the weights.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, time_width = config.channels, config.time_width
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], time_width, config.guidance_width)
        self.class_embedding: nn.Embedding | TimeEmbedding | None = None
        self.add_embedding: TimeEmbedding | None = None
        if config.noise_levels is not None:
            self.class_embedding = nn.Embedding(config.noise_levels, time_width)
        if config.vector_width is not None:
            setattr(self, config.vector_module, TimeEmbedding(config.vector_width, time_width))
        shape = _shape(config)
        self.down_blocks = nn.ModuleList(_down_blocks(config, shape))
        self.mid_block: MidBlock | None = None
        if config.mid_depth is not None:
            self.mid_block = MidBlock(channels[-1], config.mid_depth, config.heads[-1], shape)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the network begins, and into which its inputs are best cast."""
        return self.conv_in.weight.dtype

    def embedding(
        self,
        x: Tensor,
        time: Tensor,
        vector: Tensor | None = None,
        level: Tensor | None = None,
        guidance_scale: Tensor | None = None,
    ) -> Tensor:
        """All that is told but the text, as one (B, T) that has yet to go through SiLU."""
        guidance = None
        if guidance_scale is not None and self.config.guidance_width is not None:
            guidance = guidance_embedding(guidance_scale, self.config.guidance_width).to(x.dtype)
        sinusoids = timestep_embedding(time.expand(x.shape[0]), self.config.channels[0])
        total = self.time_embedding(sinusoids.to(self.dtype), guidance)
        if isinstance(self.class_embedding, nn.Embedding):
            assert level is not None, "this network is told a noise level"
            total = total + self.class_embedding(level)
        elif self.class_embedding is not None:
            assert vector is not None, "this network is told a vector"
            total = total + self.class_embedding(vector)
        if self.add_embedding is not None:
            assert vector is not None, "this network is told a vector"
            total = total + self.add_embedding(vector)
        return total

    def down(
        self,
        x: Tensor,
        told: Told,
        identity: Collection[str] = (),
        inner: Sequence[Tensor] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """What `conv_in` made (B, C, h, w) -> what enters the middle, and all skips in order."""
        skips = [x]
        for i, block in enumerate(self.down_blocks):
            chosen = chosen_in(identity, f"down_blocks.{i}", block)
            x, made = block(x, told.at(i), chosen, inner[i] if i < len(inner) else None)
            skips += made
        return x, skips


class UNet(UNetEncoder):
    """A noisy latent, a time and a text -> the prediction; which one, the family knows."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        channels = config.channels
        self.up_blocks = nn.ModuleList(_up_blocks(config, _shape(config)))
        self.conv_norm_out = GroupNorm(config.groups, channels[0], config.norm_eps)
        self.conv_out = Conv2d(channels[0], config.out_channels, 3, padding=1)
        tell_names(self)

    def self_attentions(self) -> tuple[str, ...]:
        """Names of the transformers whose self-attention can be perturbed or asked for its map."""
        last = self.config.levels - 1
        names = [
            f"down_blocks.{i}.attentions.{j}"
            for i, block in enumerate(self.down_blocks)
            if i not in self.config.cross_only_levels
            for j in range(_transformers(block))
        ]
        names += [f"mid_block.attentions.{j}" for j in range(_transformers(self.mid_block))]
        names += [
            f"up_blocks.{i}.attentions.{j}"
            for i, block in enumerate(self.up_blocks)
            if last - i not in self.config.cross_only_levels
            for j in range(_transformers(block))
        ]
        return tuple(names)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        *,
        level: Tensor | None = None,
        guidance_scale: Tensor | None = None,
        images: Sequence[ImageTokens] = (),
        residuals: Residuals | None = None,
        identity_attention: Collection[str] = (),
        freeu: tuple[float, float, float, float] | None = None,
        checkpointing: bool = False,
        observer: Observer | None = None,
        references: Mapping[str, Reference] = NO_REFERENCES,
        merging: Merging | None = None,
    ) -> Tensor:
        """(B, C, h, w), any h and w -> (B, C_out, h, w).

        time (B,) or one for all, fractions allowed; context (B, L, D); vector (B, V); level (B,)
        int64; guidance_scale (B,) for networks distilled with one.
        identity_attention: names as in `self_attentions`, or of modules around them.
        freeu: (b1, b2, s1, s2). checkpointing: recompute activations in the backward pass.
        observer: told what each attention looks at. references: what self-attentions look at, too,
        by names as in `named_attentions`. merging: which levels see tokens merged.
        """
        embedding = F.silu(self.embedding(x, time, vector, level, guidance_scale))
        added = residuals or Residuals()
        told = Told(embedding, context, images, checkpointing, observer, references)
        told = self.also_told(told, added, merging)
        x, skips = self.down(self.conv_in(x), told, identity_attention, added.inner)
        if self.mid_block is not None:
            chosen = chosen_in(identity_attention, "mid_block", self.mid_block)
            x = self.mid_block(x, told.at(self.config.levels), chosen)
        return self._up(x, skips, told, added, identity_attention, freeu)

    def with_attention(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        *,
        level: Tensor | None = None,
        guidance_scale: Tensor | None = None,
        images: Sequence[ImageTokens] = (),
        residuals: Residuals | None = None,
        identity_attention: Collection[str] = (),
        freeu: tuple[float, float, float, float] | None = None,
        checkpointing: bool = False,
        observer: Observer | None = None,
        references: Mapping[str, Reference] = NO_REFERENCES,
        merging: Merging | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the map of the middle's first self-attention.

        The map is (B, heads, N, N) float32; its N tokens are the latent's rows, h and w each halved
        and rounded up once for every level but the first. The network must have attention in the
        middle, and that cannot be perturbed in the same call.
        """
        assert self.mid_block is not None, "a network without a middle has no map to give"
        embedding = F.silu(self.embedding(x, time, vector, level, guidance_scale))
        added = residuals or Residuals()
        told = Told(embedding, context, images, checkpointing, observer, references)
        told = self.also_told(told, added, merging)
        x, skips = self.down(self.conv_in(x), told, identity_attention, added.inner)
        assert not chosen_in(identity_attention, "mid_block", self.mid_block)
        x, weights = self.mid_block.with_map(x, told)
        return self._up(x, skips, told, added, identity_attention, freeu), weights

    def also_told(self, told: Told, added: Residuals, merging: Merging | None) -> Told:
        """What blocks are told, with what controls say, and what is kept of the text."""
        texts = self.kept_of(told.context)
        return told._replace(nudges=added.nudges, merging=merging, texts=texts)

    def _up(
        self,
        x: Tensor,
        skips: list[Tensor],
        told: Told,
        added: Residuals,
        identity: Collection[str],
        freeu: tuple[float, float, float, float] | None,
    ) -> Tensor:
        x, skips = self.controlled(x, skips, added)
        for i in range(len(self.up_blocks)):
            x, skips = self.up_level(i, x, skips, told, identity, freeu)
        return self.output(x)

    def controlled(
        self, x: Tensor, skips: list[Tensor], added: Residuals
    ) -> tuple[Tensor, list[Tensor]]:
        """What leaves the middle, and the skips, with what control networks add to them."""
        for feature in added.inner[self.config.levels :]:
            x = with_added(x, feature)
        if added.skips:
            skips = [with_added(s, r) for s, r in zip(skips, added.skips, strict=True)]
        return x if added.mid is None else with_added(x, added.mid), skips

    def up_level(
        self,
        i: int,
        x: Tensor,
        skips: list[Tensor],
        told: Told,
        identity: Collection[str],
        freeu: tuple[float, float, float, float] | None,
        part: slice | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The output of one level, or of a part of its residual blocks, and the skips left."""
        block = self.up_blocks[i]
        run = range(len(block.resnets))[part or slice(None)]  # type: ignore[arg-type]
        taken, skips = skips[: -len(run) - 1 : -1], skips[: -len(run)]
        x = block(
            x,
            taken,
            told.at(self.config.levels - 1 - i),
            size=tuple(skips[-1].shape[2:]) if skips else tuple(x.shape[2:]),
            identity=chosen_in(identity, f"up_blocks.{i}", block),
            freeu=FreeU(freeu[i], freeu[i + 2]) if freeu is not None and i < 2 else None,
            first=run.start,
        )
        return x, skips

    def output(self, x: Tensor) -> Tensor:
        """The prediction, of what the last level gave."""
        output: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return output


def _shape(config: UNetConfig) -> BlockShape:
    return BlockShape(
        time_width=config.time_width,
        context_width=config.context_width,
        linear_projection=config.linear_projection,
        groups=config.groups,
        eps=config.norm_eps,
    )


def _down_blocks(config: UNetConfig, shape: BlockShape) -> list[DownBlock]:
    before = (config.channels[0], *config.channels)
    return [
        DownBlock(
            before[i],
            config.channels[i],
            config.depths[i],
            config.heads[i],
            shape,
            cross_only=i in config.cross_only_levels,
            downsample=i < config.levels - 1,
        )
        for i in range(config.levels)
    ]


def _up_blocks(config: UNetConfig, shape: BlockShape) -> list[UpBlock]:
    blocks, current = [], config.channels[-1]
    for depths, i in zip(config.depths_up, reversed(range(config.levels)), strict=True):
        channels = config.channels[i]
        # Last comes what entered this level: the downsampler of the level above, or conv_in.
        entered = config.channels[max(i - 1, 0)]
        skip_channels = (channels,) * (len(depths) - 1) + (entered,)
        blocks.append(
            UpBlock(
                current,
                channels,
                skip_channels,
                depths,
                config.heads[i],
                shape,
                cross_only=i in config.cross_only_levels,
                upsample=i > 0,
            )
        )
        current = channels
    return blocks


def _transformers(block: nn.Module | None) -> int:
    return 0 if block is None else len(block.attentions)  # type: ignore[arg-type]


def with_added(own: Tensor, residual: Tensor) -> Tensor:
    """A map and what a control adds to it, in the memory order of the map.

    So that zeros change nothing, to the last bit: other orders go through other kernels.
    """
    if torch.compiler.is_compiling():  # a graph orders memory as it likes
        return own + residual
    return own.clone().add_(residual)


def chosen_in(names: Collection[str], prefix: str, block: nn.Module) -> frozenset[int]:
    """Positions of the transformers of one block that are named, or lie in a named module."""
    if not names:
        return frozenset()
    return frozenset(
        j
        for j in range(_transformers(block))
        if any(covers(name, f"{prefix}.attentions.{j}") for name in names)
    )


def covers(name: str, module: str) -> bool:
    """Whether `name` is this module or one around it, as "mid_block" is of its attentions."""
    return module == name or module.startswith(f"{name}.")
