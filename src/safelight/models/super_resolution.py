"""Networks that make a picture larger in one pass: ESRGAN's, and Real-ESRGAN's compact one.

Wang et al. 2018 (arXiv:1809.00219) and Wang et al. 2021 (arXiv:2107.10833). Names in the state dict
are those of BasicSR but for the numbered layers before each doubling.

Shapes: B batch, H W pixels, s scale, C channels of a map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import CheckpointError
from safelight.models.layers import Conv2d

_RESIDUAL = 0.2  # how much a block adds to what it was given
_SLOPE = 0.2  # of the leaky rectifier below 0
_SCALES = (1, 2, 3, 4, 8, 16)


@dataclass(frozen=True)
class RrdbConfig:
    """The shape of ESRGAN's network: residual blocks of dense blocks, then doublings.

    gather: pixels of a square of so many by so many become channels of one place first, so that
        the same network with two doublings makes a picture 4 / gather times as large.
    Raises CheckpointError if the sizes make no network.
    """

    channels: int = 3  # of the pictures
    width: int = 64
    growth: int = 32  # channels that each layer of a dense block adds
    blocks: int = 23
    doublings: int = 2
    gather: int = 1

    def __post_init__(self) -> None:
        sizes = (self.channels, self.width, self.growth, self.blocks, self.gather)
        whole = self.doublings >= 0 and (1 << self.doublings) % self.gather == 0
        if min(sizes) < 1 or not whole or self.scale not in _SCALES:
            raise CheckpointError(f"an ESRGAN network cannot be built from these sizes: {self}")

    @property
    def scale(self) -> int:
        return (1 << self.doublings) // self.gather

    def build(self) -> "RrdbNet":
        return RrdbNet(self)


@dataclass(frozen=True)
class CompactConfig:
    """The shape of Real-ESRGAN's compact network: convolutions and rectifiers at the small size.

    Raises CheckpointError if the sizes make no network.
    """

    channels: int = 3
    width: int = 64
    layers: int = 16  # convolutions between the first and the last
    scale: int = 4

    def __post_init__(self) -> None:
        if min(self.channels, self.width, self.layers) < 1 or self.scale not in _SCALES:
            raise CheckpointError(f"a compact upscaler cannot be built from these sizes: {self}")

    def build(self) -> "CompactNet":
        return CompactNet(self)


class RrdbNet(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] to (B, 3, s H, s W), not clamped."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: RrdbConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv_first = Conv2d(config.channels * config.gather**2, width, 3, padding=1)
        self.body = nn.Sequential(*(Rrdb(width, config.growth) for _ in range(config.blocks)))
        self.conv_body = Conv2d(width, width, 3, padding=1)
        self.conv_up = nn.ModuleList(
            Conv2d(width, width, 3, padding=1) for _ in range(config.doublings)
        )
        self.conv_hr = Conv2d(width, width, 3, padding=1)
        self.conv_last = Conv2d(width, config.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        gather, scale = self.config.gather, self.config.scale
        x = self.conv_first(F.pixel_unshuffle(_filled_up(x, gather), gather))
        x = x + self.conv_body(self.body(x))
        for conv in self.conv_up:
            x = _rectified(conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        y = self.conv_last(_rectified(self.conv_hr(x)))
        return y[:, :, : scale * height, : scale * width]


class Rrdb(nn.Module):
    """Three dense blocks, a fifth of whose work is added to what they were given. (B, C, H, W)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + _RESIDUAL * self.rdb3(self.rdb2(self.rdb1(x)))


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it made. (B, C, H, W) -> same."""

    __call__: Callable[..., Tensor]

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(width, growth, 3, padding=1)
        self.conv2 = Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        made = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            made = torch.cat([made, _rectified(conv(made))], dim=1)
        return x + _RESIDUAL * self.conv5(made)


class CompactNet(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] to (B, 3, s H, s W), not clamped: the repeated pixels, plus
    what the network adds to each."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.width, range(config.layers)
        layers: list[nn.Module] = [Conv2d(config.channels, width, 3, padding=1), Rectifier(width)]
        for _ in inner:
            layers += [Conv2d(width, width, 3, padding=1), Rectifier(width)]
        layers.append(Conv2d(width, config.channels * config.scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        added = F.pixel_shuffle(self.body(x), self.config.scale)
        repeated = F.interpolate(x, scale_factor=float(self.config.scale), mode="nearest")
        return added + repeated.to(added.dtype)


class Rectifier(nn.Module):
    """A rectifier with a slope below 0 of its own for each channel. (B, C, H, W) -> same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)


def _filled_up(x: Tensor, multiple: int) -> Tensor:
    """The picture with sides of a multiple, mirrored at its right and lower edge."""
    below, aside = -x.shape[2] % multiple, -x.shape[3] % multiple
    if not below and not aside:
        return x
    mirrors = below < x.shape[2] and aside < x.shape[3]
    return F.pad(x, (0, aside, 0, below), mode="reflect" if mirrors else "replicate")


def _rectified(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)
