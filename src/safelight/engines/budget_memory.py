"""How many numbers a model's parts keep at once while they work, from their configurations alone.

Counted are the feature maps that are alive together where they are the most, in a pass without a
gradient. What libraries take besides for a moment, and what lies between tensors, is not.

Shapes: B rows of a batch, C channels, h w height and width of a map, N = h w tokens.
"""

from collections.abc import Iterator
from functools import lru_cache

from torch import nn

from safelight.engines.budget_work import Size, sizes_of, ups_of
from safelight.engines.offload import blocks_of
from safelight.models.autoencoder import AutoencoderConfig
from safelight.models.blank import blank
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.models.taesd import TinyAutoencoder, TinyAutoencoderConfig
from safelight.models.unet import UNet, UNetConfig

PartConfig = UNetConfig | AutoencoderConfig | TinyAutoencoderConfig | ClipTextConfig

# Maps of a transformer block's width alive in its self-attention besides the map that it is added
# to: tokens, normed tokens, queries, keys and values twice, of them two in float32, and the result.
ATTENDING = 11
TINY = 4  # maps of a tiny autoencoder at the size of the picture


@lru_cache(maxsize=32)
def weights_of(config: PartConfig) -> int:
    """How many weights a part has."""
    with blank():
        return _count(_built(config))


@lru_cache(maxsize=32)
def matrices_of(config: PartConfig) -> int:
    """How many layers of a part have a matrix: its calls, as far as time is concerned."""
    with blank():
        return sum(p.ndim > 1 for p in _built(config).parameters())


@lru_cache(maxsize=32)
def streamed_weights_of(config: UNetConfig) -> int:
    """How many weights of a U-Net are there at most when it works block by block."""
    with blank():
        unet = UNet(config)
    blocks = [_count(block) for _, block in blocks_of(unet)]
    return _count(unet) - sum(blocks) + max(blocks)


def folded_weights_of(config: UNetConfig) -> int:
    """Weights that a CPU keeps besides: of the convolutions into which doubling was folded."""
    return sum(16 * channels**2 for channels in config.channels[1:])


def _built(config: PartConfig) -> nn.Module:
    match config:
        case UNetConfig():
            return UNet(config)
        case TinyAutoencoderConfig():
            return TinyAutoencoder(config)
        case ClipTextConfig():
            return ClipText(config)
    coder = config.build()
    assert isinstance(coder, nn.Module)
    return coder


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# -- U-Net -----------------------------------------------------------------------------------------


def unet_maps(config: UNetConfig, size: Size, rows: int) -> int:
    """The most numbers that are alive in one call: skips, and what a block works with."""
    return rows * max(_moments(config, size))


def _moments(config: UNetConfig, size: Size) -> Iterator[int]:
    """Numbers alive in each layer, of one row."""
    areas = [height * width for height, width in sizes_of(config, size)]
    channels = config.channels
    skips = [channels[0] * areas[0]]
    current = channels[0]
    for i, depths in enumerate(config.depths):
        for depth in depths:
            yield sum(skips) + areas[i] * res_maps(current, channels[i])
            current = channels[i]
            if depth:
                yield sum(skips) + areas[i] * current * (1 + ATTENDING)
            skips.append(areas[i] * current)
        if i < config.levels - 1:
            skips.append(areas[i + 1] * current)
            yield sum(skips)
    if config.mid_depth:
        yield sum(skips) + areas[-1] * current * (1 + ATTENDING)
    for i, _, taken in ups_of(config):
        entered = last = areas[i] * current  # kept until the level is done, and from block to block
        for skip in taken:
            kept, before = sum(skips) + entered + last, current + skip
            yield kept + areas[i] * (before + res_maps(before, channels[i]))
            current = channels[i]
            last = areas[i] * current
            if _depth(config, i):
                yield kept + areas[i] * current * (1 + ATTENDING)
        del skips[-len(taken) :]
        if i:
            yield sum(skips) + entered + last + areas[i - 1] * current
    yield areas[0] * current * 3


def _depth(config: UNetConfig, level: int) -> int:
    return config.depths_up[config.levels - 1 - level][0]


def res_maps(before: int, after: int) -> int:
    """Channels alive in a residual block besides its input, at most."""
    return max(before + after, 3 * after)


# -- autoencoder -----------------------------------------------------------------------------------


def decoder_maps(
    config: AutoencoderConfig | TinyAutoencoderConfig, size: Size, rows: int, *, bands: bool = False
) -> int:
    """The most numbers alive while latents of this size become pictures.

    In bands, only what group norms and sums look at is kept.
    """
    area = rows * size[0] * size[1]
    if isinstance(config, TinyAutoencoderConfig):
        return area * config.factor**2 * TINY * config.width
    most, current = 0, config.widths[-1]
    if config.mid_attention and not bands:
        most = area * current * 8
    for i, width in enumerate(config.widths[::-1]):
        for _ in range(config.layers + 1):
            inside = 2 * width if bands else res_maps(current, width)
            most = max(most, area * (current + inside))
            current = width
        if i < len(config.widths) - 1:
            area *= 4
            most = max(most, area * current * (5 if bands else 9) // 4)
    return max(most, area * current * 3)


def encoder_maps(
    config: AutoencoderConfig | TinyAutoencoderConfig, size: Size, rows: int, *, bands: bool = False
) -> int:
    """The most numbers alive while pictures become latents of this size."""
    area = rows * size[0] * size[1] * config.factor**2
    if isinstance(config, TinyAutoencoderConfig):
        return area * TINY * config.width
    most, current = 0, config.widths[0]
    for width in config.widths:
        for _ in range(config.layers):
            inside = 2 * width if bands else res_maps(current, width)
            most = max(most, area * (current + inside))
            current = width
        area //= 4
    return most
