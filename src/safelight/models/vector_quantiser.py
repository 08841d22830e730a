"""The autoencoder with a codebook of latent diffusion: every latent is one of some vectors.

van den Oord et al. 2017 (arXiv:1711.00937); Esser et al. 2021 (arXiv:2012.09841); Rombach et al.
2022 (arXiv:2112.10752), section 3.1. Names are those of Diffusers' `VQModel`.

Shapes: B batch, H W pixels, h w latents (H = factor * h), C channels of a latent, Z channels of the
networks' own latents, N codes, T = B h w latents in a row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import CheckpointError
from safelight.models.autoencoder import (
    AutoencoderConfig,
    Decoder,
    Encoder,
    Posterior,
    disturbed,
)
from safelight.models.layers import Conv2d

_EPS = 1e-5  # of the smoothed counts, as in van den Oord et al., appendix A


@dataclass(frozen=True)
class VqConfig:
    """The shape of an autoencoder with a codebook of `codes` vectors of `latent_channels` numbers.

    `averages` says how the codebook learns: by its gradient, or as moving averages of the latents
    that fell to each code; then the module also holds the averages. `attention` counts the levels,
    from the finest, that have attention after every block; the middle has it by `mid_attention`.
    Raises CheckpointError if the sizes cannot be built.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 3
    network_channels: int | None = None  # Z; None: as many as a code
    codes: int = 8192
    widths: tuple[int, ...] = (128, 256, 512)
    layers: int = 2
    groups: int = 32
    mid_attention: bool = True
    attention: tuple[int, ...] = ()
    averages: bool = False

    def __post_init__(self) -> None:
        _ = self.networks
        strange = [level for level in self.attention if not 0 <= level < len(self.widths)]
        if strange or self.codes < 1 or self.latent_channels < 1:
            raise CheckpointError(
                "a vector-quantised autoencoder cannot be built from these sizes: "
                + (
                    f"attention in level {strange[0]} of {len(self.widths)}"
                    if strange
                    else f"{self.codes} codes of {self.latent_channels} numbers"
                )
            )

    @property
    def networks(self) -> AutoencoderConfig:
        """The shape of encoder and decoder."""
        return AutoencoderConfig(
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            latent_channels=self.network_channels or self.latent_channels,
            widths=self.widths,
            layers=self.layers,
            groups=self.groups,
            mid_attention=self.mid_attention,
        )

    @property
    def factor(self) -> int:
        """Pixels in a latent's width."""
        return self.networks.factor

    def build(self) -> "VqAutoencoder":
        return VqAutoencoder(self)


VQ_F4 = VqConfig()
VQ_F8 = VqConfig(latent_channels=4, codes=16384, widths=(128, 128, 256, 512), attention=(3,))
VQ_F8_N256 = replace(VQ_F8, codes=256)
VQ_F16 = VqConfig(latent_channels=8, codes=16384, widths=(128, 128, 256, 256, 512), attention=(4,))


@dataclass(frozen=True)
class Quantised:
    """Latents and the codes nearest to them."""

    raw: Tensor  # (B, C, h, w) float32, before
    latents: Tensor  # (B, C, h, w) float32, the codes; their gradient is handed on to `raw`
    codes: Tensor  # (B, C, h, w) float32, the codes; their gradient goes to the codebook
    indices: Tensor  # (B, h, w) int64

    def loss(self, beta: float = 0.25, *, legacy: bool = False) -> Tensor:
        """What draws codes to latents and latents to codes: a scalar, float32.

        ||sg[raw] - code||^2 + beta ||raw - sg[code]||^2, means over all numbers: beta is on the
        commitment of the encoder, as in the paper. LDM's and Diffusers' code have it on the first
        term (`legacy`), so their published models were trained with a strong commitment.
        """
        codebook = (self.codes - self.raw.detach()).square().mean()
        commitment = (self.raw - self.codes.detach()).square().mean()
        if legacy:
            return commitment + beta * codebook
        return codebook + beta * commitment


