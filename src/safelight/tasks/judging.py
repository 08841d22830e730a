"""Which of several pictures fits its prompt best, by a CLIP's judgement.

A CLIP that also told the model what to draw favours what it drew: such a choice is between equals,
not a measure of quality.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from safelight.clip.pair import ClipPair
from safelight.clip.preparation import images_of
from safelight.clip.words import plain_words
from safelight.errors import RequestError
from safelight.printable import shown
from safelight.tasks.recipe import Figure
from safelight.text.span import Dialect

DIGITS = 6  # of a cosine; machines differ beyond


@dataclass(frozen=True, slots=True)
class Scores:
    """What a CLIP thinks of pictures of one prompt.

    text: the plain words that it read. cosines: one for each picture, in their order, -1 to 1.
    """

    text: str
    clip: str
    cosines: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def ranking(self) -> tuple[int, ...]:
        """The numbers of the pictures from 0, the best first; of equals the earlier."""
        return tuple(sorted(range(len(self.cosines)), key=lambda k: (-self.cosines[k], k)))

    @property
    def best(self) -> int:
        """The number of the best picture."""
        return self.ranking[0]

    def figures(self, number: int) -> tuple[Figure, ...]:
        """What a picture's recipe says of this: its cosine, its rank from 1, and among how many."""
        clip = shown(self.clip, 80)
        return (
            Figure(name=f"CLIP cosine ({clip})", value=self.cosines[number]),
            Figure(name="CLIP rank", value=self.ranking.index(number) + 1),
            Figure(name="CLIP candidates", value=len(self.cosines)),
        )


def judged(
    pictures: Sequence[NDArray[np.uint8]],
    prompt: str,
    pair: ClipPair,
    *,
    dialect: Dialect = "a1111",
    steps: int = 20,
) -> Scores:
    """How well pictures (H, W, 3) of one prompt fit its plain words.

    Each picture is looked at alone, so its score does not depend on the others. Raises
    RequestError without pictures, or for a prompt without words that can be judged.
    """
    if not pictures:
        raise RequestError("there is no picture to judge; draw one or more.")
    text = plain_words(prompt, dialect=dialect, steps=steps)
    if not text:
        raise RequestError(
            f"the prompt {shown(prompt, 80)!r} has no words by which pictures can be judged; leave "
            "out --best-of, or describe the picture."
        )
    cut = pair.cut_tokens(text)
    notes = list(pair.notes)
    if cut:
        notes.append(f"the CLIP judged by the first words only: {cut} tokens are past its end.")
    cosines = tuple(row[0] for row in similarities(pictures, [text], pair))
    return Scores(text, pair.name, cosines, tuple(notes))


@torch.no_grad()
def similarities(
    pictures: Sequence[NDArray[np.uint8]], texts: Sequence[str], pair: ClipPair
) -> list[tuple[float, ...]]:
    """The cosine of each picture (H, W, 3) with each text, six digits of it."""
    told = pair.embed_texts(texts)
    rows = []
    for pixels in pictures:
        seen = pair.embed_pictures(images_of(pixels, pair.device))
        cosines: list[float] = (seen @ told.T)[0].tolist()
        rows.append(tuple(round(cosine, DIGITS) for cosine in cosines))
    return rows
