"""Prior preservation: beside pictures of a subject, pictures of the class that it is one of.

What the model drew of the class before it learned keeps it from taking every dog for this dog.
Ruiz et al. 2022 (DreamBooth, arXiv:2208.12242).

Shapes: B pictures, of which S are of the subject and P of the class.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.training.diffusion_task import LatentBatch
from safelight.training.draw import Draw
from safelight.training.order import Flat, Order
from safelight.training.task import Data


@dataclass(frozen=True)
class PairedOrder:
    """Batches whose first rows are of the subject, and the others of its class and of their size.

    subject: gives the first rows of every step. sizes: of each of the subject's examples. prior:
    the numbers of the class's examples of each size. count: how many of these are in a batch.
    Raises RequestError for a size of which there is no picture of the class.
    """

    subject: Order
    sizes: Sequence[Hashable]
    prior: Mapping[Hashable, Sequence[int]]
    count: int
    seed: int
    _passes: dict[Hashable, Flat] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        for size in sorted(set(map(str, self.sizes)) - set(map(str, self.prior))):
            raise RequestError(f"there is no picture of the class of the size {size}; give some")

    def indices(self, step: int) -> list[int]:
        own = list(self.subject.indices(step))
        size = self.sizes[own[0]]
        members = self.prior[size]
        if size not in self._passes:
            self._passes[size] = Flat(len(members), self.count, self.seed)
        # The class's examples are numbered after all of the subject's.
        others = self._passes[size].indices(step)
        return [*own, *(len(self.sizes) + members[i] for i in others)]

    def epoch(self, step: int) -> int:
        return self.subject.epoch(step)


@dataclass(frozen=True, eq=False)
class WithPrior:
    """Examples of the subject, and after them those of its class.

    rows: how many of each are in a batch, as (S, P). strength: what the class counts. The loss is
    then that of the subject's pictures plus `strength` times that of the class's, each a mean over
    its own.
    """

    subject: Data[LatentBatch]
    prior: Data[LatentBatch]
    rows: tuple[int, int]
    strength: float = 1.0

    def __len__(self) -> int:
        return len(self.subject) + len(self.prior)

    def batch(self, indices: Sequence[int], draw: Draw) -> LatentBatch:
        """The examples of these numbers, the subject's first. Raises ValueError for others."""
        first = len(self.subject)
        own = [i for i in indices if i < first]
        others = [i - first for i in indices if i >= first]
        if list(indices) != [*own, *(i + first for i in others)]:
            raise ValueError("the subject's pictures come before those of its class")
        total = sum(self.rows)
        parts = []
        start = draw.start
        for data, rows, share, strength in (
            (self.subject, own, self.rows[0], 1.0),
            (self.prior, others, self.rows[1], self.strength),
        ):
            if not rows:
                continue
            # The rows of each kind lie side by side, so each sees what the whole step drew for it.
            part = data.batch(rows, replace(draw, start=start, count=len(rows)))
            weight = torch.full((len(rows),), strength * total / share)
            parts.append(replace(part, weight=weight.to(part.latents.device)))
            start += len(rows)
        return parts[0] if len(parts) == 1 else joined(*parts)


def joined(first: LatentBatch, second: LatentBatch) -> LatentBatch:
    """The rows of one batch, then those of the other; a mask that one lacks counts all places.

    Raises ValueError if one has what the other lacks.
    """
    masks = [_mask(first, second), _mask(second, first)]
    told: dict[str, Tensor | None] = {}
    for part in fields(LatentBatch):
        pair = masks if part.name == "mask" else [getattr(b, part.name) for b in (first, second)]
        found = [tensor for tensor in pair if tensor is not None]
        if len(found) == 1:
            raise ValueError(f"one batch has {part.name} and the other has not")
        told[part.name] = torch.cat(found) if found else None
    return LatentBatch(**told)  # type: ignore[arg-type]


def _mask(batch: LatentBatch, other: LatentBatch) -> Tensor | None:
    if batch.mask is not None or other.mask is None:
        return batch.mask
    return other.mask.new_ones((len(batch), *other.mask.shape[1:]))
