"""ControlNet: a copy of a U-Net's first half that reads a picture and adds to the U-Net's skips.

Zhang et al. 2023 (arXiv:2302.05543); for SD 1.x, 2.x, XL and what is cut or grown from them. A
union (ControlNet++, github.com/xinsir6/ControlNetPlus) reads several kinds of picture and is told
which. Module names are those of the Diffusers layout.

Shapes: B batch, C latent channels, h w latent height and width, H W pixels, T width of the time
embedding, U width of a union's tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import CheckpointError, RequestError
from safelight.models.layers import (
    Conv2d,
    LayerNorm,
    Linear,
    TimeEmbedding,
    timestep_embedding,
)
from safelight.models.unet import Residuals, UNet, UNetConfig, UNetEncoder
from safelight.models.unet_blocks import Told

MOST = 64  # layers of a union, convolutions of a picture: more are forged


@dataclass(frozen=True, slots=True)
class UnionConfig:
    """What a union of control types adds to a ControlNet. Defaults: the first published one."""

    types: int = 6
    width: int = 320  # U
    layers: int = 1
    sinusoid: int = 256  # width of the sinusoid of each type's flag

    def __post_init__(self) -> None:
        if min(self.types, self.width, self.sinusoid) < 1 or not 0 <= self.layers <= MOST:
            raise CheckpointError(
                f"a union of {self.types} types, {self.width} wide, with {self.layers} layers and "
                f"sinusoids of {self.sinusoid} cannot be built"
            )


@dataclass(frozen=True, slots=True)
class ControlNetConfig:
    """The shape of a ControlNet: that of the U-Net it was copied from, and its picture's.

    Of `encoder`, what concerns the way up is not used.
    Raises CheckpointError if it cannot be built.
    """

    encoder: UNetConfig
    channels: int = 3  # of the picture
    widths: tuple[int, ...] = (16, 32, 96, 256)  # of the picture's convolutions; each halves it
    global_pool: bool = False  # residuals are averaged over the picture (shuffle)
    bgr: bool = False  # reads blue first
    union: UnionConfig | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.widths) <= MOST or min(*self.widths, self.channels) < 1:
            raise CheckpointError(
                f"a ControlNet cannot read {self.channels} channels by widths {self.widths}"
            )


class PictureEmbedding(nn.Module):
    """A picture at the size and width of the U-Net's first features.

    (B, channels, H, W) -> (B, width, h, w).
    """

    __call__: Callable[..., Tensor]

    def __init__(self, channels: int, widths: tuple[int, ...], out: int) -> None:
        super().__init__()
        self.conv_in = Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for narrow, wide in pairwise(widths):
            self.blocks.append(Conv2d(narrow, narrow, 3, padding=1))
            self.blocks.append(Conv2d(narrow, wide, 3, stride=2, padding=1))
        self.conv_out = Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.silu(self.conv_in(image))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


class ControlNet(UNetEncoder):
    """A picture, and what the U-Net sees -> what to add to the U-Net's skips and middle.

    Built under `torch.device("meta")` it costs no memory and no random numbers; assign the weights.
    """

    __call__: Callable[..., Residuals]

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config.encoder)
        self.control = config
        channels = config.encoder.channels
        self.controlnet_cond_embedding = PictureEmbedding(
            config.channels, config.widths, channels[0]
        )
        if config.union is not None:
            self._add_union(config.union)
        self.controlnet_down_blocks = nn.ModuleList(
            Conv2d(width, width, 1) for width in skip_widths(config.encoder)
        )
        self.controlnet_mid_block = Conv2d(channels[-1], channels[-1], 1)

    def _add_union(self, union: UnionConfig) -> None:
        self.task_embedding = nn.Parameter(torch.empty(union.types, union.width))
        self.transformer_layes = nn.ModuleList(_Mixing(union.width) for _ in range(union.layers))
        self.spatial_ch_projs = Linear(union.width, self.config.channels[0])
        self.control_add_embedding = TimeEmbedding(
            union.sinusoid * union.types, self.config.time_width
        )

    @property
    def channels(self) -> int:
        return self.control.channels

    @property
    def factor(self) -> int:
        return int(2 ** (len(self.control.widths) - 1))

    @property
    def residuals(self) -> int:
        return len(self.controlnet_down_blocks) + 1

    def check_fits(self, unet: UNetConfig) -> None:
        """Raise RequestError, with what differs, if it was made for another family of U-Net."""
        for problem in _differences(self.config, unet):
            raise RequestError(f"this ControlNet was made for another family: {problem}")

    def check_types(self, types: tuple[int, ...]) -> None:
        """Raise RequestError for a type that it does not know, or a union without any."""
        union = self.control.union
        if union is None and types:
            raise RequestError("this ControlNet reads one kind of picture only; give it no type")
        if union is None:
            return
        if not types or len(set(types)) != len(types):
            raise RequestError(
                "this union ControlNet must be told, for each picture, which of its "
                f"{union.types} types it is; got {list(types)}"
            )
        if min(types) < 0 or max(types) >= union.types:
            raise RequestError(
                f"this union ControlNet knows the types 0 to {union.types - 1}; got {list(types)}"
            )

    def look(self, image: Tensor, types: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        """The picture (B, channels, H, W), for a union one after another, as features (B, C, h, w).

        The sum over types of a union: Diffusers' with scale 1. There a token attends over the
        batch, in which all are equal for one picture, so that it sees itself: we do just that, so
        that a picture does not depend on its neighbours.
        """
        if self.control.bgr:
            image = image.flip(1)
        if not types:
            return (self.controlnet_cond_embedding(image),)
        total: Tensor | None = None
        for picture, kind in zip(image.split(self.channels, 1), types, strict=True):
            features = self.controlnet_cond_embedding(picture)
            token = features.mean((2, 3)) + self.task_embedding[kind].to(features.dtype)  # (B, U)
            for layer in self.transformer_layes:
                token = layer(token)
            features = features + self.spatial_ch_projs(token)[:, :, None, None]
            total = features if total is None else total + features
        assert total is not None, "a union is told at least one type"
        return (total,)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        *,
        seen: tuple[Tensor, ...],
        types: tuple[int, ...] = (),
        concat: Tensor | None = None,
        level: Tensor | None = None,
        checkpointing: bool = False,
    ) -> Residuals:
        """Latents (B, C, h, w) and what `look` saw -> one residual for each skip, and the middle.

        See `UNet.forward` for the rest. `concat` follows the latents if it was trained with them.
        """
        if concat is not None and self.config.in_channels > x.shape[1]:
            x = torch.cat([x, concat.to(x.dtype)], 1)
        x = x.to(self.dtype)
        vector = None if vector is None else vector.to(self.dtype)
        total = self.embedding(x, time, vector, level)
        if self.control.union is not None:
            total = total + self.control_add_embedding(self._flags(self.control.union, types, x))
        context = context.to(self.dtype)
        told = Told(F.silu(total), context, (), checkpointing, texts=self.kept_of(context))
        first = self.conv_in(x)
        y, skips = self.down(first + seen[0].to(first.dtype), told)
        if self.mid_block is not None:
            y = self.mid_block(y, told)
        pairs = zip(self.controlnet_down_blocks, skips, strict=True)
        made = [convolution(skip) for convolution, skip in pairs]
        made.append(self.controlnet_mid_block(y))
        if self.control.global_pool:
            made = [residual.mean((2, 3), keepdim=True) for residual in made]
        return Residuals(tuple(made[:-1]), made[-1])

    def _flags(self, union: UnionConfig, types: tuple[int, ...], x: Tensor) -> Tensor:
        """Which types there are, each flag as a sinusoid: (1, types * sinusoid)."""
        flags = torch.zeros(union.types, device=x.device)
        flags[list(types)] = 1
        return timestep_embedding(flags, union.sinusoid).flatten()[None].to(self.dtype)


class _OwnValue(nn.Module):
    """Attention whose every token sees only itself: its value. Keeps the names of the file."""

    __call__: Callable[..., Tensor]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.in_proj_weight.chunk(3)[2], self.in_proj_bias.chunk(3)[2]
        return self.out_proj(F.linear(x.to(weight.dtype), weight, bias))


class _Mixing(nn.Module):
    """One transformer layer of a union, on one token at a time. (B, U) -> (B, U)."""

    __call__: Callable[..., Tensor]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = _OwnValue(width)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": Linear(width, 4 * width)})
        self.mlp["c_proj"] = Linear(4 * width, width)
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        wide = self.mlp["c_fc"](self.ln_2(x))
        y: Tensor = self.mlp["c_proj"](wide * torch.sigmoid(1.702 * wide))  # quick GELU
        return x + y


def skip_widths(config: UNetConfig) -> list[int]:
    """Channels of a U-Net's skips in the order made: one for each residual of a ControlNet."""
    widths = [config.channels[0]]
    for i, (width, depths) in enumerate(zip(config.channels, config.depths, strict=True)):
        widths += [width] * (len(depths) + (i < config.levels - 1))
    return widths


