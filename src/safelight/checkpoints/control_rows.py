"""Rows for ControlNets and T2I-Adapters: the layouts of their authors from a config."""

from collections.abc import Collection, Iterable, Iterator

from safelight.checkpoints.keymap import KeyMap, Row
from safelight.checkpoints.rows_unet import encoder_rows, resnet_rows
from safelight.models.controlnet import ControlNetConfig, skip_widths
from safelight.models.t2i_adapter import T2IAdapterConfig

# What a union adds has the same names in every layout.
_UNION = ("task_embedding", "transformer_layes", "spatial_ch_projs", "control_add_embedding")


def controlnet_rows(config: ControlNetConfig) -> Iterator[Row]:
    """Rows between the original layout, without `control_model.`, and ours."""
    yield from encoder_rows(config.encoder)
    yield from _picture_rows(len(config.widths))
    yield from _zero_rows(len(skip_widths(config.encoder)))
    if config.union is not None:
        yield from (Row(name, name) for name in _UNION)


def rows_by_structure(names: Collection[str]) -> Iterator[Row]:
    """The same for tensors with Diffusers' names, from how many there are: to measure them by."""
    yield Row("input_blocks.0.0", "conv_in")
    yield from (Row(f"time_embed.{2 * i}", f"time_embedding.linear_{i + 1}") for i in range(2))
    for module in ("add_embedding", "class_embedding"):
        yield from (Row(f"label_emb.0.{2 * i}", f"{module}.linear_{i + 1}") for i in range(2))
    yield Row("label_emb", "class_embedding")
    number = 1
    for level in range(_count(names, "down_blocks")):
        ours = f"down_blocks.{level}"
        for j in range(_count(names, f"{ours}.resnets")):
            yield from resnet_rows(f"input_blocks.{number}.0", f"{ours}.resnets.{j}", shortcut=True)
            yield Row(f"input_blocks.{number}.1", f"{ours}.attentions.{j}")
            number += 1
        yield Row(f"input_blocks.{number}.0.op", f"{ours}.downsamplers.0.conv")
        number += 1
    for i in range(2):
        yield from resnet_rows(f"middle_block.{2 * i}", f"mid_block.resnets.{i}", shortcut=True)
    yield Row("middle_block.1", "mid_block.attentions.0")
    yield from _picture_rows(1 + _count(names, "controlnet_cond_embedding.blocks") // 2)
    yield from _zero_rows(_count(names, "controlnet_down_blocks"))
    yield from (Row(name, name) for name in _UNION)


def _picture_rows(widths: int) -> Iterator[Row]:
    theirs, ours = "input_hint_block", "controlnet_cond_embedding"
    last = 2 * (widths - 1)
    yield Row(f"{theirs}.0", f"{ours}.conv_in")
    yield from (Row(f"{theirs}.{2 * i + 2}", f"{ours}.blocks.{i}") for i in range(last))
    yield Row(f"{theirs}.{2 * last + 2}", f"{ours}.conv_out")


def _zero_rows(skips: int) -> Iterator[Row]:
    yield from (Row(f"zero_convs.{i}.0", f"controlnet_down_blocks.{i}") for i in range(skips))
    yield Row("middle_block_out.0", "controlnet_mid_block")


def adapter_rows(config: T2IAdapterConfig) -> Iterator[Row]:
    """Rows between the layout of the adapters' authors and ours."""
    if not config.light:
        yield Row("conv_in", "conv_in")
    for i in range(len(config.channels)):
        stage, first = f"body.{i}", i * config.blocks
        # Full adapters number their blocks flatly; the first of a stage changes the width.
        yield Row(
            f"{stage}.in_conv" if config.light else f"body.{first}.in_conv", f"{stage}.in_conv"
        )
        for j in range(config.blocks):
            theirs = f"{stage}.body.{j}" if config.light else f"body.{first + j}"
            yield Row(theirs, f"{stage}.resnets.{j}")
        if config.light:
            yield Row(f"{stage}.out_conv", f"{stage}.out_conv")


def renamed(names: Iterable[str], rows: Iterable[Row]) -> dict[str, str]:
    """Names by what the rows turn ours into; those that no row covers stay as they are."""
    keymap = KeyMap(rows)
    found = {}
    for name in names:
        try:
            found[keymap.links([name])[0].theirs] = name
        except KeyError:
            found[name] = name
    return found


def _count(names: Collection[str], prefix: str) -> int:
    """One more than the highest number that follows a prefix in these names."""
    start = f"{prefix}."
    numbers = (n[len(start) :].partition(".")[0] for n in names if n.startswith(start))
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