@dataclass(frozen=True)
class QuantisedReconstruction:
    """Pictures after a passage through the codebook, and what its training asks about it."""

    images: Tensor  # (B, 3, H, W), not clamped
    quantised: Quantised
    features: Tensor  # (B, K, H, W): what the decoder's last convolution read


class VqAutoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, h, w) and back through the codebook.

    As in latent diffusion, the latents that a diffusion model works on are those before the
    codebook; decoding begins with it.
    """

    __call__: Callable[..., QuantisedReconstruction]

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.config = config
        networks, attention = config.networks, config.attention
        inner, channels = networks.latent_channels, config.latent_channels
        self.encoder = Encoder(networks, out_channels=inner, attention=attention)
        self.decoder = Decoder(networks, attention=attention)
        self.quant_conv = Conv2d(inner, channels, 1)
        self.quantize = VectorQuantiser(config.codes, channels, averages=config.averages)
        self.post_quant_conv = Conv2d(channels, inner, 1)

    def moments(self, images: Tensor) -> Tensor:
        """The latents before the codebook: (B, C, h, w)."""
        return self.quant_conv(self.encoder(images))

    def posterior(self, moments: Tensor) -> Posterior:
        """A distribution without doubt: every sample is the mode."""
        mean = moments.float()
        return Posterior(mean, torch.full_like(mean, -math.inf))

    def encode(self, images: Tensor) -> Posterior:
        """The latents of pictures, before the codebook."""
        return self.posterior(self.moments(images))

    def indices(self, images: Tensor) -> Tensor:
        """The numbers of the codes nearest to a picture's latents: (B, h, w) int64."""
        return self.quantize(self.moments(images)).indices

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), not clamped, of latents, each replaced by its nearest code."""
        return self._decoded(self.quantize(latents).codes)

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), not clamped, of numbers of codes (B, h, w)."""
        return self._decoded(self.quantize.entries(indices))

    def forward(self, images: Tensor, disturbance: Tensor | None = None) -> QuantisedReconstruction:
        """Reconstructions for training; `disturbance` as in `Autoencoder.forward`, on the codes."""
        quantised = self.quantize(self.moments(images))
        latents = quantised.latents
        if disturbance is not None:
            latents = disturbed(latents, disturbance)
        features = self.decoder.features(self.post_quant_conv(latents))
        return QuantisedReconstruction(
            self.decoder.conv_out(features), quantised, features.detach()
        )

    def _decoded(self, codes: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(codes))


class VectorQuantiser(nn.Module):
    """Latents (B, C, h, w) to the nearest vectors of a codebook."""

    __call__: Callable[..., Quantised]

    def __init__(self, codes: int, channels: int, *, averages: bool = False) -> None:
        super().__init__()
        self.embedding = Codebook(codes, channels, learns=not averages)
        self.averages = CodebookAverages(self.embedding.weight) if averages else None

    def forward(self, raw: Tensor) -> Quantised:
        raw = raw.float()
        rows = raw.detach().movedim(1, -1)  # (B, h, w, C)
        with torch.no_grad():
            codebook = self.embedding.weight.float()
            # |z - e|^2 without |z|^2, which is the same for all codes
            distances = codebook.square().sum(dim=1) - 2.0 * rows.flatten(0, 2) @ codebook.T
            indices = distances.argmin(dim=1).reshape(rows.shape[:3])
        codes = self.entries(indices)
        # Straight-through: forward the code, backward as if it were the latent itself.
        latents = raw + (codes - raw).detach()
        return Quantised(raw, latents, codes, indices)

    def entries(self, indices: Tensor) -> Tensor:
        """The vectors of numbers of codes: (B, h, w) -> (B, C, h, w), float32."""
        return F.embedding(indices, self.embedding.weight).float().movedim(-1, 1)


class Codebook(nn.Module):
    """The vectors (N, C): a parameter if they learn by gradient, else a buffer of the same name."""

    weight: Tensor

    def __init__(self, codes: int, channels: int, *, learns: bool) -> None:
        super().__init__()
        vectors = nn.init.uniform_(torch.empty(codes, channels), -1.0 / codes, 1.0 / codes)
        if learns:
            self.weight = nn.Parameter(vectors)
        else:
            self.register_buffer("weight", vectors)


