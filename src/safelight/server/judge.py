"""Judges of finished pictures, such as a safety checker: they see pixels before these are kept.

A picture that is withheld is neither kept nor given out, and never replaced by a black one: the job
says which it was and why. One that is labelled is given out with the words beside it.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from safelight.tasks.picture import Picture

Outcome = Literal["passed", "labelled", "withheld"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge found.

    shown: whether the picture may be given out. words: why, for the client.
    """

    shown: bool
    words: str = ""

    @property
    def outcome(self) -> Outcome:
        """What becomes of the picture, in a word."""
        if not self.shown:
            return "withheld"
        return "labelled" if self.words else "passed"


class Judge(Protocol):
    """Looks at finished pixels (H, W, 3); called on the threads that take pictures in."""

    def __call__(self, pixels: NDArray[np.uint8]) -> Verdict: ...


def labelled(picture: Picture, verdict: Verdict) -> Picture:
    """The picture with a judge's words among its warnings, and among those of its recipe."""
    if not verdict.words:
        return picture
    result = picture.recipe.result
    result = result.replace(warnings=(*result.warnings, verdict.words))
    recipe = picture.recipe.replace(result=result)
    return Picture(picture.pixels, recipe, (*picture.warnings, verdict.words))
