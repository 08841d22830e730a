"""A tiny autoencoder with all its judges, and pictures to learn."""

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.models.autoencoder import Autoencoder, AutoencoderConfig
from safelight.models.clip import ClipVision, ClipVisionConfig
from safelight.models.vector_quantiser import VqAutoencoder, VqConfig
from safelight.training.autoencoder.critic import Critic, CriticConfig, Norm
from safelight.training.autoencoder.perceptual import PerceptualDistance

SHAPE = AutoencoderConfig(latent_channels=4, widths=(8, 16), layers=1, groups=4)
VQ_SHAPE = VqConfig(latent_channels=3, codes=16, widths=(8, 16), layers=1, groups=4)
TOWER = ClipVisionConfig(
    layers=3, width=16, heads=2, mlp_width=32, projection=None, image_size=16, patch=4
)


def autoencoder(config: AutoencoderConfig = SHAPE, seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    return config.build()


def vq_autoencoder(config: VqConfig = VQ_SHAPE, seed: int = 0) -> VqAutoencoder:
    torch.manual_seed(seed)
    return config.build()


def critic(norm: Norm = "group", seed: int = 0) -> Critic:
    torch.manual_seed(seed)
    return CriticConfig(widths=(8, 16, 16), groups=4, norm=norm).build()


def perceptual(seed: int = 0) -> PerceptualDistance:
    torch.manual_seed(seed)
    return PerceptualDistance(ClipVision(TOWER))


def pictures(count: int = 4, size: int = 16, seed: int = 0) -> Tensor:
    """Smooth pictures of a few colours: (count, 3, size, size) in [-1, 1]."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=rng) * 2 - 1
    return F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)
