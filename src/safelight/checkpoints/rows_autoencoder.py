"""Rows for the KL autoencoder: the original layout, and the attention names of 2022."""

from collections.abc import Iterator

from safelight.checkpoints.keymap import CONV1X1, KEEP, Op, Row
from safelight.models.autoencoder import AutoencoderConfig

_OURS = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
_ORIGINAL = ("norm", "q", "k", "v", "proj_out")
_OF_2022 = ("group_norm", "query", "key", "value", "proj_attn")


def autoencoder_rows(config: AutoencoderConfig) -> Iterator[Row]:
    """Rows between the original layout, without `first_stage_model.`, and ours."""
    widths, levels = config.widths, len(config.widths)
    for side in ("encoder", "decoder"):
        yield Row(f"{side}.conv_in", f"{side}.conv_in")
        yield Row(f"{side}.norm_out", f"{side}.conv_norm_out")
        yield Row(f"{side}.conv_out", f"{side}.conv_out")
        for j in (0, 1):
            yield Row(f"{side}.mid.block_{j + 1}", f"{side}.mid_block.resnets.{j}")
        if config.mid_attention:
            yield from _attention_rows(side, f"{side}.mid.attn_1", _ORIGINAL, CONV1X1)
    for i, narrower in enumerate((widths[0], *widths[:-1])):
        theirs, ours = f"encoder.down.{i}", f"encoder.down_blocks.{i}"
        yield from _resnet_rows(theirs, ours, shortcut=narrower != widths[i])
        if i < levels - 1:
            yield Row(f"{theirs}.downsample", f"{ours}.downsamplers.0")
    for i, wider in enumerate((*widths[1:], widths[-1])):
        # The original counts the decoder's levels from the finest, ours from the deepest.
        theirs, ours = f"decoder.up.{i}", f"decoder.up_blocks.{levels - 1 - i}"
        yield from _resnet_rows(theirs, ours, shortcut=wider != widths[i])
        if i > 0:
            yield Row(f"{theirs}.upsample", f"{ours}.upsamplers.0")
    yield from _quant_rows(config)


def diffusers_autoencoder_rows(config: AutoencoderConfig, *, of_2022: bool) -> Iterator[Row]:
    """Our own names; `of_2022` with the attention names of that year's Diffusers."""
    yield Row("encoder", "encoder")
    yield Row("decoder", "decoder")
    yield from _quant_rows(config)
    if of_2022 and config.mid_attention:
        for side in ("encoder", "decoder"):
            yield from _attention_rows(side, f"{side}.mid_block.attentions.0", _OF_2022, CONV1X1)


def _resnet_rows(theirs: str, ours: str, *, shortcut: bool) -> Iterator[Row]:
    """One level: all its residual blocks, whose inner names agree but for the shortcut."""
    yield Row(f"{theirs}.block", f"{ours}.resnets")
    if shortcut:  # only the first block of a level changes the width
        yield Row(f"{theirs}.block.0.nin_shortcut", f"{ours}.resnets.0.conv_shortcut")


def _attention_rows(side: str, theirs: str, names: tuple[str, ...], op: Op) -> Iterator[Row]:
    for our_name, their_name in zip(_OURS, names, strict=True):
        kind = KEEP if our_name == "group_norm" else op
        yield Row(f"{theirs}.{their_name}", f"{side}.mid_block.attentions.0.{our_name}", kind)


def _quant_rows(config: AutoencoderConfig) -> Iterator[Row]:
    if config.quant_conv:
        yield Row("quant_conv", "quant_conv")
    if config.post_quant_conv:
        yield Row("post_quant_conv", "post_quant_conv")
