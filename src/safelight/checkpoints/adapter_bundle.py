"""Textual inversions that lie in an adapter's file, as OneTrainer and A1111 bundle them.

Names are `bundle_emb.WORD.` and what the embedding alone would be called: `string_to_param.*`, or
`clip_l` and `clip_g` for SDXL.
"""

import torch

from safelight.checkpoints.adapter_keys import BUNDLE
from safelight.checkpoints.embedding_file import IN_PICKLE, PAIRS, EmbeddingFile, Layout
from safelight.checkpoints.finite import check_finite
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError
from safelight.printable import shown

_MOST_VECTORS = 1000
_WIDEST = 4096


def bundled_embeddings(file: WeightFile, names: tuple[str, ...]) -> tuple[EmbeddingFile, ...]:
    """The textual inversions among these tensors of a file, each with its word.

    Raises CheckpointError for tensors that make none, FileError for NaN.
    """
    words: dict[str, dict[str, str]] = {}
    for name in names:
        word, _, inner = name.removeprefix(BUNDLE).partition(".")
        words.setdefault(word, {})[inner] = name
    return tuple(_embedding(file, word, inner) for word, inner in words.items())


def _embedding(file: WeightFile, word: str, inner: dict[str, str]) -> EmbeddingFile:
    layout: Layout = "sdxl"
    stored = next(([inner[n] for n in pair] for pair in PAIRS if inner.keys() == set(pair)), None)
    if stored is None and len(inner) == 1:
        layout, stored = "a1111 safetensors", list(inner.values())
        if next(iter(inner)).startswith(IN_PICKLE):
            layout = "a1111 pickle"
    if stored is None or not word:
        raise CheckpointError(
            f"{shown(file.path)}: the embedding {shown(word)!r} is bundled as "
            f"{', '.join(map(shown, sorted(inner)[:4]))}; expected one table, or clip_l and clip_g"
        )
    tables = []
    for name in stored:
        info = file.header[name]
        shape = info.shape if len(info.shape) == 2 else (1, *info.shape)
        sound = len(shape) == 2 and info.dtype.is_floating_point
        if not (sound and 0 < shape[0] <= _MOST_VECTORS and 0 < shape[1] <= _WIDEST):
            raise CheckpointError(
                f"{shown(file.path)}: {shown(name)} is {info.dtype} of shape {list(info.shape)}; "
                "expected a table of token vectors"
            )
        table = file.read(name, dtype=torch.float32, copy=True)
        check_finite([(name, table)], file.path, full=True)
        tables.append(table if table.ndim == 2 else table[None])
    if len({len(table) for table in tables}) > 1:
        raise CheckpointError(
            f"{shown(file.path)}: the embedding {shown(word)!r} has another number of vectors for "
            "each encoder"
        )
    return EmbeddingFile(file.path, layout, tuple(tables), word)
