"""What a trained autoencoder's latents are like, and how they are given unit size for diffusion.

LDM took its scale from the first batch; here every number is over a whole set. The normalisation is
folded into the two 1 x 1 convolutions around the latents, so files need no other scale than 1.

Shapes: B batch, C latent channels, h w latents.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from safelight.errors import NonFiniteError, RequestError
from safelight.models.autoencoder import Autoencoder, Posterior
from safelight.models.layers import Conv2d


@dataclass(frozen=True, slots=True)
class LatentStatistics:
    """Moments of drawn latents over a set of pictures; float64, on the CPU.

    The deviations are of draws, so they hold what the posteriors' own noise adds.
    """

    pictures: int
    mean: Tensor  # (C,)
    deviation: Tensor  # (C,)
    correlation: Tensor  # (C, C): of the channels at one place
    posterior_deviation: Tensor  # (C,): root of the mean variance of the posteriors
    nats: float  # mean divergence from unit normals, per latent value

    @property
    def most_correlated(self) -> float:
        """The largest absolute correlation of two channels; 0 for one channel."""
        between = self.correlation - torch.diag(torch.diagonal(self.correlation))
        return float(between.abs().max())

    @property
    def signal_to_noise(self) -> Tensor:
        """Variance of the posteriors' means over that of their noise, in decibels: (C,)."""
        noise = self.posterior_deviation.square()
        return 10.0 * torch.log10((self.deviation.square() - noise).clamp(min=0.0) / noise)

    @property
    def bits(self) -> Tensor:
        """Bits that a Gaussian channel of this signal and noise carries, per value: (C,)."""
        return torch.log2(self.deviation / self.posterior_deviation)

    def report(self) -> str:
        """A table of the channels as Markdown."""
        lines = [
            "| channel | mean | deviation | largest correlation | noise | SNR, dB | bits |",
            "|---|---|---|---|---|---|---|",
        ]
        others = self.correlation - torch.diag(torch.diagonal(self.correlation))
        rows = zip(
            self.mean, self.deviation, others.abs().amax(dim=1), self.posterior_deviation,
            self.signal_to_noise, self.bits, strict=True,
        )  # fmt: skip
        for channel, (mean, deviation, most, noise, decibels, bits) in enumerate(rows):
            lines.append(
                f"| {channel} | {mean:.3f} | {deviation:.3f} | {most:.2f} | {noise:.4f}"
                f" | {decibels:.1f} | {bits:.2f} |"
            )
        lines.append("")
        lines.append(
            f"Over {self.pictures} pictures: {self.nats:.3f} nats from unit normals and"
            f" {float(self.bits.mean()):.2f} bits a value."
        )
        return "\n".join(lines)


class LatentSums:
    """Sums over posteriors, in float64 on their device; nothing waits for the device."""

    def __init__(self) -> None:
        self._pictures = 0
        self._places = 0
        self._first: Tensor | None = None  # (C,)
        self._second: Tensor | None = None  # (C, C)
        self._variance: Tensor | None = None  # (C,)
        self._nats: Tensor | None = None  # ()

    @torch.no_grad()
    def add(self, posterior: Posterior) -> None:
        """Count the posteriors of a batch in."""
        mean = posterior.mean.double().movedim(1, -1).flatten(0, 2)  # (B h w, C)
        variance = posterior.logvar.double().exp().sum(dim=(0, 2, 3))
        first, second = mean.sum(dim=0), mean.T @ mean
        nats = posterior.kl().double().sum() / posterior.mean[0].numel()
        if self._first is None:
            self._first, self._second, self._variance, self._nats = first, second, variance, nats
        else:
            assert self._second is not None and self._variance is not None
            assert self._nats is not None
            self._first, self._second = self._first + first, self._second + second
            self._variance, self._nats = self._variance + variance, self._nats + nats
        self._pictures += len(posterior.mean)
        self._places += len(mean)

    def statistics(self) -> LatentStatistics:
        """The moments of all that was counted.

        Raises RequestError if nothing was, NonFiniteError if the latents are not finite.
        """
        if self._first is None or self._second is None:
            raise RequestError("the statistics of latents need at least 1 picture; got none")
        assert self._variance is not None and self._nats is not None
        mean = self._first.cpu() / self._places
        spread = self._second.cpu() / self._places - torch.outer(mean, mean)
        noise = self._variance.cpu() / self._places
        # A draw's variance is that of the means plus the mean variance around them; the noise of
        # different channels is independent.
        covariance = spread + torch.diag(noise)
        deviation = torch.diagonal(covariance).clamp(min=0.0).sqrt()
        if not (deviation.isfinite().all() and mean.isfinite().all()):
            raise NonFiniteError("the autoencoder gave NaN or infinite latents; train it anew")
        scale = deviation.clamp(min=torch.finfo(torch.float64).tiny)
        return LatentStatistics(
            pictures=self._pictures,
            mean=mean,
            deviation=deviation,
            correlation=covariance / torch.outer(scale, scale),
            posterior_deviation=noise.sqrt(),
            nats=float(self._nats) / self._pictures,
        )


