"""Whether one sees where something was painted: the jump across the mask's border, measured."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safelight.canvas.arrays import Floats, Mask, Pixels, check_fit
from safelight.canvas.lab import to_lab
from safelight.canvas.masks import grown
from safelight.canvas.region import Scalar, bounding_box

BAND = 8  # pixels on both sides of the border whose gradients the jump is compared with
FLOOR = 0.5  # of Lab: a smaller gradient is what rounding to 8 bits makes of a flat picture
FEWEST = 8  # squares along a border from which a step between them tells something
CORRELATED = 8  # neighbours along a border that are as good as one observation
FAINT, PLAIN = 1.5, 2.5


@dataclass(frozen=True, slots=True)
class Seam:
    """How far the border of what was painted stands out.

    jump: mean colour difference of neighbours across the border, in CIELAB units.
    own: the same of neighbours near the border that it does not part.
    ratio: jump / own; about 1 where nothing shows.
    error: the standard error of the ratio, from the border's length.
    pairs: how many neighbours the border parts; 0 if there is no border.
    scale: what counts as one pixel: more than 1 where the mask is so soft that a step shows only
        from further away.
    """

    jump: float
    own: float
    ratio: float
    error: float
    pairs: int
    scale: int = 1

    @property
    def sure(self) -> float:
        """The ratio less two standard errors: what is not chance."""
        return self.ratio - 2 * self.error

    @property
    def words(self) -> str:
        """What the ratio means, in plain words; what chance may have done does not count."""
        if not self.pairs:
            return "no border"
        if self.sure < FAINT:
            return "no seam"
        return "a plain seam" if self.sure >= PLAIN else "a faint seam"


def seam(pixels: Pixels, mask: Mask, original: Pixels | None = None) -> Seam:
    """The jump across the mask's border against the picture's own gradients on both sides of it.

    The border of a soft mask is where it passes a half; it is looked at pixel by pixel, and in
    squares half as wide as it is soft, which is given if a seam shows there alone. With the
    `original` of the same size, a difference that was there before painting counts as the picture's
    own: a mask may follow the outline of a thing. Raises RequestError if the sizes differ.
    """
    check_fit(mask, pixels)
    if original is not None:
        check_fit(mask, original)
    found = _seam(pixels, mask, original, 1)
    scale = _softness(mask, found.pairs) // 2
    if scale < 2 or min(mask.shape) < 4 * scale:
        return found
    smaller = None if original is None else _reduced(original, scale)
    wider = _seam(_reduced(pixels, scale), _reduced(mask, scale), smaller, scale)
    # Few squares touch the border: their ratio is only worth telling if it is not chance
    shows = wider.pairs >= FEWEST and wider.sure >= max(found.sure, FAINT)
    return wider if shows else found


def _seam(pixels: Pixels, mask: Mask, original: Pixels | None, scale: int) -> Seam:
    inside = mask >= np.float32(0.5) if (mask >= 0.5).any() else mask > 0
    borders = _borders(inside)
    if not any(part.any() for part in borders):
        return Seam(0.0, 0.0, 1.0, 0.0, 0, scale)
    near = _near(inside.shape, borders)
    rows, columns = _window(near)
    inside, near = inside[rows, columns], near[rows, columns]
    here = _differences(to_lab(pixels[rows, columns]), inside, near)
    own = here.own
    if original is not None:
        before = _differences(to_lab(original[rows, columns]), inside, near)
        own = max(own, float(before.jump.mean()))
    own = max(own, FLOOR)
    jump, count = float(here.jump.mean()), len(here.jump)
    error = float(here.jump.std()) / own / max(count * scale / CORRELATED, 1) ** 0.5
    return Seam(jump, own, jump / own, error, count, scale)


def _softness(mask: Mask, pairs: int) -> int:
    """How many pixels wide the mask's soft border is."""
    return int(((mask > 0) & (mask < 1)).sum()) // max(pairs, 1)


def _reduced(values: NDArray[Scalar], scale: int) -> NDArray[Scalar]:
    """The means of squares of `scale` x `scale`; what is left over at the end is cut off."""
    height, width = values.shape[0] // scale, values.shape[1] // scale
    cells = values[: height * scale, : width * scale].reshape(
        height, scale, width, scale, *values.shape[2:]
    )
    means: NDArray[Scalar] = cells.mean(axis=(1, 3), dtype=np.float32).round(5).astype(values.dtype)
    return means


@dataclass(frozen=True, slots=True)
class _Differences:
    jump: Floats  # (N,) of all neighbours across the border
    own: float  # the mean of those that lie near it on one side


def _borders(inside: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixels are parted from the one below (H - 1, W), and from the one beside (H, W - 1)."""
    return inside[1:] != inside[:-1], inside[:, 1:] != inside[:, :-1]


def _near(
    shape: tuple[int, ...], across: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """Which pixels lie within `BAND` of the border."""
    touching = np.zeros(shape, np.float32)
    touching[1:][across[0]] = touching[:-1][across[0]] = 1
    touching[:, 1:][across[1]] = touching[:, :-1][across[1]] = 1
    rows, columns = _window(touching, BAND + 1)
    near = np.zeros(shape, np.bool_)
    near[rows, columns] = grown(touching[rows, columns], BAND) > 0
    return near


def _window(marked: NDArray[np.generic], more: int = 1) -> tuple[slice, slice]:
    """Rows and columns of all that is marked, and `more` around it."""
    box = bounding_box(np.asarray(marked, np.float32))
    assert box is not None, "there is no border"
    return box.grown(more, (marked.shape[1], marked.shape[0])).slices


def _differences(lab: Floats, inside: NDArray[np.bool_], near: NDArray[np.bool_]) -> _Differences:
    jumps: list[Floats] = []
    sides: dict[bool, list[Floats]] = {False: [], True: []}
    for axis, border in enumerate(_borders(inside)):
        step = np.linalg.norm(np.diff(lab, axis=axis), axis=2)
        jumps.append(step[border])
        first = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        second = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        one_side = near[first] & near[second] & ~border
        for side, values in sides.items():
            values.append(step[one_side & (inside[first] == side)])
    # Both sides count alike: a busy or a flat patch is no excuse for a jump at the other side's
    whole = [np.concatenate(values) for values in sides.values()]
    means = [float(values.mean()) for values in whole if len(values)]
    return _Differences(np.concatenate(jumps), sum(means) / max(len(means), 1))
