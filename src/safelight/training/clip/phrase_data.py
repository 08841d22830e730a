"""Phrases of a teacher as batches: alone, or beside pictures and captions.

Shapes: N phrases in the table, L tokens, W width of the teacher's vectors, B rows of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safelight.text.bpe import Tokenizer
from safelight.text.chunks import caption_ids
from safelight.training.clip.task import ClipBatch
from safelight.training.clip.teacher import Teacher
from safelight.training.draw import Draw
from safelight.training.task import Data


def token_rows(texts: Sequence[str], tokenizer: Tokenizer, length: int = 77) -> Tensor:
    """Token ids (B, L) int64 of texts: start, tokens, end, and the end again for what is left.

    length: columns, at most 77; what is beyond is dropped.
    """
    eos = tokenizer.vocabulary.eos
    # the last column is the end in any case: of the text, or where it was cut
    rows = [(*caption_ids(text, tokenizer)[: length - 1], eos) for text in texts]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), length)


@dataclass(frozen=True)
class PhraseTable:
    """All phrases of a teacher on one device, so that a step takes its rows without the host."""

    tokens: Tensor  # (N, L) int64
    vectors: Tensor  # (N, W)

    @classmethod
    def of(
        cls,
        teacher: Teacher,
        tokenizer: Tokenizer,
        *,
        length: int = 32,
        device: torch.device | str = "cpu",
    ) -> "PhraseTable":
        """The table of a teacher's phrases, cut after `length` tokens."""
        tokens = token_rows(teacher.phrases, tokenizer, length)
        return cls(tokens.to(device), teacher.vectors.to(device))

    def __len__(self) -> int:
        return len(self.tokens)

    def drawn(self, each: int, draw: Draw) -> tuple[Tensor, Tensor]:
        """Phrases at random, `each` for every row of the batch: (B x each, L), (B x each, W)."""
        chance = draw.uniform("clip phrase", each, device=self.tokens.device).flatten()
        rows = (chance.double() * len(self)).long()
        return self.tokens[rows], self.vectors[rows]


@dataclass(frozen=True)
class PhraseData:
    """Phrases alone, as examples: `Data` for a text tower that has no pictures yet."""

    table: PhraseTable

    def __len__(self) -> int:
        return len(self.table)

    def batch(self, indices: Sequence[int], draw: Draw) -> ClipBatch:
        rows = torch.tensor(indices, dtype=torch.int64).to(
            self.table.tokens.device, non_blocking=True
        )
        return ClipBatch(
            phrase_tokens=self.table.tokens[rows], phrase_vectors=self.table.vectors[rows]
        )


@dataclass(frozen=True)
class TaughtPairs:
    """Pairs of other data, with `each` phrases of a table beside every pair."""

    pairs: Data[ClipBatch]
    table: PhraseTable
    each: int = 1

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, indices: Sequence[int], draw: Draw) -> ClipBatch:
        tokens, vectors = self.table.drawn(self.each, draw)
        pairs = self.pairs.batch(indices, draw)
        return replace(pairs, phrase_tokens=tokens, phrase_vectors=vectors)
