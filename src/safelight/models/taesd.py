"""TAESD: an autoencoder of a few megabytes for previews, distilled from the large ones.

Ollin Boer Bohan, https://github.com/madebyollin/taesd (MIT). Its latents are those of the large
autoencoder after scale and shift, so its codec has scale 1. Names are those of Diffusers'
`AutoencoderTiny`. For TAESD 1.x/2.x, TAESDXL and TAESD3, weights differ and the shape nearly not.

Shapes: B batch, H W pixels, h w latents (H = factor * h), C latent channels, K width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.models.autoencoder import CodecConfig, Posterior
from safelight.models.layers import Conv2d, added_to_own, of_enlarged

_MAGNITUDE = 3.0  # latents lie in about [-3, 3]; as a picture they are latents / 6 + 0.5


@dataclass(frozen=True)
class TinyAutoencoderConfig:
    """The shape of a tiny autoencoder: one number of blocks for each level, finest first.

    encodes: whether it has its first half; a decoder alone shows latents and makes none.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    width: int = 64
    blocks: tuple[int, ...] = (1, 3, 3, 3)
    encodes: bool = True

    @property
    def factor(self) -> int:
        """Pixels in a latent's width."""
        return 1 << (len(self.blocks) - 1)

    def build(self) -> "TinyAutoencoder":
        return TinyAutoencoder(self)


TAESD = CodecConfig(TinyAutoencoderConfig())
TAESDXL = CodecConfig(TinyAutoencoderConfig())
TAESD3 = CodecConfig(TinyAutoencoderConfig(latent_channels=16))


class TinyAutoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to scaled latents (B, C, h, w) and back."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TinyEncoder(config) if config.encodes else None
        self.decoder = TinyDecoder(config)

    def moments(self, images: Tensor) -> Tensor:
        """The latents themselves: (B, C, h, w). Raises RequestError for a decoder alone."""
        if self.encoder is None:
            raise RequestError(
                "this tiny autoencoder is a decoder alone, which makes no latents of pictures; "
                "to start from a picture leave it out (--vae), or give one with both halves"
            )
        # The network works on pictures in [0, 1].
        return self.encoder(images * 0.5 + 0.5)

    def posterior(self, moments: Tensor) -> Posterior:
        """A distribution without doubt: every sample is the mode."""
        mean = moments.float()
        return Posterior(mean, torch.full_like(mean, -math.inf))

    def encode(self, images: Tensor) -> Posterior:
        return self.posterior(self.moments(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), not clamped, of latents, which are bent into [-3, 3] first."""
        bent = torch.tanh(latents / _MAGNITUDE) * _MAGNITUDE
        return self.decoder(bent) * 2.0 + -1.0


class TinyEncoder(nn.Module):
    """(B, 3, H, W) -> (B, C, h, w)."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv2d(config.in_channels, config.width, 3, padding=1)]
        for level, count in enumerate(config.blocks):
            if level > 0:
                half = Conv2d(config.width, config.width, 3, stride=2, padding=1, bias=False)
                layers.append(half)
            layers += [TinyBlock(config.width) for _ in range(count)]
        layers.append(Conv2d(config.width, config.latent_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class TinyDecoder(nn.Module):
    """(B, C, h, w) -> (B, 3, H, W)."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [Conv2d(config.latent_channels, width, 3, padding=1), Relu()]
        for level, count in enumerate(reversed(config.blocks)):
            if level > 0:
                layers += [Double(), Conv2d(width, width, 3, padding=1, bias=False)]
            layers += [TinyBlock(width) for _ in range(count)]
        layers.append(Conv2d(width, config.out_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        small = None  # a map that the next layer, a convolution, sees at twice its size
        for layer in self.layers:
            if isinstance(layer, Double):
                small = x
            elif small is not None and isinstance(layer, Conv2d):
                x, small = of_enlarged(layer, small), None
            else:
                x = layer(x)
        return x


class TinyBlock(nn.Module):
    """Three convolutions around a residual. (B, K, h, w) -> same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convs = [Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], Relu(), convs[1], Relu(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return F.relu(added_to_own(y, x))


class Relu(nn.Module):
    """max(x, 0); takes a place in the numbering of layers."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Double(nn.Module):
    """Nearest neighbour to twice the size, which is folded into the convolution that follows."""
