"""What all contenders are given: latents, times, text states and pictures, written once as .npy.

Shapes: B pictures, 2B with guidance, C latent channels, h w latents, L = 77 tokens, D their width,
V width of the vector.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from safelight.benchmarks.task import input_file
from safelight.diffusion.noise import Noise
from safelight.families import Family
from safelight.models.layers import timestep_embedding

TOKENS = 77
EXAMPLES = 8  # batches of latents at hand in training
SIZE_NUMBERS = 6  # what SDXL is told: original size, crop, target size


def write_inputs(
    folder: Path, family: Family, size: tuple[int, int], *, batch: int, guided: bool, seed: int
) -> None:
    """Every input of every work, in float32; `size` is (width, height) in pixels."""
    for name, tensor in inputs(family, size, batch=batch, guided=guided, seed=seed).items():
        np.save(input_file(folder, name), tensor.numpy())


def inputs(
    family: Family, size: tuple[int, int], *, batch: int, guided: bool, seed: int
) -> dict[str, Tensor]:
    """Unit normals in place of latents and text, a smooth picture with grain, and first noise.

    latents (2B, C + extra, h, w), time (2B,), context (2B, L, D), and for SDXL pooled (2B, P),
    sizes (2B, 6) and vector (2B, V), in which both are; coded (B, C, h, w) and raw, the same as an
    autoencoder wants them; images (B, 3, H, W) in [-1, 1]; noise (B, C, h, w) as A1111's "nv"
    draws it for seed, seed + 1, ...; train_latents (8B, C, h, w), train_states (8B, L, D), and of
    SDXL train_pooled and train_sizes.
    """
    rng = torch.Generator().manual_seed(1)
    config, codec = family.backbone, family.codec
    width, height = size
    h, w = height // codec.factor, width // codec.factor
    rows = 2 * batch if guided else batch
    made = {
        "latents": torch.randn(rows, config.in_channels, h, w, generator=rng),
        "time": torch.linspace(801, 501, rows).round(),
        "context": torch.randn(rows, TOKENS, config.context_width, generator=rng),
    }
    if config.vector_width is not None and family.text.vector == "sdxl":
        numbers = torch.tensor([[height, width, 0, 0, height, width]] * rows, dtype=torch.float32)
        sinusoids = timestep_embedding(numbers, family.text.size_width).flatten(1)
        pooled = torch.randn(rows, config.vector_width - sinusoids.shape[1], generator=rng)
        made |= {
            "pooled": pooled,
            "sizes": numbers,
            "vector": torch.cat([pooled, sinusoids], dim=1),
        }
    made |= _examples(family, h, w, EXAMPLES * batch, rng)
    coded = torch.randn(batch, codec.channels, h, w, generator=rng)
    made |= {"coded": coded, "raw": raw(family, coded), "images": images(batch, size, rng)}
    shape = (codec.channels, h, w)
    made["noise"] = Noise([seed + k for k in range(batch)], shape, source="nv")()
    return made


def _examples(
    family: Family, h: int, w: int, count: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """What training learns from: train_latents, train_states, and of SDXL what it is told."""
    config = family.backbone
    made = {
        "train_latents": torch.randn(count, config.out_channels, h, w, generator=rng),
        "train_states": torch.randn(count, TOKENS, config.context_width, generator=rng),
    }
    if config.vector_width is not None and family.text.vector == "sdxl":
        side = [h * family.codec.factor, w * family.codec.factor]
        width = config.vector_width - SIZE_NUMBERS * family.text.size_width
        made["train_pooled"] = torch.randn(count, width, generator=rng)
        made["train_sizes"] = torch.tensor([[*side, 0, 0, *side]] * count, dtype=torch.float32)
    return made


def raw(family: Family, latents: Tensor) -> Tensor:
    """Latents of unit size as the autoencoder itself has them: latents / scale + shift."""
    scale, shift = (
        torch.tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
        for value in (family.codec.scale, family.codec.shift)
    )
    return latents / scale + shift


def images(count: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Clouds with grain, so that an encoder has as much to do as with a photograph."""
    width, height = size
    coarse = torch.rand(count, 3, 8, 8, generator=rng) * 1.6 - 0.8
    clouds = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    grain = torch.randn(count, 3, height, width, generator=rng) * 0.1
    return (clouds + grain).clamp(-1, 1)
