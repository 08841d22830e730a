"""The KL autoencoder of latent diffusion, and the codec that gives its latents unit size.

Rombach et al. 2022 (arXiv:2112.10752), section 3.1. Names are those of Diffusers' `AutoencoderKL`.

Shapes: B batch, H W pixels, h w latents (H = factor * h), C latent channels, K channels of a map.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from safelight.errors import CheckpointError, RequestError
from safelight.models.attention import attend
from safelight.models.layers import (
    NO_WRAP,
    Conv2d,
    Downsample,
    GroupNorm,
    Linear,
    ResBlock,
    Upsample,
    Wrap,
    own_silu,
    wrapped,
)
from safelight.models.runner import CodecRunner
from safelight.models.tiling import Bands, Tiles, Tiling, by_bands, by_tiles

PerChannel = float | tuple[float, ...]  # one number for all channels, or one for each

_EPS = 1e-6  # of every group norm here; the U-Net's are 1e-5


@dataclass(frozen=True)
class AutoencoderConfig:
    """The shape of a KL autoencoder: one level for each width, each half the size of the last.

    Raises CheckpointError if the groups do not divide the widths.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2  # residual blocks a level; the decoder has one more
    groups: int = 32
    mid_attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True

    def __post_init__(self) -> None:
        odd = [width for width in self.widths if self.groups < 1 or width % self.groups]
        if odd or not self.widths:
            raise CheckpointError(
                "an autoencoder cannot be built from these sizes: "
                + (f"{odd[0]} channels are no multiple of {self.groups} groups" if odd else "none")
            )

    @property
    def factor(self) -> int:
        """Pixels in a latent's width."""
        return 1 << (len(self.widths) - 1)

    def build(self) -> "Autoencoder":
        return Autoencoder(self)