def latent_statistics(
    encode: Callable[[Tensor], Posterior], batches: Iterable[Tensor]
) -> LatentStatistics:
    """Moments of the latents of all pictures (B, 3, H, W) in [-1, 1] of the batches.

    `encode` is an autoencoder's or a codec's. Raises as `LatentSums.statistics`.
    """
    sums = LatentSums()
    with torch.no_grad():
        for pictures in batches:
            sums.add(encode(pictures))
    return sums.statistics()


@torch.no_grad()
def latents_of_colour(
    autoencoder: Autoencoder, size: int, colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Tensor:
    """The mean latents of a picture of one colour, by default white: (C,) float64, on the CPU.

    As the shift of `folded` this puts the commonest background at zero, where a diffusion model
    begins, at the price of a mean that is not zero. `size` is the side of the picture in pixels.
    """
    weight = next(autoencoder.parameters())
    picture = torch.tensor(colour, dtype=weight.dtype, device=weight.device)
    plain = picture[None, :, None, None].expand(1, 3, size, size)
    return autoencoder.encode(plain).mode().double().mean(dim=(0, 2, 3)).cpu()


def folded(autoencoder: Autoencoder, shift: Tensor, deviation: Tensor) -> Autoencoder:
    """A copy whose latents are (latents - shift) / deviation, and whose pictures are the same.

    shift and deviation (C,) go into `quant_conv` and `post_quant_conv`; an autoencoder without them
    gets both. Exact up to rounding: mean' = (mean - shift) / deviation, and logvar' = logvar -
    2 ln deviation, unless its clamp to [-30, 20] cuts. Weights keep their type: fold in float32 and
    cast afterwards. Raises RequestError if a deviation is not positive or the lengths differ.
    """
    channels = autoencoder.config.latent_channels
    if shift.shape != (channels,) or deviation.shape != (channels,):
        raise RequestError(
            f"these latents have {channels} channels; got a shift of shape {tuple(shift.shape)} and"
            f" deviations of shape {tuple(deviation.shape)}. Give one number for each channel."
        )
    if not (deviation.isfinite().all() and (deviation > 0).all() and shift.isfinite().all()):
        raise RequestError(
            f"latents can only be divided by positive deviations; got {deviation.tolist()}"
        )
    copied = _with_quant_convs(autoencoder)
    assert copied.quant_conv is not None and copied.post_quant_conv is not None
    shift, deviation = (values.detach().double().cpu() for values in (shift, deviation))
    _fold_in(copied.quant_conv, shift, deviation)
    _fold_out(copied.post_quant_conv, shift, deviation)
    return copied


# -- parts -----------------------------------------------------------------------------------------


@torch.no_grad()
def _fold_in(conv: Conv2d, shift: Tensor, deviation: Tensor) -> None:
    """The convolution before the latents, whose outputs are means and then log variances."""
    weight, bias = _matrix(conv)
    channels = len(shift)
    weight[:channels] /= deviation[:, None]
    bias[:channels] = (bias[:channels] - shift) / deviation
    bias[channels:] -= 2.0 * deviation.log()
    _assign(conv, weight, bias)


@torch.no_grad()
def _fold_out(conv: Conv2d, shift: Tensor, deviation: Tensor) -> None:
    """The convolution after the latents."""
    weight, bias = _matrix(conv)
    bias += weight @ shift
    weight *= deviation
    _assign(conv, weight, bias)


def _matrix(conv: Conv2d) -> tuple[Tensor, Tensor]:
    """Copies of a 1 x 1 convolution's weight (out, in) and bias (out,), float64, on the CPU."""
    assert conv.bias is not None
    weight = conv.weight.detach().to("cpu", torch.float64, copy=True)
    return weight[:, :, 0, 0], conv.bias.detach().to("cpu", torch.float64, copy=True)


def _assign(conv: Conv2d, weight: Tensor, bias: Tensor) -> None:
    assert conv.bias is not None
    conv.weight.copy_(weight[:, :, None, None])
    conv.bias.copy_(bias)


def _with_quant_convs(autoencoder: Autoencoder) -> Autoencoder:
    """A copy that has both 1 x 1 convolutions: identities where there were none."""
    copied = copy.deepcopy(autoencoder)
    channels = copied.config.latent_channels
    like = copied.decoder.conv_in.weight
    if copied.quant_conv is None:
        copied.quant_conv = _identity(2 * channels, like)
    if copied.post_quant_conv is None:
        copied.post_quant_conv = _identity(channels, like)
    copied.config = replace(copied.config, quant_conv=True, post_quant_conv=True)
    return copied


def _identity(channels: int, like: Tensor) -> Conv2d:
    conv = Conv2d(channels, channels, 1)
    assert conv.bias is not None
    nn.init.eye_(conv.weight.data[:, :, 0, 0])
    nn.init.zeros_(conv.bias)
    return conv.to(like.device, like.dtype)
