"""Rows for the U-Net: the numbered blocks of the original layout from a config.

The original numbers `input_blocks` and `output_blocks` flatly, a block and what follows it under
one number; ours nest by level. Inside a transformer the names are the same.
"""

from collections.abc import Iterator

from safelight.checkpoints.keymap import Row
from safelight.models.unet import UNetConfig

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}


def unet_rows(config: UNetConfig) -> Iterator[Row]:
    """Rows between the original layout, without `model.diffusion_model.`, and ours."""
    yield from encoder_rows(config)
    yield from _up_rows(config)
    yield Row("out.0", "conv_norm_out")
    yield Row("out.2", "conv_out")


def encoder_rows(config: UNetConfig) -> Iterator[Row]:
    """The rows of what a U-Net shares with its ControlNets: all but the way up."""
    yield Row("input_blocks.0.0", "conv_in")
    yield from _embedding_rows(config)
    yield from _down_rows(config)
    yield from _mid_rows(config)


def _embedding_rows(config: UNetConfig) -> Iterator[Row]:
    yield Row("time_embed.0", "time_embedding.linear_1")
    yield Row("time_embed.2", "time_embedding.linear_2")
    if config.guidance_width is not None:
        # Published only in the Diffusers layout; the original has no such module, so we name it.
        yield Row("time_embed.cond_proj", "time_embedding.cond_proj")
    if config.vector_width is not None:
        yield Row("label_emb.0.0", f"{config.vector_module}.linear_1")
        yield Row("label_emb.0.2", f"{config.vector_module}.linear_2")
    if config.noise_levels is not None:
        yield Row("label_emb", "class_embedding")


def _down_rows(config: UNetConfig) -> Iterator[Row]:
    number, before = 1, config.channels[0]
    for i, (width, depths) in enumerate(zip(config.channels, config.depths, strict=True)):
        for j, depth in enumerate(depths):
            theirs, ours = f"input_blocks.{number}", f"down_blocks.{i}"
            yield from resnet_rows(f"{theirs}.0", f"{ours}.resnets.{j}", shortcut=before != width)
            if depth:
                yield Row(f"{theirs}.1", f"{ours}.attentions.{j}")
            number, before = number + 1, width
        if i < config.levels - 1:
            yield Row(f"input_blocks.{number}.0.op", f"down_blocks.{i}.downsamplers.0.conv")
            number += 1


def _mid_rows(config: UNetConfig) -> Iterator[Row]:
    if config.mid_depth is None:
        return
    yield from resnet_rows("middle_block.0", "mid_block.resnets.0", shortcut=False)
    if config.mid_depth:
        yield Row("middle_block.1", "mid_block.attentions.0")
        yield from resnet_rows("middle_block.2", "mid_block.resnets.1", shortcut=False)


def _up_rows(config: UNetConfig) -> Iterator[Row]:
    skips = _skip_widths(config)
    number, before = 0, config.channels[-1]
    for i, depths in enumerate(config.depths_up):
        level = config.levels - 1 - i
        width = config.channels[level]
        for j, depth in enumerate(depths):
            theirs, ours = f"output_blocks.{number}", f"up_blocks.{i}"
            shortcut = before + skips.pop() != width
            yield from resnet_rows(f"{theirs}.0", f"{ours}.resnets.{j}", shortcut=shortcut)
            if depth:
                yield Row(f"{theirs}.1", f"{ours}.attentions.{j}")
            if level > 0 and j == len(depths) - 1:
                place = 2 if depth else 1
                yield Row(f"{theirs}.{place}.conv", f"{ours}.upsamplers.0.conv")
            number, before = number + 1, width


def _skip_widths(config: UNetConfig) -> list[int]:
    """Widths of the skip connections in the order in which the way down makes them."""
    widths = [config.channels[0]]
    for i, (width, depths) in enumerate(zip(config.channels, config.depths, strict=True)):
        widths += [width] * len(depths)
        if i < config.levels - 1:
            widths.append(width)
    return widths


def resnet_rows(theirs: str, ours: str, *, shortcut: bool) -> Iterator[Row]:
    """The rows of one residual block."""
    for our_name, their_name in _RESNET.items():
        yield Row(f"{theirs}.{their_name}", f"{ours}.{our_name}")
    if shortcut:
        yield Row(f"{theirs}.skip_connection", f"{ours}.conv_shortcut")
