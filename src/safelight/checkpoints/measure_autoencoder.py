"""The config of a KL autoencoder, read from names and shapes of either layout."""

from dataclasses import dataclass

from safelight.checkpoints.keymap import Shape
from safelight.checkpoints.measure_unet import Shapes, check_groups
from safelight.errors import CheckpointError
from safelight.models.autoencoder import AutoencoderConfig


@dataclass(frozen=True, slots=True)
class _Naming:
    """Where the telling tensors are, by level and number of the block."""

    block: str
    attention: tuple[str, ...]


_NAMINGS = (
    _Naming("encoder.down.{}.block.{}", ("encoder.mid.attn_1.q.weight",)),
    _Naming(
        "encoder.down_blocks.{}.resnets.{}",
        (
            "encoder.mid_block.attentions.0.to_q.weight",
            "encoder.mid_block.attentions.0.query.weight",
        ),
    ),
)


def measured_autoencoder(shapes: Shapes) -> AutoencoderConfig:
    """The config that fits these tensors, in the original layout or with Diffusers' names.

    The group norms have 32 groups, which leave no trace in the shapes.
    Raises CheckpointError if the tensors do not make an autoencoder, or one of another number.
    """
    for naming in _NAMINGS:
        if naming.block.format(0, 0) + ".conv1.weight" in shapes:
            return _measured(shapes, naming)
    raise CheckpointError("the autoencoder has no encoder blocks; encoder and decoder are needed")


def _measured(shapes: Shapes, naming: _Naming) -> AutoencoderConfig:
    widths: list[int] = []
    while (last := naming.block.format(len(widths), 0) + ".conv2.weight") in shapes:
        widths.append(shapes[last][0])
    check_groups(widths, "autoencoder")
    layers = 0
    while naming.block.format(0, layers) + ".conv1.weight" in shapes:
        layers += 1
    return AutoencoderConfig(
        in_channels=_required(shapes, "encoder.conv_in.weight")[1],
        out_channels=_required(shapes, "decoder.conv_out.weight")[0],
        latent_channels=_required(shapes, "decoder.conv_in.weight")[1],
        widths=tuple(widths),
        layers=layers,
        mid_attention=any(name in shapes for name in naming.attention),
        quant_conv="quant_conv.weight" in shapes,
        post_quant_conv="post_quant_conv.weight" in shapes,
    )


def _required(shapes: Shapes, name: str) -> Shape:
    if name not in shapes:
        raise CheckpointError(
            f"the autoencoder has no {name}; the file is incomplete or of another kind"
        )
    return shapes[name]