def controlnet_of(
    unet: UNet, *, channels: int = 3, widths: tuple[int, ...] = (16, 32, 96, 256)
) -> ControlNet:
    """A ControlNet to be trained: a copy of the U-Net's first half, which as yet adds nothing.

    The convolutions that leave it are zero, as is the last of the picture's. `widths` has one entry
    more than the number of times that the picture must be halved to the size of the latents. On the
    device and in the type of the U-Net.
    """
    made = ControlNet(ControlNetConfig(unet.config, channels, widths))
    weight = unet.conv_in.weight
    made.to(device=weight.device)
    theirs = unet.state_dict()
    made.load_state_dict(
        {
            name: tensor if name.startswith("controlnet_") else theirs[name]
            for name, tensor in made.state_dict().items()
        }
    )
    zeroed = [*made.controlnet_down_blocks, made.controlnet_mid_block]
    for module in (*zeroed, made.controlnet_cond_embedding.conv_out):
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    return made.to(dtype=weight.dtype)


def _differences(own: UNetConfig, unet: UNetConfig) -> list[str]:
    """What keeps a ControlNet from adding to a U-Net, in words."""
    found = []
    if skip_widths(own) != skip_widths(unet):
        found.append(
            f"it has {_levels(own)}, and the model {_levels(unet)}",
        )
    attends = any(any(level) for level in own.depths) or own.mid_depth
    if attends and own.context_width != unet.context_width:
        found.append(f"it reads text {own.context_width} wide, and the model {unet.context_width}")
    if own.vector_width is not None and own.vector_width != unet.vector_width:
        found.append(f"it takes a vector of {own.vector_width}, and the model {unet.vector_width}")
    if own.in_channels not in (unet.in_channels, unet.out_channels):
        found.append(
            f"it takes {own.in_channels} channels of latents, and the model {unet.in_channels}"
        )
    return found


def _levels(config: UNetConfig) -> str:
    blocks = "+".join(str(len(level)) for level in config.depths)
    return f"levels of {', '.join(map(str, config.channels))} channels ({blocks} blocks)"
