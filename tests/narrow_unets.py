"""U-Nets of each kind's structure, a tenth as wide."""

from dataclasses import replace

from safelight.models.unet import UNetConfig, heads_of_width
from safelight.models.unet_configs import (
    KOALA_700M,
    SD15,
    SDXL,
    SSD_1B,
    TINY_SD,
    X4_UPSCALER,
)


def _large(config: UNetConfig) -> UNetConfig:
    widths = (32, 64, 128)
    return replace(
        config, channels=widths, heads=heads_of_width(widths), context_width=64, vector_width=40
    )


NARROW: dict[str, UNetConfig] = {
    "sd15": replace(SD15, channels=(32, 64, 96, 96), heads=(4, 4, 4, 4), context_width=48),
    "sdxl": _large(SDXL),
    "ssd": _large(SSD_1B),
    "koala": _large(KOALA_700M),
    "tiny": replace(TINY_SD, channels=(32, 64, 96), heads=(4, 4, 4), context_width=48),
    "x4": replace(X4_UPSCALER, channels=(32, 64, 64, 96), heads=(4,) * 4, context_width=48),
}
