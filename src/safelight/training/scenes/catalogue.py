"""What is known of each cut-out besides its pixels: words, licence, place in its frame, contrast.

Needs no torch, so that processes which only write captions start quickly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TRAIN, HELDOUT_COMBO = "train", "heldout_combo"
CORE_GROUPS = (
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
    "smileys-emotion",
)


@dataclass(frozen=True, slots=True)
class CutoutEntry:
    """The words of one cut-out; `hexcode` names its concept, which several styles may draw."""

    key: str
    name: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str
    core: bool
    style: str
    style_words: tuple[str, ...]
    family: str  # styles that share one drawing
    hexcode: str
    split: str
    source: str
    licence: str
    credit: str


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Entries of N cut-outs and what was measured on them, in one order."""

    entries: tuple[CutoutEntry, ...]
    boxes: NDArray[np.float32]  # (N, 4): left, top, right, bottom of the object in its frame
    clear: NDArray[np.bool_]  # (N, 12): stands out from the background of that name (colours.NAMES)
    paintable: NDArray[np.bool_]  # (N,): can be given another colour and shows it

    def __post_init__(self) -> None:
        count = len(self.entries)
        assert self.boxes.shape == (count, 4), self.boxes.shape
        assert self.clear.shape[0] == count and self.paintable.shape == (count,)

    def __len__(self) -> int:
        return len(self.entries)

    def where(self, keep: Callable[[CutoutEntry], bool]) -> list[int]:
        """The indices of the entries to keep, in order."""
        return [index for index, entry in enumerate(self.entries) if keep(entry)]

    def take(self, indices: Sequence[int]) -> "Catalogue":
        """The catalogue of these cut-outs, in this order."""
        rows = np.asarray(indices, dtype=np.int64)
        return Catalogue(
            tuple(self.entries[index] for index in indices),
            self.boxes[rows],
            self.clear[rows],
            self.paintable[rows],
        )

    def concepts(self) -> NDArray[np.int64]:
        """For each cut-out the number of its concept, counted in order of first appearance."""
        numbers: dict[str, int] = {}
        return np.array(
            [numbers.setdefault(entry.hexcode, len(numbers)) for entry in self.entries],
            dtype=np.int64,
        )