class CodebookAverages(nn.Module):
    """Moving averages of how many latents fall to each code, and of their sum; float32 always.

    van den Oord et al. 2017, appendix A. In bfloat16 a slow average stands still, so a cast of the
    model leaves these as they are.
    """

    counts: Tensor  # (N,) latents a step
    sums: Tensor  # (N, C)

    def __init__(self, codebook: Tensor) -> None:
        super().__init__()
        self.register_buffer("counts", torch.ones(len(codebook)))
        self.register_buffer("sums", codebook.detach().float().clone())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CodebookAverages":
        for name, buffer in list(self.named_buffers(recurse=False)):
            moved = fn(buffer)
            # A cast would round before it could be undone: move the original.
            kept = moved if moved.dtype == torch.float32 else buffer.to(moved.device)
            self._buffers[name] = kept
        return self


def usage(indices: Tensor, codes: int) -> Tensor:
    """The share of latents that fell to each code: (N,), float32."""
    counts = torch.zeros(codes, device=indices.device)
    flat = indices.flatten()
    return counts.index_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype)) / len(flat)


def perplexity(indices: Tensor, codes: int) -> Tensor:
    """How many codes are in use, as the exponential of the entropy of their shares: a scalar.

    `codes` if all are used alike, 1 if one takes everything.
    """
    shares = usage(indices, codes)
    return torch.exp(-torch.xlogy(shares, shares).sum())


@torch.no_grad()
def follow(
    quantiser: VectorQuantiser,
    quantised: Quantised,
    *,
    decay: float = 0.99,
    revive_below: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Move the codes to the averages of their latents; says how many dead ones were revived.

    For a quantiser with averages, once a step, in the encoder's own turn. A code that lately got
    fewer than `revive_below` latents a step takes the place of one of this batch's latents, drawn
    by `generator`. With several processes, sums are over all of them and the draw is the first's,
    so that the codebook stays one. Returns a scalar; nothing waits for the device.
    """
    averages = quantiser.averages
    assert averages is not None, "a codebook learnt by its gradient has no averages to follow"
    rows = quantised.raw.detach().movedim(1, -1).flatten(0, 2)  # (T, C)
    flat = quantised.indices.flatten()
    counts = torch.zeros_like(averages.counts).index_add_(0, flat, torch.ones_like(rows[:, 0]))
    sums = torch.zeros_like(averages.sums).index_add_(0, flat, rows)
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if several:
        torch.distributed.all_reduce(counts)
        torch.distributed.all_reduce(sums)
    averages.counts.lerp_(counts, 1.0 - decay)
    averages.sums.lerp_(sums, 1.0 - decay)
    dead = averages.counts < revive_below  # (N,)
    if revive_below > 0.0:
        chosen = torch.randint(len(rows), (len(dead),), generator=generator, device=rows.device)
        fresh = rows[chosen]
        if several:
            torch.distributed.broadcast(fresh, src=0)
        averages.sums.copy_(torch.where(dead[:, None], fresh * revive_below, averages.sums))
        averages.counts.copy_(torch.where(dead, revive_below, averages.counts))
    # Laplace smoothing: a code without latents keeps a finite mean.
    total = averages.counts.sum()
    smooth = (averages.counts + _EPS) / (total + len(dead) * _EPS) * total
    quantiser.embedding.weight.copy_(averages.sums / smooth[:, None])
    return dead.sum()


def without_averages(model: VqAutoencoder) -> VqAutoencoder:
    """The same autoencoder as it is published: its codebook, and nothing of how it was learnt."""
    if not model.config.averages:
        return model
    with torch.device("meta"):
        plain = VqAutoencoder(replace(model.config, averages=False))
    state = model.state_dict()
    plain.load_state_dict({name: state[name].clone() for name in plain.state_dict()}, assign=True)
    return plain
