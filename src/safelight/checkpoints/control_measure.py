"""The configs of ControlNets and T2I-Adapters, read from names and shapes."""

from dataclasses import replace

from safelight.checkpoints.keymap import Shape
from safelight.checkpoints.measure_unet import Shapes, measured_encoder
from safelight.errors import CheckpointError
from safelight.models.controlnet import ControlNetConfig, UnionConfig
from safelight.models.t2i_adapter import T2IAdapterConfig

_MOST = 64  # convolutions of a picture, blocks of a stage: more are forged
_STAGES = 4  # of every published adapter


def measured_controlnet(shapes: Shapes) -> ControlNetConfig:
    """The config that fits these tensors of the original layout, prefix removed.

    Raises CheckpointError if they are no ControlNet.
    """
    encoder = measured_encoder(shapes, "ControlNet")
    convolutions = _picture(shapes)
    # one in, two for each halving, one out
    widths = tuple(shape[0] for shape in convolutions[0:-1:2])
    return ControlNetConfig(
        encoder, channels=convolutions[0][1], widths=widths, union=_union(shapes)
    )


def _picture(shapes: Shapes) -> list[Shape]:
    found = []
    for i in range(_MOST):
        shape = shapes.get(f"input_hint_block.{2 * i}.weight")
        if shape is None:
            break
        found.append(shape)
    if len(found) < 2 or len(found) % 2 or any(len(shape) != 4 for shape in found):
        raise CheckpointError(
            f"the ControlNet reads its picture by {len(found)} convolutions; expected an even "
            "number, as in every published one"
        )
    return found


def _union(shapes: Shapes) -> UnionConfig | None:
    tasks = shapes.get("task_embedding")
    if tasks is None or len(tasks) != 2:
        return None
    flags = shapes.get("control_add_embedding.linear_1.weight", (0, 0))
    layers = 0
    while layers < _MOST and f"transformer_layes.{layers}.ln_1.weight" in shapes:
        layers += 1
    return UnionConfig(
        types=tasks[0], width=tasks[1], layers=layers, sinusoid=flags[-1] // max(1, tasks[0])
    )


def measured_adapter(shapes: Shapes) -> T2IAdapterConfig:
    """The config of a T2I-Adapter in either layout, without `adapter.`.

    Its pixels tell the model: 8x8 of them become one place for SD 1.x, 16x16 for XL.
    Raises CheckpointError if the tensors are none, or one of a kind that no model takes.
    """
    light = "conv_in.weight" not in shapes
    first = shapes.get("body.0.in_conv.weight" if light else "conv_in.weight", ())
    if len(first) != 4:
        raise CheckpointError("the T2I-Adapter has no first convolution; the file is incomplete")
    unshuffle, pictures = _pixels(first[1])
    own = T2IAdapterConfig(unshuffle=unshuffle, pictures=pictures, light=light)
    if unshuffle == 16:
        own = replace(own, down=(False, False, True, False))
    if "body.0.resnets.0.block1.weight" in shapes or light:
        inner = "resnets" if "body.0.resnets.0.block1.weight" in shapes else "body"
        blocks = _blocks(shapes, f"body.0.{inner}.")
        last = "out_conv" if light else f"{inner}.0.block1"
        widths = [_rows(shapes, f"body.{i}.{last}.weight") for i in range(_STAGES)]
    else:
        blocks = _blocks(shapes, "body.") // _STAGES
        widths = [_rows(shapes, f"body.{i * blocks}.block1.weight") for i in range(_STAGES)]
    return replace(own, channels=tuple(widths), blocks=blocks)


def _pixels(channels: int) -> tuple[int, int]:
    """How many pixels each way become channels, and how many channels a picture has."""
    for unshuffle in (8, 16):
        for pictures in (1, 3):
            if channels == pictures * unshuffle**2:
                return unshuffle, pictures
    raise CheckpointError(
        f"the T2I-Adapter begins with {channels} channels; expected 64 or 192 (SD 1.x), "
        "or 256 or 768 (XL)"
    )


def _blocks(shapes: Shapes, prefix: str) -> int:
    count = 0
    while count < _MOST and f"{prefix}{count}.block1.weight" in shapes:
        count += 1
    return count


def _rows(shapes: Shapes, name: str) -> int:
    if not shapes.get(name):
        raise CheckpointError(f"the T2I-Adapter has no {name}; the file is incomplete")
    return shapes[name][0]
