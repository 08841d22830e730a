"""What a model's parts have to compute and to keep, from their configurations alone.

Pure arithmetic: no module is built and nothing is measured. Operations are those of the networks as
they are written, 2 for a multiply-add, of convolutions, linear layers and attention; norms and
activations are left out, which are bound by memory.

Shapes: B rows of a batch, C channels, h w height and width of a map, N = h w tokens, L text length.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Self

from safelight.models.autoencoder import AutoencoderConfig
from safelight.models.clip import ClipTextConfig
from safelight.models.unet import UNetConfig

Size = tuple[int, int]  # height, width of a map


@dataclass(frozen=True, slots=True)
class Work:
    """Operations by kind; their rates differ.

    upsampling: convolutions of maps that were doubled, of which an engine may save the most.
    """

    convolution: float = 0.0
    upsampling: float = 0.0
    linear: float = 0.0
    attention: float = 0.0

    @property
    def total(self) -> float:
        return self.convolution + self.upsampling + self.linear + self.attention

    def __add__(self, other: Self) -> "Work":
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * getattr(self, f.name) for f in fields(self)))


NONE = Work()


def convolved(rows: int, size: Size, before: int, after: int, kernel: int = 3) -> Work:
    """A convolution whose result is of this size."""
    return Work(convolution=2.0 * rows * size[0] * size[1] * before * after * kernel**2)


def projected(tokens: float, before: int, after: int) -> Work:
    """A linear layer on so many tokens."""
    return Work(linear=2.0 * tokens * before * after)


def attended(rows: int, queries: float, keys: float, width: int) -> Work:
    """Scores and their sum of values, all heads together."""
    return Work(attention=4.0 * rows * queries * keys * width)


# -- U-Net -----------------------------------------------------------------------------------------


def unet_work(config: UNetConfig, size: Size, rows: int, tokens: int = 77) -> Work:
    """One call of a U-Net: latents (B, C, h, w), a context of `tokens` rows."""
    return sum(
        (work for _, work in unet_layers(config, size, rows, tokens)),
        embedding_work(config, rows),
    )


def encoder_share(config: UNetConfig, size: Size, rows: int) -> float:
    """Which share of a call its way down and the middle are: what a ControlNet computes, too."""
    whole = unet_work(config, size, rows).total
    down = sum(
        w.total for part, w in unet_layers(config, size, rows, 77) if not part.startswith("up")
    )
    return down / whole


def embedding_work(config: UNetConfig, rows: int) -> Work:
    """The time, and all else that is told beside the text."""
    width = config.time_width
    work = projected(rows, config.channels[0], width) + projected(rows, width, width)
    if config.vector_width is not None:
        work += projected(rows, config.vector_width, width) + projected(rows, width, width)
    return work


def unet_layers(
    config: UNetConfig, size: Size, rows: int, tokens: int
) -> Iterator[tuple[str, Work]]:
    """Every layer of a U-Net in order, with the part it belongs to: in, down, mid, up, out."""
    channels, sizes = config.channels, sizes_of(config, size)
    yield "in", convolved(rows, size, config.in_channels, channels[0])
    current = channels[0]
    for i, (width, depths) in enumerate(zip(channels, config.depths, strict=True)):
        for depth in depths:
            yield "down", res_work(config, rows, sizes[i], current, width)
            yield "down", transformer_work(config, i, rows, sizes[i], depth, tokens)
            current = width
        if i < config.levels - 1:
            yield "down", convolved(rows, sizes[i + 1], width, width)
    deepest = config.levels - 1
    if config.mid_depth is not None:
        res = res_work(config, rows, sizes[deepest], current, current)
        yield "mid", res
        if config.mid_depth:
            yield (
                "mid",
                transformer_work(config, deepest, rows, sizes[deepest], config.mid_depth, tokens),
            )
            yield "mid", res
    for i, depths, skips in ups_of(config):
        for depth, skip in zip(depths, skips, strict=True):
            yield "up", res_work(config, rows, sizes[i], current + skip, channels[i])
            yield "up", transformer_work(config, i, rows, sizes[i], depth, tokens)
            current = channels[i]
        if i:
            larger = convolved(rows, sizes[i - 1], current, current)
            yield "up", Work(upsampling=larger.convolution)
    yield "out", convolved(rows, size, channels[0], config.out_channels)


def sizes_of(config: UNetConfig, size: Size) -> list[Size]:
    """The size of the maps at each level, the finest first: each half of the last, rounded up."""
    sizes = [size]
    for _ in range(config.levels - 1):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def ups_of(config: UNetConfig) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """On the way up: the level, its depths, and the channels of the skips that it takes."""
    for depths, i in zip(config.depths_up, reversed(range(config.levels)), strict=True):
        entered = config.channels[max(i - 1, 0)]
        yield i, depths, (config.channels[i],) * (len(depths) - 1) + (entered,)


def res_work(config: UNetConfig, rows: int, size: Size, before: int, after: int) -> Work:
    """A residual block that is told the time."""
    return res_alone(rows, size, before, after) + projected(rows, config.time_width, after)


def res_alone(rows: int, size: Size, before: int, after: int) -> Work:
    """A residual block."""
    work = convolved(rows, size, before, after) + convolved(rows, size, after, after)
    return work if before == after else work + convolved(rows, size, before, after, 1)


def transformer_work(
    config: UNetConfig, level: int, rows: int, size: Size, depth: int, tokens: int
) -> Work:
    """A stack of transformer blocks over a map, with its projections; none if the depth is 0."""
    if not depth:
        return NONE
    width, places = config.channels[level], size[0] * size[1]
    if config.linear_projection:
        ends = projected(rows * places, width, width) * 2
    else:
        ends = convolved(rows, size, width, width, 1) * 2
    at_text = cross_work(rows, places, tokens, width, config.context_width)
    at_itself = projected(rows * places, width, 4 * width) + attended(rows, places, places, width)
    first = at_text if level in config.cross_only_levels else at_itself
    gated = projected(rows * places, width, 8 * width) + projected(rows * places, 4 * width, width)
    return ends + (first + at_text + gated) * depth


def cross_work(rows: int, queries: int, keys: int, width: int, context: int) -> Work:
    """Attention to a text."""
    ends = projected(rows * queries, width, 2 * width)
    return ends + projected(rows * keys, context, 2 * width) + attended(rows, queries, keys, width)


# -- autoencoder -----------------------------------------------------------------------------------


def decoder_work(config: AutoencoderConfig, size: Size, rows: int) -> Work:
    """Latents (B, C, h, w) to pictures."""
    widths, channels = config.widths[::-1], config.latent_channels
    work = convolved(rows, size, channels, widths[0])
    if config.post_quant_conv:
        work += convolved(rows, size, channels, channels, 1)
    work += _middle(config, rows, size, widths[0])
    current = widths[0]
    for i, width in enumerate(widths):
        for _ in range(config.layers + 1):
            work += res_alone(rows, size, current, width)
            current = width
        if i < len(widths) - 1:
            size = (2 * size[0], 2 * size[1])
            work += Work(upsampling=convolved(rows, size, width, width).convolution)
    return work + convolved(rows, size, current, config.out_channels)


def encoder_work(config: AutoencoderConfig, size: Size, rows: int) -> Work:
    """Pictures to latents; `size` is that of the latents."""
    widths, channels = config.widths, 2 * config.latent_channels
    size = (size[0] * config.factor, size[1] * config.factor)
    work = convolved(rows, size, config.in_channels, widths[0])
    current = widths[0]
    for i, width in enumerate(widths):
        for _ in range(config.layers):
            work += res_alone(rows, size, current, width)
            current = width
        if i < len(widths) - 1:
            size = (size[0] // 2, size[1] // 2)
            work += convolved(rows, size, width, width)
    work += _middle(config, rows, size, widths[-1]) + convolved(rows, size, widths[-1], channels)
    return work + convolved(rows, size, channels, channels, 1) if config.quant_conv else work


def _middle(config: AutoencoderConfig, rows: int, size: Size, width: int) -> Work:
    work = res_alone(rows, size, width, width) * 2
    if not config.mid_attention:
        return work
    places = size[0] * size[1]
    return work + projected(rows * places, width, 4 * width) + attended(rows, places, places, width)


# -- text ------------------------------------------------------------------------------------------


def text_work(config: ClipTextConfig, rows: int) -> Work:
    """So many chunks through a text encoder."""
    length, width = config.context, config.width
    block = projected(rows * length, width, 4 * width) + attended(rows, length, length, width)
    block += projected(rows * length, width, 2 * config.mlp_width)
    work = block * config.layers
    return work if config.projection is None else work + projected(rows, width, config.projection)
