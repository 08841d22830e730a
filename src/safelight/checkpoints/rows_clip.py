"""Rows for CLIP text encoders: OpenCLIP's names, and the Transformers names of several years."""

from collections.abc import Iterator

from safelight.checkpoints.keymap import SPLIT_QKV, TRANSPOSE, Row
from safelight.models.clip import ClipTextConfig

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
    for i in range(config.layers):
        theirs, ours = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            yield Row(f"{theirs}.attn.in_proj_{kind}", f"{ours}.self_attn.*_proj.{kind}", SPLIT_QKV)
        for our_name, their_name in _LAYER.items():
            yield Row(f"{theirs}.{their_name}", f"{ours}.{our_name}")
    if config.projection is not None:
        yield Row("text_projection", "text_projection.weight", TRANSPOSE)


def transformers_rows(config: ClipTextConfig, *, bare: bool = False) -> Iterator[Row]:
    """The Transformers names; `bare` without `text_model.`, as in files of 2022 and since 2026."""
    for module in ("embeddings", "encoder", "final_layer_norm"):
        yield Row(module if bare else f"text_model.{module}", f"text_model.{module}")
    if config.projection is not None:
        yield Row("text_projection", "text_projection")
