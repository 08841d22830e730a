"""The config of a CLIP text encoder, read from names and shapes, whichever naming it has."""

from dataclasses import dataclass, replace
from typing import Literal

from safelight.checkpoints.keymap import KeyMap
from safelight.checkpoints.measure_unet import Shapes
from safelight.checkpoints.model_json import end_of_text
from safelight.checkpoints.rows_clip import open_clip_rows, transformers_rows
from safelight.errors import CheckpointError
from safelight.models.clip import ClipTextConfig

# "bare": Transformers' names without `text_model.`, as in files of 2022 and again since 2026.
Naming = Literal["transformers", "bare", "open_clip"]

# Names that stand beside the weights and are never needed.
IDLE = (
    "logit_scale",
    "attn_mask",
    "embeddings.position_ids",
    "text_model.embeddings.position_ids",
    # Some merges hold all of CLIP.
    "vision_model.",
    "visual.",
    "visual_projection.",
)


@dataclass(frozen=True, slots=True)
class MeasuredClip:
    """A text encoder's config and naming."""

    config: ClipTextConfig
    naming: Naming

    def keymap(self) -> KeyMap:
        if self.naming == "open_clip":
            return KeyMap(open_clip_rows(self.config))
        return KeyMap(transformers_rows(self.config, bare=self.naming == "bare"))


def clip_naming(shapes: Shapes) -> Naming | None:
    """How these tensors name a text tower; None if they hold none."""
    if "text_model.embeddings.token_embedding.weight" in shapes:
        return "transformers"
    if "embeddings.token_embedding.weight" in shapes:
        return "bare"
    if "token_embedding.weight" in shapes and "positional_embedding" in shapes:
        return "open_clip"
    return None


def measured_clip(shapes: Shapes, *, projection: bool) -> MeasuredClip:
    """The config that fits these tensors, prefix removed.

    projection: whether the pooled, projected text is wanted; its matrix is then expected.
    Heads are 64 wide. The activation is quick-GELU for Transformers' names and 768 channels or
    fewer (OpenAI's ViT-L), else GELU (OpenCLIP).
    Raises CheckpointError if the tensors are no text tower.
    """
    naming = clip_naming(shapes)
    if naming is None:
        raise CheckpointError("there is no token embedding; this is no CLIP text encoder")
    if naming == "open_clip":
        tokens, positions = shapes["token_embedding.weight"], shapes["positional_embedding"]
        layer, mlp = "transformer.resblocks.{}.ln_1.weight", "transformer.resblocks.0.mlp.c_fc.bias"
        projected = shapes.get("text_projection", (0, 0))[-1]
    else:
        root = "text_model." if naming == "transformers" else ""
        tokens = shapes[f"{root}embeddings.token_embedding.weight"]
        positions = shapes.get(f"{root}embeddings.position_embedding.weight", (77, tokens[1]))
        layer = root + "encoder.layers.{}.layer_norm1.weight"
        mlp = f"{root}encoder.layers.0.mlp.fc1.bias"
        projected = shapes.get("text_projection.weight", (0, 0))[0]
    layers = 0
    while layer.format(layers) in shapes:
        layers += 1
    if not layers or mlp not in shapes or len(tokens) != 2:
        raise CheckpointError("the text encoder has no layers; the file is incomplete")
    heads = max(1, tokens[1] // 64)
    if tokens[1] % heads:
        raise CheckpointError(
            f"the text encoder is {tokens[1]} wide, which is no multiple of 64, and shapes do not "
            "tell its number of heads; give it as a Diffusers folder, whose config.json does"
        )
    config = ClipTextConfig(
        layers=layers,
        width=tokens[1],
        heads=heads,
        mlp_width=shapes[mlp][0],
        activation="quick_gelu" if naming != "open_clip" and tokens[1] <= 768 else "gelu",
        projection=(projected or tokens[1]) if projection else None,
        vocabulary=tokens[0],
        context=positions[0],
        eos_id=end_of_text(tokens[0]),
    )
    return MeasuredClip(config, naming)


def without_last_block(clip: MeasuredClip) -> tuple[MeasuredClip, tuple[str, ...]]:
    """The tower without its last block, and the names that become idle.

    Stable Diffusion 2 takes its context before the last block of OpenCLIP H, which files hold all
    the same; the Diffusers layout leaves it out.
    """
    last = clip.config.layers - 1
    root = {
        "open_clip": "transformer.resblocks",
        "transformers": "text_model.encoder.layers",
        "bare": "encoder.layers",
    }[clip.naming]
    shorter = replace(clip.config, layers=last)
    return replace(clip, config=shorter), (f"{root}.{last}.", "text_projection")
