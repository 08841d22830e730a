"""The config of a CLIP vision tower, read from names and shapes, whichever naming it has."""

from dataclasses import dataclass
from math import isqrt
from typing import Literal

from safelight.checkpoints.keymap import KeyMap, Row
from safelight.checkpoints.measure_unet import Shapes
from safelight.checkpoints.rows_clip import open_clip_vision_rows
from safelight.errors import CheckpointError
from safelight.models.clip import Activation, ClipVisionConfig

Naming = Literal["transformers", "open_clip"]

# Heads of the published towers whose heads are not 64 wide: H, g and bigG.
_SIXTEEN = (1280, 1408, 1664)


@dataclass(frozen=True, slots=True)
class MeasuredVision:
    """A vision tower's config and naming."""

    config: ClipVisionConfig
    naming: Naming

    def keymap(self) -> KeyMap:
        if self.naming == "open_clip":
            return KeyMap(open_clip_vision_rows(self.config))
        return KeyMap([Row("", "")])


def measured_vision(
    shapes: Shapes, *, activation: Activation, head_width: int | None = None
) -> MeasuredVision:
    """The config that fits these tensors: OpenCLIP's without `visual.`, or Transformers' names.

    Shapes tell neither the activation nor the heads. head_width: None takes that of the published
    towers, 64 but for widths 1280, 1408 and 1664, which have 16 heads.
    Raises CheckpointError if the tensors are no vision tower with a projection.
    """
    if "conv1.weight" in shapes:
        naming: Naming = "open_clip"
        conv, positions = shapes["conv1.weight"], shapes.get("positional_embedding", ())
        layer, mlp = "transformer.resblocks.{}.ln_1.weight", "transformer.resblocks.0.mlp.c_fc.bias"
        projected = shapes.get("proj", (0, 0))[-1]
    elif "vision_model.embeddings.patch_embedding.weight" in shapes:
        naming, root = "transformers", "vision_model"
        conv = shapes[f"{root}.embeddings.patch_embedding.weight"]
        positions = shapes.get(f"{root}.embeddings.position_embedding.weight", ())
        layer, mlp = (
            root + ".encoder.layers.{}.layer_norm1.weight",
            f"{root}.encoder.layers.0.mlp.fc1.bias",
        )
        projected = shapes.get("visual_projection.weight", (0, 0))[0]
    else:
        raise CheckpointError(
            "there is no patch embedding; this is no vision transformer of CLIP (ResNets and other "
            "towers are not supported)"
        )
    layers = 0
    while layer.format(layers) in shapes:
        layers += 1
    if not layers or mlp not in shapes or len(positions) != 2 or len(conv) != 4:
        raise CheckpointError("the vision tower has no layers or no positions; it is incomplete")
    if not projected:
        raise CheckpointError(
            "the vision tower lacks the matrix that makes pictures comparable with texts"
        )
    width, channels, patch = conv[0], conv[1], conv[2]
    side = isqrt(positions[0] - 1)
    if side * side + 1 != positions[0]:
        raise CheckpointError(
            f"the vision tower has {positions[0]} positions, which are no square of patches and a "
            "class token"
        )
    heads = _heads(width, head_width)
    config = ClipVisionConfig(
        layers=layers,
        width=width,
        heads=heads,
        mlp_width=shapes[mlp][0],
        activation=activation,
        projection=projected,
        image_size=side * patch,
        patch=patch,
        channels=channels,
    )
    return MeasuredVision(config, naming)


def _heads(width: int, head_width: int | None) -> int:
    heads = 16 if width in _SIXTEEN else max(1, width // 64)
    if head_width is not None:
        heads = width // head_width if head_width else 0
    if not heads or width % heads:
        raise CheckpointError(
            f"the vision tower is {width} wide and shapes do not tell its number of heads; give it "
            "as a folder whose config tells"
        )
    return heads
