"""A tiny latent diffusion model, and pictures that a test can tell apart.

Shapes: B pictures, C = 4 latent channels, h = w = 8 latents.
"""

import torch
from torch import Tensor, nn

from models_tiny import randomised
from safelight.diffusion.prediction import V
from safelight.diffusion.process import Process, ddpm
from safelight.models.autoencoder import AutoencoderConfig, Codec, CodecConfig
from safelight.models.backbone import Backbone
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.models.unet import UNet, UNetConfig
from safelight.text.conditioner import Conditioner
from safelight.text.spec import TextRole, TextSpec
from safelight.training.text_states import FrozenText

TEXT = ClipTextConfig(layers=2, width=32, heads=2, mlp_width=64, activation="gelu")
UNET = UNetConfig(
    channels=(16, 32),
    depths=((1,), (1,)),
    heads=(1, 2),
    context_width=32,
    groups=8,
)
CAPTIONS = (
    "a red circle",
    "a green square",
    "a blue triangle",
    "a yellow star",
    "two white crosses",
    "a black ring",
    "a purple heart on a table",
    "an orange moon at night",
)


def process() -> Process:
    """That of the shipped model."""
    return ddpm(V, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")


def conditioner(seed: int = 0) -> Conditioner:
    """A text side of one random tower."""
    tower = ClipText(TEXT)
    randomised(tower, seed)
    return Conditioner(TextSpec((TextRole(TEXT),)), [tower])


def frozen_text(seed: int = 0) -> FrozenText:
    return FrozenText(conditioner(seed))


def backbone(seed: int = 0, config: UNetConfig = UNET) -> Backbone:
    """A U-Net with every weight at random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(config)
    return Backbone(network)


def codec(seed: int = 0, scale: float = 1.0) -> Codec:
    """An autoencoder that makes latents of a quarter of the size."""
    config = AutoencoderConfig(widths=(16, 16, 16), layers=1, groups=8, mid_attention=False)
    made = CodecConfig(config, scale=scale).build()
    assert isinstance(made.autoencoder, nn.Module)
    randomised(made.autoencoder, seed)
    return made


def shapes(count: int = 8, seed: int = 0) -> Tensor:
    """Latents (count, 4, 8, 8) of unit size: each a patch of its own place, size and colour."""
    rng = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, 4, 1, 1, generator=rng).expand(-1, -1, 8, 8).clone()
    for picture in latents:
        top, left = torch.randint(0, 4, (2,), generator=rng).tolist()
        side = int(torch.randint(2, 5, (1,), generator=rng))
        colour = torch.randn(4, 1, 1, generator=rng)
        picture[:, top : top + side, left : left + side] = colour
    return (latents - latents.mean((0, 2, 3), True)) / latents.std((0, 2, 3), keepdim=True)