@dataclass(frozen=True)
class Posterior:
    """What the encoder says of a picture's latents: independent normals."""

    mean: Tensor  # (B, C, h, w)
    logvar: Tensor  # (B, C, h, w) in [-30, 20]; -inf where the latents are certain

    @classmethod
    def from_moments(cls, moments: Tensor) -> "Posterior":
        """Read from an encoder's output (B, 2 C, h, w), in float32."""
        mean, logvar = moments.float().chunk(2, dim=1)
        # An overflow must be seen in every sample; the clamp would turn infinity into a large 20.
        seen = torch.where(logvar.isfinite(), logvar.clamp(-30.0, 20.0), math.nan)
        return cls(mean, seen)

    def mode(self) -> Tensor:
        """The most probable latents: (B, C, h, w)."""
        return self.mean

    def sample(self, noise: Tensor | torch.Generator) -> Tensor:
        """Latents drawn with the given unit normals, or with normals from a generator."""
        if isinstance(noise, torch.Generator):
            noise = torch.randn(self.mean.shape, generator=noise, device=noise.device)
        return self.mean + torch.exp(0.5 * self.logvar) * noise.to(self.mean)

    def kl(self) -> Tensor:
        """Divergence from unit normals, in nats a picture: (B,)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).sum(dim=(1, 2, 3))

    def rescaled(self, scale: PerChannel, shift: PerChannel) -> "Posterior":
        """The posterior of (latents - shift) * scale."""
        factor = _by_channel(scale, self.mean)
        mean = (self.mean - _by_channel(shift, self.mean)) * factor
        return Posterior(mean, self.logvar + 2.0 * factor.log().to(self.logvar))


@dataclass(frozen=True)
class Reconstruction:
    """Pictures after a passage through an autoencoder, and what its training asks about it."""

    images: Tensor  # (B, 3, H, W), not clamped
    posterior: Posterior
    features: Tensor  # (B, K, H, W): what the decoder's last convolution read


class Autoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to raw latents (B, C, h, w) and back."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = Conv2d(2 * channels, 2 * channels, 1) if config.quant_conv else None
        self.post_quant_conv = Conv2d(channels, channels, 1) if config.post_quant_conv else None

    def moments(self, images: Tensor) -> Tensor:
        """Mean and log variance of the latents, side by side: (B, 2 C, h, w)."""
        moments = self.encoder(images)
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def posterior(self, moments: Tensor) -> Posterior:
        """The moments read as distributions."""
        return Posterior.from_moments(moments)

    def encode(self, images: Tensor) -> Posterior:
        """The distribution of a picture's raw latents."""
        return self.posterior(self.moments(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) of raw latents, not clamped."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)

    def forward(
        self, images: Tensor, noise: Tensor | None = None, disturbance: Tensor | None = None
    ) -> Reconstruction:
        """Reconstructions and posteriors, for training; without noise, of the modes.

        `disturbance` (B, C, h, w) is added to the latents, in units of each channel's deviation
        over the batch: a decoder trained so forgives what a diffusion model leaves unfinished.
        """
        posterior = self.encode(images)
        latents = posterior.mode() if noise is None else posterior.sample(noise)
        if disturbance is not None:
            latents = disturbed(latents, disturbance)
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        features = self.decoder.features(latents)
        return Reconstruction(self.decoder.conv_out(features), posterior, features.detach())


def disturbed(latents: Tensor, disturbance: Tensor) -> Tensor:
    """Latents (B, C, h, w) with noise in units of each channel's deviation over the batch."""
    deviation = latents.detach().std(dim=(0, 2, 3), keepdim=True, correction=0)
    return latents + deviation * disturbance.to(latents)


class Encoder(nn.Module):
    """(B, 3, H, W) -> (B, 2 C, h, w), or as many channels as `out_channels` says.

    `attention` counts the levels, from the finest, that have attention after every block.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        out_channels: int | None = None,
        attention: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        widths = config.widths
        out_channels = 2 * config.latent_channels if out_channels is None else out_channels
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(before, width, config, last=i == len(widths) - 1, attention=i in attention)
            for i, (before, width) in enumerate(pairwise((widths[0], *widths)))
        )
        self.mid_block = MidBlock(widths[-1], config)
        self.conv_norm_out = GroupNorm(config.groups, widths[-1], _EPS)
        self.conv_out = Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for module in (self.conv_in, *_parts(self.down_blocks), *self.mid_block.parts()):
            x = module(x)
        return self.conv_out(own_silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """(B, C, h, w) -> (B, 3, H, W).

    `attention` counts the levels, from the finest, that have attention after every block.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, config: AutoencoderConfig, *, attention: tuple[int, ...] = ()) -> None:
        super().__init__()
        widths = config.widths[::-1]
        deep = len(widths) - 1
        self.conv_in = Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], config)
        self.up_blocks = nn.ModuleList(
            UpBlock(before, width, config, last=i == deep, attention=deep - i in attention)
            for i, (before, width) in enumerate(pairwise((widths[0], *widths)))
        )
        self.conv_norm_out = GroupNorm(config.groups, widths[-1], _EPS)
        self.conv_out = Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def features(self, x: Tensor) -> Tensor:
        """What the last convolution reads: (B, C, h, w) -> (B, K, H, W)."""
        for module in (self.conv_in, *self.mid_block.parts(), *_parts(self.up_blocks)):
            x = module(x)
        return own_silu(self.conv_norm_out(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.features(x))


# Blocks are groups of names. Encoder and decoder call the parts themselves: a block that was called
# would hold on to its input, the largest map of all, while its second half runs.


class DownBlock(nn.Module):
    """One level of the encoder: residual blocks, then, but for the last level, half the size."""

    def __init__(
        self,
        before: int,
        width: int,
        config: AutoencoderConfig,
        *,
        last: bool,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.resnets = _resnets(before, width, config.layers, config)
        self.attentions = _attentions(width, config.layers if attention else 0, config)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(width, asymmetric=True)])

    def parts(self) -> tuple[nn.Module, ...]:
        return (*_interleaved(self.resnets, self.attentions), *self.downsamplers)


