"""Textual inversions in their files: learned vectors for a word, in the published layouts.

Diffusers saves one tensor under the word itself; A1111 `string_to_param` in a pickle with notes, or
`emb_params` as safetensors; for SDXL `clip_l` and `clip_g` hold the vectors of its two encoders.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.finite import check_finite
from safelight.checkpoints.kinds import kind_of
from safelight.checkpoints.weight_file import TensorInfo, WeightFile
from safelight.errors import CheckpointError
from safelight.model import Model
from safelight.printable import shown
from safelight.text.embeddings import Embedding
from safelight.text.spec import CHUNK

Layout = Literal["diffusers", "a1111 pickle", "a1111 safetensors", "sdxl"]

# The names of SDXL's two tables, of its first encoder and of its second
PAIRS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
IN_PICKLE = "string_to_param."
_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 1280: "SDXL's second encoder"}
_PAIR_FAMILIES = {(768, 1280): "SDXL"}


@dataclass(frozen=True, eq=False)
class EmbeddingFile:
    """The vectors of a file, (n, D) each in float32: one table, or SDXL's two in their order.

    token: the word that the file itself gives them; None where its name is the word.
    """

    path: Path
    layout: Layout
    tables: tuple[Tensor, ...]
    token: str | None = None

    @property
    def length(self) -> int:
        """n: how many vectors stand for the word."""
        return len(self.tables[0])

    @property
    def widths(self) -> tuple[int, ...]:
        """D of each table."""
        return tuple(table.shape[1] for table in self.tables)

    @property
    def made_for(self) -> str:
        """The models whose encoders are as wide, in words."""
        return widths_in_words(self.widths)


def read_embedding(path: str | os.PathLike[str]) -> EmbeddingFile:
    """The vectors in a file of any of the four layouts; nothing in it can run.

    Raises FileError if it cannot be read or holds NaN, CheckpointError if it is no textual
    inversion, or one of several words.
    """
    with open_weights(path) as file:
        names, layout, token = _places(file)
        tables = tuple(_table(file, name) for name in names)
    if len({len(table) for table in tables}) > 1:
        counts = " and ".join(str(len(table)) for table in tables)
        raise CheckpointError(
            f"{shown(Path(path))} has {counts} vectors for the two encoders; they must be as many"
        )
    return EmbeddingFile(Path(path), layout, tables, token)


def embedding_for(model: Model, file: EmbeddingFile, word: str | None = None) -> Embedding:
    """The word of a file, for the text encoders of a model, on their device.

    word: how prompts say it; None is the file's name without its suffix. The word that the file
    itself names is understood, too. SDXL's refiner takes the second of SDXL's tables.
    Raises CheckpointError naming both families if the widths are others.
    """
    widths = [encoder.config.width for encoder in model.text.encoders]
    tables = fitting_tables(file, widths, model.family.label)
    device = model.text.encoders[0].text_model.embeddings.token_embedding.weight.device
    return Embedding(spoken_words(file, word), tuple(table.to(device) for table in tables))


def fitting_tables(file: EmbeddingFile, widths: Sequence[int], label: str) -> tuple[Tensor, ...]:
    """The table (n, D) for each text encoder of a model of these widths.

    Raises CheckpointError naming both families."""
    tables = _fitting(file.tables, widths)
    if tables is None:
        raise CheckpointError(
            f"{shown(file.path.name)} is a textual inversion for {file.made_for}, but the loaded "
            f"model is {label} ({_numbers(widths)}); take one made for it"
        )
    return tables


def spoken_words(file: EmbeddingFile, word: str | None = None) -> tuple[str, ...]:
    """How prompts say a file's word: as told or by the file's name, and as the file names it."""
    words = (word or file.path.stem, file.token)
    return tuple(dict.fromkeys(each for each in words if each is not None))


def widths_in_words(widths: Sequence[int]) -> str:
    """What models have text encoders of these widths: "SD 1.x (token width 768)"."""
    if len(widths) == 1:
        family = _FAMILIES.get(widths[0], "a model of its own")
    else:
        family = _PAIR_FAMILIES.get((widths[0], widths[1]), "a model of its own")
    return f"{family} ({_numbers(widths)})"


def _numbers(widths: Sequence[int]) -> str:
    return f"token width{'s'[: len(widths) > 1]} {' and '.join(map(str, widths))}"


def _fitting(tables: Sequence[Tensor], widths: Sequence[int]) -> tuple[Tensor, ...] | None:
    """The table of each encoder; an encoder alone may take the second of two, as the refiner."""
    own = [table.shape[1] for table in tables]
    if own == list(widths):
        return tuple(tables)
    if len(widths) == 1 and len(own) == 2 and own[1] == widths[0] != own[0]:
        return (tables[1],)
    return None


def _places(file: WeightFile) -> tuple[tuple[str, ...], Layout, str | None]:
    """The names of the tables, the layout, and the word that the file names."""
    header: Mapping[str, TensorInfo] = file.header
    where = shown(file.path)
    for first, second in PAIRS:
        if header.keys() == {first, second}:
            return (first, second), "sdxl", None
    # The first program for it kept the id that the word had before as a tensor, too
    own = [name for name in header if not name.startswith("string_to_token.")]
    if file.container == "pickle" and own and all(name.startswith(IN_PICKLE) for name in own):
        if len(own) > 1:
            raise CheckpointError(_several(where, [name.removeprefix(IN_PICKLE) for name in own]))
        return (own[0],), "a1111 pickle", None
    if header.keys() == {"emb_params"}:
        return ("emb_params",), "a1111 safetensors", None
    if not header or any(len(info.shape) not in (1, 2) for info in header.values()):
        found = kind_of({name: info.shape for name, info in header.items()})
        seen = f": {found.evidence}" if found.kind != "unknown" else ""
        raise CheckpointError(
            f"{where} is no textual inversion{seen}; expected one short list of token vectors, or "
            "clip_l and clip_g"
        )
    if len(header) > 1:
        raise CheckpointError(_several(where, list(header)))
    (name,) = header
    return (name,), "diffusers", name


def _several(where: str, names: Sequence[str]) -> str:
    listed = ", ".join(shown(name, 40) for name in names[:4])
    return (
        f"{where} holds {len(names)} tensors ({listed}); a textual inversion is of one word, and "
        "holds one tensor, or clip_l and clip_g"
    )


def _table(file: WeightFile, name: str) -> Tensor:
    info, where = file.header[name], shown(file.path)
    shape = info.shape if len(info.shape) == 2 else (1, *info.shape)
    sound = len(shape) == 2 and 1 <= shape[0] <= CHUNK and shape[1] and info.dtype.is_floating_point
    if not sound:
        kind = str(info.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{where}: {shown(name)} is {list(info.shape)} of {kind}; a textual inversion has 1 to "
            f"{CHUNK} vectors of real numbers"
        )
    table = file.read(name, dtype=torch.float32, copy=True).reshape(shape)
    check_finite([(name, table)], file.path, full=True)
    return table
