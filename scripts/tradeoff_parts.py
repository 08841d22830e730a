"""What the trade-off study is made of: scenes, codecs of several factors, one U-Net, a sampler."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.noise import Noise
from safelight.diffusion.process import Process, start
from safelight.diffusion.samplers import resolve_sampler
from safelight.diffusion.schedules import resolve_schedule
from safelight.families import ProcessConfig
from safelight.models.autoencoder import AutoencoderConfig, Codec, CodecConfig, Posterior
from safelight.models.backbone import Backbone
from safelight.models.unet import UNet, UNetConfig
from safelight.training.autoencoder.task import PictureBatch, as_floats
from safelight.training.draw import Draw, stream
from safelight.training.scenes.book import SceneBook
from safelight.training.scenes.cutouts import Cutouts
from safelight.training.scenes.render import render
from safelight.training.scenes.scene import Scene

WORD = 64  # width of the vector that stands for a word
CODEC_WIDTHS: Mapping[int, tuple[int, ...]] = {  # about 0.8 million weights each
    2: (40, 72),
    4: (32, 48, 64),
    8: (24, 32, 48, 64),
}
CHANNELS: Mapping[int, int] = {1: 3, 2: 4, 4: 4, 8: 8}


# -- scenes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scenes:
    """Pictures with what is said of them, three words each: concept, style and background."""

    pictures: Tensor  # (N, 3, S, S) uint8
    words: Tensor  # (N, 3, WORD)

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], draw: Draw) -> PictureBatch:
        at = torch.as_tensor(indices, dtype=torch.long).to(self.pictures.device)
        return PictureBatch(self.pictures[at])


def scenes(cutouts: Cutouts, start: int, count: int, size: int, seed: int) -> Scenes:
    """Scenes `start` to `start + count` of one object each; a word's vector is always the same."""
    written = SceneBook(cutouts, seed, {"single": 1.0}).scenes(range(start, start + count))
    return Scenes(
        render(written, cutouts, size),
        torch.stack([_words(scene, cutouts) for scene in written]).to(cutouts.rgba.device),
    )


def _words(scene: Scene, cutouts: Cutouts) -> Tensor:
    entry = cutouts.entries[scene.layers[0].cutout]
    names = (entry.hexcode, entry.style, scene.background_name)
    return torch.stack([torch.randn(WORD, generator=stream(0, f"word {name}")) for name in names])


# -- codecs ----------------------------------------------------------------------------------------


class Pixels(nn.Module):
    """No autoencoder: the pictures themselves, shifted and scaled to unit size by channel."""

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean[:, None, None], requires_grad=False)
        self.deviation = nn.Parameter(deviation[:, None, None], requires_grad=False)

    def moments(self, images: Tensor) -> Tensor:
        mean = (images - self.mean) / self.deviation
        return torch.cat([mean, torch.full_like(mean, -torch.inf)], dim=1)

    def posterior(self, moments: Tensor) -> Posterior:
        mean, logvar = moments.float().chunk(2, dim=1)
        return Posterior(mean, logvar)

    def decode(self, latents: Tensor) -> Tensor:
        return latents * self.deviation + self.mean


@dataclass(frozen=True)
class PixelsConfig:
    """The shape of `Pixels`."""

    factor: int = 1
    latent_channels: int = 3

    def build(self) -> Pixels:
        return Pixels(torch.zeros(3), torch.ones(3))


def pixel_codec(pictures: Tensor) -> Codec:
    """The codec of factor 1, with unit size over these pictures (N, 3, S, S)."""
    sample = as_floats(pictures)
    coder = Pixels(sample.mean((0, 2, 3)), sample.std((0, 2, 3)))
    return Codec(coder, CodecConfig(PixelsConfig()))


def coder_config(factor: int) -> AutoencoderConfig:
    """The autoencoder of a factor above 1; all have about as many weights."""
    return AutoencoderConfig(
        latent_channels=CHANNELS[factor],
        widths=CODEC_WIDTHS[factor],
        layers=1,
        groups=8,
        mid_attention=False,
    )


def keep(path: Path, module: nn.Module) -> None:
    """A module's weights in a file."""
    entries = [
        Entry(name, tuple(tensor.shape), tensor.dtype, tensor.detach().cpu().clone)
        for name, tensor in module.state_dict().items()
    ]
    write_safetensors(path, entries, {})


def kept(path: Path, module: nn.Module) -> None:
    """Fill a module from the file that `keep` wrote."""
    with open_weights(path) as file:
        module.load_state_dict({name: file.read(name, copy=True) for name in file.header})


# -- diffusion -------------------------------------------------------------------------------------


def unet_config(channels: int) -> UNetConfig:
    """The U-Net of the study: the same for all factors but for its first and last convolution.

    Its finest level has no attention, so that pixels do not pay for it at every place.
    """
    return UNetConfig(
        in_channels=channels,
        out_channels=channels,
        channels=(64, 96, 128),
        depths=((0,), (1,), (1,)),
        heads=(2, 3, 4),
        context_width=WORD,
    )


def unet(factor: int, seed: int = 0) -> UNet:
    """The network with PyTorch's initial weights, residual branches starting at zero."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = UNet(unet_config(CHANNELS[factor]))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.split(".")[-2] in ("conv2", "proj_out", "conv_out"):
                parameter.zero_()
    return network


def process() -> Process:
    """Noise levels as the embedded model has them, and v-prediction."""
    return ProcessConfig("ddpm", "v", 1e-4, 0.02, "linear").build()


@torch.no_grad()
def draw_pictures(
    network: UNet, codec: Codec, words: Tensor, size: int, *, steps: int, batch: int, seed: int = 0
) -> Tensor:
    """Pictures (N, 3, S, S) in [-1, 1] of these words: DPM++ 2M, Karras' levels, no guidance."""
    parts = [
        _drawn(network, codec, part, size, steps, seed + at) for at, part in _parts(words, batch)
    ]
    return torch.cat(parts)


def _parts(words: Tensor, batch: int) -> Iterator[tuple[int, Tensor]]:
    for at in range(0, len(words), batch):
        yield at, words[at : at + batch]


def _drawn(network: UNet, codec: Codec, words: Tensor, size: int, steps: int, seed: int) -> Tensor:
    how, noises = process(), list(range(seed, seed + len(words)))
    sampler = resolve_sampler("dpmpp_2m")
    sigmas = resolve_schedule("karras")(how, steps)
    side = size // codec.factor
    noise = Noise(noises, (codec.channels, side, side), device=words.device)
    x = start(noise(), sigmas, how.prediction, sampler.start)
    denoise = Denoiser(Backbone(network), how).given(Condition(words))
    for step in sampler.run(denoise, x, sigmas, noise):
        x = step.x
    return codec.decode(x).clamp(-1, 1)
