"""Models to time: the shapes of published ones, nothing learned, the same at every call."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import nn

from safelight.families import FAMILIES, Family
from safelight.model import Model
from safelight.models.autoencoder import Autoencoder, AutoencoderConfig
from safelight.models.backbone import Backbone
from safelight.models.blank import blank
from safelight.models.clip import ClipText
from safelight.models.unet import UNet
from safelight.text.conditioner import Conditioner

UNIT = 1.0  # deviation of what a random U-Net predicts: that of noise
SHADE = 0.4  # deviation of what a random decoder draws: most of it lies in [-1, 1]


@dataclass(frozen=True)
class Geometry:
    """A shape of model by its name on the command line. family None: the model carried along."""

    name: str
    words: str
    family: str | None
    small: bool = False

    def shape(self) -> Family | None:
        if self.family is None:
            return None
        family = FAMILIES[self.family]
        return small(family) if self.small else family


GEOMETRIES: Mapping[str, Geometry] = MappingProxyType(
    {
        one.name: one
        for one in (
            Geometry("sd15", "Stable Diffusion 1.5, weights at random", "sd15"),
            Geometry("sdxl", "Stable Diffusion XL, weights at random", "sdxl"),
            Geometry("embedded", "the model that Safelight carries, with its weights", None),
            Geometry("tiny", "Stable Diffusion 1.5 made narrow: does it run?", "sd15", True),
            Geometry("tiny-xl", "Stable Diffusion XL made narrow: does it run?", "sdxl", True),
        )
    }
)


def random_model(family: Family, seed: int = 0) -> Model:
    """A model in float32 whose every weight is drawn by torch's own initialisation.

    The same family and seed give the same weights; other random numbers stay as they were.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return _model(family, nullcontext())


def weightless(family: Family) -> Model:
    """The same without weights, for shapes and counts: all on the device "meta"."""
    return _model(family, blank())


def _model(family: Family, place: AbstractContextManager[object]) -> Model:
    with place:
        encoders = [ClipText(role.encoder) for role in family.text.roles]
        network, codec = Backbone(UNet(family.backbone)), family.codec.build()
    text = Conditioner(family.text, encoders)
    return Model(family, text, network, codec, family.process.build())


def small(family: Family) -> Family:
    """The same structure with every width divided: a file of a few megabytes."""
    backbone, coder = family.backbone, family.codec.autoencoder
    assert isinstance(coder, AutoencoderConfig)
    texts = tuple(
        replace(role, encoder=replace(role.encoder, layers=4, width=64, heads=1, mlp_width=128))
        for role in family.text.roles
    )
    factor = 10 if backbone.channels[0] % 10 == 0 else 8
    return replace(
        family,
        name=f"small-{family.name}",
        backbone=replace(
            backbone,
            channels=tuple(c // factor for c in backbone.channels),
            heads=tuple(2 if h == 8 else max(1, h // 5) for h in backbone.heads),
            context_width=64 * len(texts),
            groups=8,
        ),
        text=replace(family.text, roles=texts),
        codec=replace(
            family.codec,
            autoencoder=replace(coder, widths=tuple(w // 8 for w in coder.widths), groups=8),
        ),
        native_size=128,
    )


@torch.no_grad()
def enlivened(model: Model) -> Model:
    """The model, its last layers scaled so that predictions and pictures have a usual size.

    A random network answers almost nothing: rounding would then be a large share of it, and
    pictures would be grey. Measured on latents a quarter of the usual side.
    """
    family = model.family
    side = max(8, family.native_size // family.codec.factor // 4)
    rng = torch.Generator().manual_seed(1)
    latents = torch.randn(1, family.backbone.in_channels, side, side, generator=rng)
    context = torch.randn(1, 77, family.backbone.context_width, generator=rng)
    width = family.backbone.vector_width
    vector = None if width is None else torch.randn(1, width, generator=rng)
    unet, coder = model.network.unet, model.codec.autoencoder
    scale_to(unet.conv_out, unet(latents, torch.tensor([500.0]), context, vector), UNIT)
    assert isinstance(coder, Autoencoder)
    decoded = coder.decode(latents[:, : family.codec.channels])
    scale_to(coder.decoder.conv_out, decoded, SHADE)
    return model


@torch.no_grad()
def scale_to(last: nn.Module, output: torch.Tensor, deviation: float) -> None:
    """Scale the last layer, which gave this output, so that it gives one of this deviation."""
    factor = deviation / float(output.float().std())
    for weight in last.parameters():
        weight.mul_(factor)