class UpBlock(nn.Module):
    """One level of the decoder: residual blocks, then, but for the last level, twice the size."""

    def __init__(
        self,
        before: int,
        width: int,
        config: AutoencoderConfig,
        *,
        last: bool,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.resnets = _resnets(before, width, config.layers + 1, config)
        self.attentions = _attentions(width, config.layers + 1 if attention else 0, config)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(width)])

    def parts(self) -> tuple[nn.Module, ...]:
        return (*_interleaved(self.resnets, self.attentions), *self.upsamplers)


class MidBlock(nn.Module):
    """Residual block, attention over the whole map, residual block. (B, K, h, w) -> same."""

    def __init__(self, width: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.resnets = _resnets(width, width, 2, config)
        self.attentions = _attentions(width, int(config.mid_attention), config)

    def parts(self) -> tuple[nn.Module, ...]:
        return (self.resnets[0], *self.attentions, self.resnets[1])


class SpatialAttention(nn.Module):
    """Every place of a map attends to all places, with one head. (B, K, h, w) -> same."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, width, _EPS)
        self.to_q = Linear(width, width)
        self.to_k = Linear(width, width)
        self.to_v = Linear(width, width)
        # A list of one, as in files, where a dropout stood second.
        self.to_out = nn.ModuleList([Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.flatten(self.group_norm(x), 2).transpose(1, 2)  # (B, h w, K)
        query, key, value = self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)
        y = attend(query, key, value, heads=1, learns=self.training)
        out: Tensor = self.to_out[0](y)
        return x + out.transpose(1, 2).reshape(x.shape)


def _parts(blocks: nn.ModuleList) -> Iterator[nn.Module]:
    return chain.from_iterable(cast("DownBlock | UpBlock", block).parts() for block in blocks)


def _resnets(before: int, width: int, count: int, config: AutoencoderConfig) -> nn.ModuleList:
    return nn.ModuleList(
        ResBlock(before if i == 0 else width, width, groups=config.groups, eps=_EPS)
        for i in range(count)
    )


def _attentions(width: int, count: int, config: AutoencoderConfig) -> nn.ModuleList:
    return nn.ModuleList(SpatialAttention(width, config.groups) for _ in range(count))


def _interleaved(resnets: nn.ModuleList, attentions: nn.ModuleList) -> Iterator[nn.Module]:
    """Each residual block, and the attention after it where the level has some."""
    return (
        chain.from_iterable(zip(resnets, attentions, strict=True)) if attentions else iter(resnets)
    )


# -- codec -----------------------------------------------------------------------------------------


class Coder(Protocol):
    """An autoencoder: what `Codec` needs of one."""

    def moments(self, images: Tensor) -> Tensor: ...
    def posterior(self, moments: Tensor) -> Posterior: ...
    def decode(self, latents: Tensor) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


class CoderConfig(Protocol):
    """The shape of an autoencoder: what `CodecConfig` needs of one."""

    @property
    def factor(self) -> int: ...
    @property
    def latent_channels(self) -> int: ...
    def build(self) -> Coder: ...


@dataclass(frozen=True)
class CodecConfig:
    """An autoencoder's shape, and the numbers that give its latents unit size.

    latents = (raw latents - shift) * scale, where each is one number for all channels or, for
    Playground v2.5, one for every channel.
    """

    autoencoder: CoderConfig
    scale: PerChannel = 1.0
    shift: PerChannel = 0.0

    @property
    def factor(self) -> int:
        return self.autoencoder.factor

    @property
    def channels(self) -> int:
        return self.autoencoder.latent_channels

    def build(self) -> "Codec":
        """A codec with weights at random; under `torch.device("meta")`, with none."""
        return Codec(self.autoencoder.build(), self)


KL_F8_SD = CodecConfig(AutoencoderConfig(), scale=0.18215)
KL_F8_SDXL = CodecConfig(AutoencoderConfig(), scale=0.13025)
KL_F4 = CodecConfig(AutoencoderConfig(widths=(128, 256, 512)), scale=0.08333)
KL_F8_SD3 = CodecConfig(
    AutoencoderConfig(latent_channels=16, quant_conv=False, post_quant_conv=False),
    scale=1.5305,
    shift=0.0609,
)


@dataclass(frozen=True)
class Codec:
    """Pictures to the latents that a backbone works on, and back.

    Takes any floating-point type, computes in that of the weights and returns float32.
    """

    autoencoder: Coder
    config: CodecConfig
    runner: CodecRunner | None = None  # an engine's, asked for whole pictures

    @property
    def factor(self) -> int:
        """Pixels in a latent's width."""
        return self.config.factor

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def scale(self) -> PerChannel:
        return self.config.scale

    @property
    def shift(self) -> PerChannel:
        return self.config.shift

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, in which the work is done."""
        return next(self.autoencoder.parameters()).dtype

    def encode(
        self, images: Tensor, *, tile: Tiling | None = None, wrap: Wrap = NO_WRAP
    ) -> Posterior:
        """The distribution of the latents of pictures (B, 3, H, W) in [-1, 1].

        With `wrap` the pictures continue at their other side, and so do the latents.
        Raises RequestError if H or W is not a multiple of the factor.
        """
        for name, size in (("height", images.shape[2]), ("width", images.shape[3])):
            _check_size(name, size, self.factor)
        coder = self._asked(tile, wrap)
        moments = self._run(coder.moments, images, tile, wrap, zoom_in=self.factor, zoom_out=1)
        return self.autoencoder.posterior(moments).rescaled(self.scale, self.shift)

    def decode(
        self, latents: Tensor, *, tile: Tiling | None = None, wrap: Wrap = NO_WRAP
    ) -> Tensor:
        """Pictures (B, 3, H, W), not clamped to [-1, 1], of latents (B, C, h, w).

        With `wrap` the latents continue at their other side, and so do the pictures.
        Raises RequestError if C is not the codec's.
        """
        if latents.shape[1] != self.channels:
            raise RequestError(
                f"this autoencoder's latents have {self.channels} channels; got "
                f"{latents.shape[1]}. Use the autoencoder of the model that drew them."
            )
        raw = latents.float()
        raw = raw / _by_channel(self.scale, raw) + _by_channel(self.shift, raw)
        coder = self._asked(tile, wrap)
        return self._run(coder.decode, raw, tile, wrap, zoom_in=1, zoom_out=self.factor)

    def _asked(self, tile: Tiling | None, wrap: Wrap) -> Coder | CodecRunner:
        """Who does the work: bands and joined ends reach into the modules themselves."""
        return self.autoencoder if self.runner is None or wrap or tile else self.runner

    def _run(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        tile: Tiling | None,
        wrap: Wrap,
        *,
        zoom_in: int,
        zoom_out: int,
    ) -> Tensor:
        x = x.to(self.dtype)
        inside = wrap
        if isinstance(tile, Tiles):
            # the ends of a tile meet only where it is the whole of an axis
            high, wide = (size <= tile.size * zoom_in for size in x.shape[2:])
            inside = Wrap(wrap.x and wide, wrap.y and high)
        coder = cast("nn.Module", self.autoencoder)
        with wrapped(coder, x=inside.x, y=inside.y) if inside else nullcontext():
            if tile is None:
                return function(x).float()
            if isinstance(tile, Bands):
                return by_bands(function, x, tile).float()
            return by_tiles(function, x, tile, zoom_in=zoom_in, zoom_out=zoom_out, wrap=wrap)


def _by_channel(value: PerChannel, like: Tensor) -> Tensor:
    """The number as a scalar, or the numbers as (C, 1, 1), of the type and device of `like`."""
    numbers = torch.tensor(value, dtype=like.dtype, device=like.device)
    return numbers if isinstance(value, float | int) else numbers[:, None, None]


def _check_size(name: str, size: int, factor: int) -> None:
    if size >= factor and size % factor == 0:
        return
    below = size // factor * factor
    nearest = f"The nearest are {below} and {below + factor}." if below else f"Use {factor}."
    raise RequestError(f"{name} must be a multiple of {factor}; got {size}. {nearest}")
