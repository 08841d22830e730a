"""The colours of what was painted, brought to those of the picture it goes into.

`matched` asks what painting did to the pixels just outside the mask, which should not have changed
at all, and undoes that inside. `corrected` is A1111's colour correction of whole pictures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safelight.canvas.arrays import Floats, Mask, Pixels, check_fit, rounded
from safelight.canvas.lab import to_lab, to_pixels
from safelight.canvas.masks import LUMA, grown
from safelight.errors import RequestError

RING = 16  # pixels outside the mask that are compared
FEWEST = 16  # pixels of a ring from which anything can be told
GAIN = (0.8, 1.25)  # a codec or a sampler shifts contrast by less; more is other content
ALIKE = 0.5  # correlation of the ring before and after below which contrast tells nothing


@dataclass(frozen=True, slots=True)
class Shift:
    """How colours are moved: lab * gain + offset, for L*, a* and b*."""

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def none(self) -> bool:
        """Whether it moves nothing."""
        return self == Shift()

    def applied(self, lab: Floats) -> Floats:
        """Lab colours (..., 3) moved."""
        return lab * np.array(self.gain, np.float32) + np.array(self.offset, np.float32)


def matched(painted: Pixels, original: Pixels, mask: Mask, ring: int = RING) -> Pixels:
    """The painted picture with the shift taken out that the original's colours underwent in it.

    Both have one size, and `painted` is what came from the model, before it is pasted. Compared are
    the pixels within `ring` of the mask and outside it: there the model was to give back the
    original. Pixels whose mask is 0 stay as they are, byte for byte. Where the ring tells nothing
    (too few pixels, or none was changed) the picture comes back as it is.
    Raises RequestError if the sizes differ.
    """
    shift = shift_around(painted, original, mask, ring)
    if shift.none:
        return painted.copy()
    inside = mask > 0
    result = painted.copy()
    result[inside] = to_pixels(shift.applied(to_lab(painted[inside])))
    return result


def shift_around(painted: Pixels, original: Pixels, mask: Mask, ring: int = RING) -> Shift:
    """What brings the painted pixels just outside the mask to the original's, as `matched` uses it.

    Pixels that are the same in both are left out: they were put back already, or never painted.
    """
    check_fit(mask, original)
    if painted.shape != original.shape:
        raise RequestError(
            f"to match colours, both pictures must have one size; got {painted.shape[1]} x "
            f"{painted.shape[0]} and {original.shape[1]} x {original.shape[0]}."
        )
    inside = (mask > 0).astype(np.float32)
    around = (grown(inside, ring) > inside) & (painted != original).any(axis=2)
    if around.sum() < FEWEST:
        return Shift()
    return shift_between(to_lab(painted[around]), to_lab(original[around]))


def shift_between(lab: Floats, reference: Floats) -> Shift:
    """What moves Lab colours (N, 3) to their references (N, 3): mean to mean, spread to spread.

    The middle half of the differences counts, so that a thing that was moved or repainted does not.
    Contrast is matched only where both rise and fall together, and by at most `GAIN`.
    """
    gains, offsets = [], []
    apart = np.abs(reference - lab - np.median(reference - lab, axis=0)).sum(axis=1)
    middle = apart <= np.median(apart)
    ours, theirs = (values[middle].astype(np.float64) for values in (lab, reference))
    for channel in range(3):
        x, y = ours[:, channel], theirs[:, channel]
        gain = _gain(x - x.mean(), y - y.mean())
        gains.append(gain)
        offsets.append(float(y.mean() - gain * x.mean()))
    return Shift((gains[0], gains[1], gains[2]), (offsets[0], offsets[1], offsets[2]))


def _gain(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    spread = float(np.sqrt((x**2).sum() * (y**2).sum()))
    # Half a unit of Lab is what rounding to 8 bits makes of a flat colour
    if x.std() < 0.5 or y.std() < 0.5 or float((x * y).sum()) < ALIKE * spread:
        return 1.0
    return float(np.clip(y.std() / x.std(), *GAIN))


def corrected(pixels: Pixels, reference: Pixels) -> Pixels:
    """The picture with the reference's distribution of colours but its own lightness; A1111's.

    Histograms of 8-bit L*, a* and b* are matched one by one, then the luminosity of the picture as
    it was is put back. The sizes may differ.
    """
    ours, theirs = _lab_levels(pixels), _lab_levels(reference)
    for channel in range(3):
        ours[..., channel] = _matched_levels(ours[..., channel], theirs[..., channel])
    levels = ours.astype(np.float32)
    lab = levels * np.array([100 / 255, 1, 1], np.float32) - np.array([0, 128, 128], np.float32)
    return _with_luminosity(to_pixels(lab), pixels)


def _lab_levels(pixels: Pixels) -> NDArray[np.uint8]:
    """Lab in a byte each, as OpenCV keeps it: L* * 255 / 100, a* + 128, b* + 128."""
    return rounded(
        to_lab(pixels) * np.array([2.55, 1, 1], np.float32) + np.array([0, 128, 128], np.float32)
    )


def _matched_levels(levels: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Levels mapped so that as many lie below each as in the reference, fractions cut off."""
    counts = np.bincount(levels.ravel(), minlength=256)
    theirs = np.bincount(reference.ravel(), minlength=256)
    present = np.flatnonzero(theirs)
    shares = np.cumsum(theirs[present]) / reference.size
    table = np.interp(np.cumsum(counts) / levels.size, shares, present)
    return table.astype(np.uint8)[levels]


def _with_luminosity(pixels: Pixels, source: Pixels) -> Pixels:
    """Hue and saturation of `pixels` with the luminosity of `source` (PDF's blend mode).

    ISO 32000-1, 11.3.5.3: all channels move by the difference, and are drawn towards the luminosity
    where they leave 0 to 1.
    """
    colours = pixels.astype(np.float32) / np.float32(255)
    wanted = (source.astype(np.float32) / np.float32(255)) @ LUMA
    moved = colours + (wanted - colours @ LUMA)[..., None]
    light = wanted[..., None]
    low, high = moved.min(axis=2, keepdims=True), moved.max(axis=2, keepdims=True)
    spread = moved - light
    tiny = np.float32(1e-9)
    moved = np.where(low < 0, light + spread * light / np.maximum(light - low, tiny), moved)
    # As A1111's library does: the second rule starts from what the first one left
    spread = moved - light
    moved = np.where(high > 1, light + spread * (1 - light) / np.maximum(high - light, tiny), moved)
    return rounded((moved * 255).astype(np.float32))
