"""Rows for CLIP's towers: OpenCLIP's names, and the Transformers names of several years."""

from collections.abc import Iterator

from safelight.checkpoints.keymap import SPLIT_QKV, TRANSPOSE, Row
from safelight.models.clip import ClipTextConfig, ClipVisionConfig

_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def open_clip_rows(config: ClipTextConfig) -> Iterator[Row]:
    """OpenCLIP's text tower: queries, keys and values stacked, and x @ P for the projection."""
    yield Row("token_embedding", "text_model.embeddings.token_embedding")
    yield Row("positional_embedding", "text_model.embeddings.position_embedding.weight")
    yield Row("ln_final", "text_model.final_layer_norm")
    yield from _open_clip_blocks("text_model", config.layers)
    if config.projection is not None:
        yield Row("text_projection", "text_projection.weight", TRANSPOSE)


def open_clip_vision_rows(config: ClipVisionConfig) -> Iterator[Row]:
    """OpenCLIP's vision tower below `visual.`, its projection like that of the text tower."""
    embeddings = "vision_model.embeddings"
    yield Row("conv1", f"{embeddings}.patch_embedding")
    yield Row("class_embedding", f"{embeddings}.class_embedding")
    yield Row("positional_embedding", f"{embeddings}.position_embedding.weight")
    yield Row("ln_pre", "vision_model.pre_layrnorm")
    yield Row("ln_post", "vision_model.post_layernorm")
    yield from _open_clip_blocks("vision_model", config.layers)
    if config.projection is not None:
        yield Row("proj", "visual_projection.weight", TRANSPOSE)


def transformers_rows(config: ClipTextConfig, *, bare: bool = False) -> Iterator[Row]:
    """The Transformers names; `bare` without `text_model.`, as in files of 2022 and since 2026."""
    for module in ("embeddings", "encoder", "final_layer_norm"):
        yield Row(module if bare else f"text_model.{module}", f"text_model.{module}")
    if config.projection is not None:
        yield Row("text_projection", "text_projection")


def _open_clip_blocks(root: str, layers: int) -> Iterator[Row]:
    for i in range(layers):
        theirs, ours = f"transformer.resblocks.{i}", f"{root}.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            yield Row(f"{theirs}.attn.in_proj_{kind}", f"{ours}.self_attn.*_proj.{kind}", SPLIT_QKV)
        for our_name, their_name in _LAYER.items():
            yield Row(f"{theirs}.{their_name}", f"{ours}.{our_name}")
