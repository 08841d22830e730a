"""Which captions of a pool say most nearly what a prompt says: by words, then by a text tower.

The picture of the nearest training caption is a baseline that draws nothing: a model has to match
its prompts better than that.
"""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import RequestError

SHORTLIST = 32
_WORD = re.compile(r"[^\W_]+")
_BATCH = 256

Texts = Callable[[Sequence[str]], Tensor]  # B texts -> (B, P)


def nearest_captions(
    prompts: Sequence[str],
    captions: Sequence[str],
    *,
    texts: Texts | None = None,
    shortlist: int = SHORTLIST,
) -> list[int]:
    """For each prompt the number of the nearest caption; of equals, the first.

    By the cosine of their sets of words, where a word counts with the logarithm of how rare it is
    among the captions. With `texts`, the `shortlist` nearest of those are compared by the cosine of
    their text vectors. Raises RequestError without captions.
    """
    if not captions:
        raise RequestError("there are no captions to look for the nearest in; give at least one")
    best = _by_words(prompts, captions, shortlist if texts is not None else 1)
    if texts is None:
        return [row[0] for row in best]
    wanted = sorted({index for row in best for index in row})
    place = {index: row for row, index in enumerate(wanted)}
    among = _vectors([captions[i] for i in wanted], texts)
    own = _vectors(prompts, texts)
    nearest = []
    for vector, row in zip(own, best, strict=True):
        cosines = among[[place[i] for i in row]] @ vector
        nearest.append(row[int(cosines.argmax())])
    return nearest


def _by_words(prompts: Sequence[str], captions: Sequence[str], count: int) -> list[list[int]]:
    """For each prompt the `count` captions nearest by words, the nearest first."""
    holders: dict[str, list[int]] = {}
    for index, caption in enumerate(captions):
        for word in _words(caption):
            holders.setdefault(word, []).append(index)
    places = {word: np.array(rows) for word, rows in holders.items()}
    total = len(captions)
    rarity = {word: 1 + math.log(total / len(rows)) for word, rows in holders.items()}
    lengths = np.zeros(total)
    for word, rows in places.items():
        lengths[rows] += rarity[word] ** 2
    lengths = np.sqrt(lengths.clip(min=1e-12))
    return [_best(_shared(prompt, places, rarity, total) / lengths, count) for prompt in prompts]


def _shared(
    prompt: str, places: dict[str, NDArray[np.int64]], rarity: dict[str, float], total: int
) -> NDArray[np.float64]:
    """How much a prompt shares with each caption: the squared rarities of common words, summed."""
    shared = np.zeros(total)
    for word in _words(prompt):
        if word in places:
            shared[places[word]] += rarity[word] ** 2
    return shared


def _best(scores: NDArray[np.float64], count: int) -> list[int]:
    # A stable sort: of equals the first, on every machine.
    order: list[int] = np.argsort(-scores, kind="stable")[:count].tolist()
    return order


def _words(text: str) -> list[str]:
    """The different words of a text, in order."""
    return list(dict.fromkeys(_WORD.findall(text.lower())))


@torch.no_grad()
def _vectors(texts: Sequence[str], encode: Texts) -> Tensor:
    parts = [encode(texts[at : at + _BATCH]) for at in range(0, len(texts), _BATCH)]
    return F.normalize(torch.cat(parts).float(), dim=-1)
