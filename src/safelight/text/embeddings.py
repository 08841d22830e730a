"""Words that stand for learned vectors: textual inversion (Gal et al. 2022, arXiv:2208.01618).

The vectors take the place of a word's tokens before positions are added, and count towards the 75
of a chunk. No weight of an encoder changes: ids beyond its own rows are looked up in a table beside
it, through which gradients flow.

Shapes: B batch, L tokens, D width of an encoder, n vectors of a word, N vectors of all words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.models.clip import ClipText
from safelight.printable import shown
from safelight.text.spec import CHUNK


@dataclass(frozen=True, eq=False)
class Embedding:
    """A word and its vectors, (n, D) for each text encoder in the order of the family's roles.

    words: how it may be written in a prompt; any of them stands for all n vectors.
    """

    words: tuple[str, ...]
    vectors: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        """n: how many of a chunk's 75 places it takes."""
        return len(self.vectors[0])


class Added(NamedTuple):
    """The vectors of all words for one encoder: ids from `first` on are rows of the table."""

    first: int
    table: Tensor  # (N, D)


@dataclass(frozen=True, eq=False)
class Learned:
    """The vectors of all words for each encoder, and the ids that each word stands for."""

    added: tuple[Added, ...]
    triggers: Mapping[str, tuple[int, ...]]


def learned(embeddings: Sequence[Embedding], encoders: Sequence[ClipText]) -> Learned:
    """The tables of these words for these encoders.

    Raises RequestError for a word that two of them claim, or that none can find; ValueError for
    vectors that are not as many or as wide as the encoders need.
    """
    first = at = max(encoder.config.vocabulary for encoder in encoders)
    triggers: dict[str, tuple[int, ...]] = {}
    claimed: set[str] = set()  # case does not matter to CLIP
    for one in embeddings:
        _check(one, encoders)
        ids = tuple(range(at, at + one.length))
        for word in one.words:
            if not word.strip():
                raise RequestError("a textual inversion needs a word; its name is empty")
            if word.casefold() in claimed:
                raise RequestError(
                    f"two textual inversions are called {shown(word)}; give one of them another "
                    "name"
                )
            triggers[word] = ids
            claimed.add(word.casefold())
        at += one.length
    tables = [
        torch.cat([one.vectors[number] for one in embeddings]) for number in range(len(encoders))
    ]
    return Learned(tuple(Added(first, table) for table in tables), triggers)


def looked_up(encoder: ClipText, ids: Tensor, added: Added) -> Tensor:
    """The vectors of token ids (B, L), those beyond the encoder's own of `added`: (B, L, D)."""
    own = ids < added.first
    vectors = encoder.embed(torch.where(own, ids, 0))
    others = F.embedding((ids - added.first).clamp(min=0), added.table.to(vectors))
    return torch.where(own[..., None], vectors, others)


def _check(one: Embedding, encoders: Sequence[ClipText]) -> None:
    shapes = [list(vectors.shape) for vectors in one.vectors]
    wanted = [[one.length, encoder.config.width] for encoder in encoders]
    if shapes != wanted or not 1 <= one.length <= CHUNK:
        raise ValueError(
            f"the vectors of {one.words} have shapes {shapes}; these encoders need {wanted}, of at "
            f"most {CHUNK} rows"
        )
