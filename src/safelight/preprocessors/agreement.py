"""How well the lines of one map lie on those of another.

Shapes: H W pixels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from safelight.errors import RequestError
from safelight.preprocessors.filters import Pixels


class Agreement(NamedTuple):
    """precision: share of what was found that is wanted; recall: of what is wanted that was found;
    f1: their harmonic mean. From 0 to 1, and 1 where both maps are empty."""

    precision: float
    recall: float
    f1: float


def agreement(wanted: Pixels, found: Pixels, *, tolerance: int = 2, level: int = 127) -> Agreement:
    """How far the lines of two maps (H, W, 3) agree: pixels above `level` in any channel.

    A pixel counts as met if the other map has one within `tolerance` pixels up, down and aside, as
    edge detectors are judged (Martin et al. 2004, doi:10.1109/TPAMI.2004.1273918, without matching
    them one to one). Raises RequestError for maps of two sizes.
    """
    if wanted.shape != found.shape:
        raise RequestError(
            f"maps to be compared are of one size; got {wanted.shape[1]}x{wanted.shape[0]} and "
            f"{found.shape[1]}x{found.shape[0]}"
        )
    there, made = wanted.max(axis=2) > level, found.max(axis=2) > level
    precision = _met(made, _wider(there, tolerance))
    recall = _met(there, _wider(made, tolerance))
    total = precision + recall
    return Agreement(precision, recall, 2 * precision * recall / total if total else 0.0)


def _met(lines: NDArray[np.bool_], near: NDArray[np.bool_]) -> float:
    """The share of lines that lie near; of none all, if there is nothing near either."""
    if not lines.any():
        return float(not near.any())
    return float(near[lines].mean())


def _wider(lines: NDArray[np.bool_], tolerance: int) -> NDArray[np.bool_]:
    image = Image.fromarray(lines.astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.MaxFilter(2 * tolerance + 1))) > 0
