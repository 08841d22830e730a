"""The place of a judge of finished pictures, such as a safety checker.

None is built in. A judge sees pixels before they are kept; its verdict stands in the warnings of
the picture and of its job, and is never a silent black picture.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge found.

    shown: whether the picture may be given out. words: why, for the client.
    """

    shown: bool
    words: str = ""


class Judge(Protocol):
    """Looks at finished pixels (H, W, 3); called on the sampling thread."""

    def __call__(self, pixels: NDArray[np.uint8]) -> Verdict: ...
