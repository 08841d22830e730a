"""Models and pictures for timing: the right shapes, nothing learned, the same at every call."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from safelight.benchmarks.geometry import random_model
from safelight.families import FAMILIES, Family, ProcessConfig
from safelight.model import Model
from safelight.models.autoencoder import AutoencoderConfig, CodecConfig
from safelight.models.clip import ClipTextConfig
from safelight.models.unet import UNetConfig
from safelight.text.spec import TextRole, TextSpec
from safelight.writing import make_folder, write_text


@dataclass(frozen=True)
class Shape:
    """A model, the size of its pictures in pixels, and a batch that suits it."""

    name: str
    words: str
    size: int
    batch: int
    family: Family


def _family(
    name: str,
    unet: UNetConfig,
    coder: AutoencoderConfig,
    text: ClipTextConfig,
    prediction: str = "eps",
) -> Family:
    return replace(
        FAMILIES["sd15"],
        name=name,
        backbone=unet,
        text=TextSpec((TextRole(text),)),
        codec=CodecConfig(coder, scale=0.18215),
        process=ProcessConfig(prediction=prediction),
    )


_TINY = _family(
    "tiny",
    UNetConfig(channels=(32, 64), depths=((1,), (0,)), heads=(2, 2), context_width=32),
    AutoencoderConfig(widths=(32, 32, 32, 32), layers=1),
    ClipTextConfig(layers=2, width=32, heads=2, mlp_width=64),
)
_SMALL = _family(
    "small",
    UNetConfig(channels=(64, 128, 256, 256), context_width=192),
    AutoencoderConfig(widths=(32, 64, 96, 96)),
    ClipTextConfig(layers=12, width=192, heads=3, mlp_width=768),
)
_EMOJI = _family(
    "emoji",
    UNetConfig(
        in_channels=8,
        out_channels=8,
        channels=(128, 192),
        depths=((1, 1), (1, 1)),
        heads=(4, 6),
        context_width=256,
    ),
    AutoencoderConfig(latent_channels=8, widths=(48, 96, 96, 128), layers=1, groups=16),
    ClipTextConfig(layers=4, width=256, heads=4, mlp_width=1024, activation="gelu"),
    "v",
)

SHAPES: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("tiny", "everything a thousand times smaller", 32, 4, _TINY),
        Shape(
            "small",
            "SD 1 with a U-Net of 64/128/256/256 channels, an autoencoder of 32/64/96/96, and text "
            "of width 192",
            256,
            4,
            _SMALL,
        ),
        Shape("emoji", "the shape of the model that Safelight carries", 128, 16, _EMOJI),
        Shape("sd15", "Stable Diffusion 1.5 at its true size", 512, 4, FAMILIES["sd15"]),
    )
}


def model(family: Family, seed: int = 0) -> Model:
    """A model in float32 with PyTorch's initial weights, the same for the same seed."""
    return random_model(family, seed)


def draw_pictures(folder: Path, size: int, count: int) -> None:
    """JPEG pictures with captions beside them: 4 to 3, their shorter side a quarter above `size`.

    Clouds of two scales and grain, so that a decoder has as much to do as with a photograph.
    """
    make_folder(folder)
    rng = np.random.default_rng(0)
    height = size * 5 // 4
    width = height * 4 // 3
    for number in range(count):
        pixels = np.zeros((height, width, 3))
        for cells, strength in ((4, 0.6), (24, 0.3)):
            grid = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            cloud = grid.resize((width, height), Image.Resampling.BICUBIC)
            pixels += strength * np.asarray(cloud, np.float64)
        pixels += rng.normal(0, 8, pixels.shape)
        name = f"{number:05d}"
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{name}.jpg", quality=90)
        write_text(folder / f"{name}.txt", f"cloud number {number} in many colours\n")
