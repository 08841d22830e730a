"""The config of a U-Net, read from the names and shapes of the original layout."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from safelight.checkpoints.keymap import Shape
from safelight.errors import CheckpointError
from safelight.models.unet import UNetConfig, heads_of_width

Shapes = Mapping[str, Shape]
GROUPS = 32  # of the group norms in every published model


def measured_unet(shapes: Shapes) -> UNetConfig:
    """The config that fits these tensors of the original layout, prefix removed.

    Two things leave no trace in the shapes. The number of heads follows the published families:
    8 where the transformers' projections are convolutions (SD 1.x) or noise levels are known (x4
    upscaler), else heads of 64 channels. The group norms have 32 groups.
    Raises CheckpointError if the tensors do not make a U-Net, or one of another number of groups.
    """
    _transformers(shapes)
    encoder = measured_encoder(shapes, "U-Net")
    return replace(
        encoder,
        out_channels=_required(shapes, "out.2.weight")[0],
        up_depths=_way_up(shapes, encoder.depths),
    )


def measured_encoder(shapes: Shapes, what: str) -> UNetConfig:
    """The same for the first half alone, as ControlNets have it, and with a way up that mirrors it.

    One without attention reads no text; its context width is given as 0.
    Raises CheckpointError if the tensors do not make one; `what` it is, for the message.
    """
    widths, depths = _way_down(shapes, what)
    noise_levels = _dim(shapes, "label_emb.weight", 0)
    attentive = any(_transformer_names(shapes))
    linear = not attentive or len(_projection(shapes)) == 2
    eight = noise_levels is not None or not linear
    check_groups(widths, what)
    cond_proj = _dim(shapes, "time_embed.cond_proj.weight", 1)
    vector_width = _dim(shapes, "label_emb.0.0.weight", 1)
    even = all(len(set(level)) == 1 for level in depths)
    return UNetConfig(
        in_channels=_required(shapes, "input_blocks.0.0.weight")[1],
        channels=widths,
        depths=depths,
        up_depths=None if even else tuple((*level, level[-1]) for level in reversed(depths)),
        mid_depth=_mid_depth(shapes),
        heads=(8,) * len(widths) if eight else heads_of_width(widths),
        context_width=_context_width(shapes) if attentive else 0,
        linear_projection=linear,
        cross_only_levels=_cross_only_levels(shapes, depths) if attentive else (),
        vector_width=vector_width,
        vector_module=_vector_module(shapes, vector_width) if attentive else "add_embedding",
        noise_levels=noise_levels,
        guidance_width=cond_proj,
    )


def check_groups(widths: Sequence[int], what: str) -> None:
    """Raise CheckpointError for widths that 32 groups do not divide: then nobody knows how many."""
    for level, width in enumerate(widths):
        if width % GROUPS:
            raise CheckpointError(
                f"the {what} has {width} channels at level {level}, which {GROUPS} groups do not "
                "divide, and shapes do not tell the number of groups of its norms; give it as a "
                "Diffusers folder, whose config.json does"
            )


def _way_down(shapes: Shapes, what: str) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Width and transformer depths of each level."""
    widths: list[int] = []
    levels: list[list[int]] = [[]]
    number = 1
    while True:
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in shapes:
            levels.append([])
        elif width := _dim(shapes, f"{block}.0.out_layers.3.weight", 0):
            if not levels[-1]:
                widths.append(width)
            levels[-1].append(_depth(shapes, f"{block}.1"))
        else:
            break
        number += 1
    if not levels[-1]:
        raise CheckpointError(
            f"the {what}'s way down ends without a residual block at input_blocks.{number}; "
            "the file is incomplete or of another kind"
        )
    return tuple(widths), tuple(tuple(level) for level in levels)


def _way_up(
    shapes: Shapes, depths: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], ...] | None:
    """Depths on the way up; None where they follow from the way down."""
    counts = [len(level) + 1 for level in reversed(depths)]
    found: list[tuple[int, ...]] = []
    number = 0
    for count in counts:
        blocks = range(number, number + count)
        found.append(tuple(_depth(shapes, f"output_blocks.{n}.1") for n in blocks))
        number += count
    symmetric = [(level[0],) * (len(level) + 1) for level in reversed(depths)]
    even = all(len(set(level)) == 1 for level in depths)
    return None if even and found == symmetric else tuple(found)


def _mid_depth(shapes: Shapes) -> int | None:
    if "middle_block.0.in_layers.2.weight" not in shapes:
        return None
    return _depth(shapes, "middle_block.1")


def _depth(shapes: Shapes, transformer: str) -> int:
    depth = 0
    while f"{transformer}.transformer_blocks.{depth}.attn2.to_k.weight" in shapes:
        depth += 1
    return depth


def _transformer_names(shapes: Shapes) -> list[str]:
    ending = ".transformer_blocks.0.attn2.to_k.weight"
    return [name.removesuffix(ending) for name in shapes if name.endswith(ending)]


def _transformers(shapes: Shapes) -> list[str]:
    found = _transformer_names(shapes)
    if not found:
        raise CheckpointError("the U-Net has no attention to a text anywhere; unknown family")
    return found


def _context_width(shapes: Shapes) -> int:
    first = _transformers(shapes)[0]
    return shapes[f"{first}.transformer_blocks.0.attn2.to_k.weight"][1]


def _projection(shapes: Shapes) -> Shape:
    return _required(shapes, f"{_transformers(shapes)[0]}.proj_in.weight")


def _cross_only_levels(shapes: Shapes, depths: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Levels whose self-attention has keys of the context's width, so looks at the text too."""
    context, found, number = _context_width(shapes), [], 1
    for level, blocks in enumerate(depths):
        name = f"input_blocks.{number}.1.transformer_blocks.0.attn1"
        key, query = _dim(shapes, f"{name}.to_k.weight", 1), _dim(shapes, f"{name}.to_q.weight", 1)
        # Where both widths agree the shapes cannot tell, and no published model is such.
        if key is not None and key == context != query:
            found.append(level)
        number += len(blocks) + 1
    return tuple(found)


def _vector_module(
    shapes: Shapes, vector_width: int | None
) -> Literal["add_embedding", "class_embedding"]:
    # SD 2.1 unCLIP takes a picture's embedding; XL and its kin pooled text and sizes. In the
    # original layout both are label_emb; unCLIP's text is 1024 wide.
    unclip = vector_width is not None and _context_width(shapes) == 1024
    return "class_embedding" if unclip else "add_embedding"


def _required(shapes: Shapes, name: str) -> Shape:
    if name not in shapes:
        raise CheckpointError(f"the U-Net has no {name}; the file is incomplete or of another kind")
    return shapes[name]


def _dim(shapes: Shapes, name: str, dim: int) -> int | None:
    shape = shapes.get(name)
    return shape[dim] if shape is not None and len(shape) > dim else None
