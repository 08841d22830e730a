"""Pictures as the tasks want them: without words, beside token ids, or with labels.

Shapes: N pictures of a set, B of a batch, S their side, L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.text.bpe import Tokenizer
from safelight.training.autoencoder.task import PictureBatch as Bare
from safelight.training.autoencoder.task import as_floats
from safelight.training.clip.phrase_data import token_rows
from safelight.training.clip.task import ClipBatch
from safelight.training.draw import Draw
from safelight.training.evaluator_task import LabelledBatch
from safelight.training.picture_data import PictureBatch
from safelight.training.task import Data


def rows_of(tensor: Tensor, indices: Sequence[int]) -> Tensor:
    """Numbers of rows where a tensor is."""
    return torch.as_tensor(indices, dtype=torch.long).to(tensor.device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Wordless:
    """Pictures of a source, to an autoencoder."""

    data: Data[PictureBatch]

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Sequence[int], draw: Draw) -> Bare:
        return Bare(self.data.batch(indices, draw).pictures)


@dataclass(frozen=True, eq=False)
class Captioned:
    """Pictures of a source beside the tokens of their captions, to a CLIP."""

    data: Data[PictureBatch]
    tokenizer: Tokenizer
    length: int

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Sequence[int], draw: Draw) -> ClipBatch:
        found = self.data.batch(indices, draw)
        tokens = token_rows(found.captions, self.tokenizer, self.length)
        return ClipBatch(found.pictures, tokens.to(found.pictures.device, non_blocking=True))


@dataclass(frozen=True, eq=False)
class Kept:
    """Pictures that stay on the device as bytes, to an autoencoder."""

    pictures: Tensor  # (N, 3, S, S) uint8

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], draw: Draw) -> Bare:
        return Bare(self.pictures[rows_of(self.pictures, indices)])


@dataclass(frozen=True, eq=False)
class KeptPairs:
    """Pictures that stay on the device, with token ids and what is seen and said; to a CLIP."""

    pictures: Tensor  # (N, 3, S, S) uint8
    tokens: Tensor  # (N, L) int64
    seen: Tensor  # (N, K) int64
    said: Tensor  # (N, K) int64, UNSAID where the caption says nothing

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], draw: Draw) -> ClipBatch:
        at = rows_of(self.pictures, indices)
        pictures = as_floats(self.pictures[at])
        return ClipBatch(pictures, self.tokens[at], self.seen[at], self.said[at])


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pictures that stay on the device, with what they show; to an evaluator."""

    pictures: Tensor  # (N, 3, S, S) uint8
    concept: Tensor  # (N,) int64
    style: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int], draw: Draw) -> LabelledBatch:
        at = rows_of(self.pictures, indices)
        return LabelledBatch(as_floats(self.pictures[at]), self.concept[at], self.style[at])


def joined(first: Labelled, second: Labelled) -> Labelled:
    """The pictures of one, then those of the other."""
    return Labelled(
        torch.cat([first.pictures, second.pictures]),
        torch.cat([first.concept, second.concept]),
        torch.cat([first.style, second.style]),
    )
