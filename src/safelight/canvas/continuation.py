"""Fills that continue the picture into what is missing: by context, by mirror, by its edge.

`continued` looks at the border alone, never at what lies deep in the picture: a mirror draws every
object a second time. Of each octave of detail it asks whether it is texture along that stretch of
the border, or the side of some thing. Things run straight on from the nearest known pixel, blurred
the more the further in, so that a horizon stays and stripes dissolve. Texture begins as its mirror
image, so that it meets itself, and turns into noise of the same octave, strength and colours.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safelight.canvas.arrays import Floats, Mask, Pixels, Size, check_fit, rounded, scaled, size_of
from safelight.canvas.distance import Nearest, nearest
from safelight.canvas.fill import mean_colour
from safelight.canvas.masks import grown
from safelight.canvas.region import bounding_box

FADE = 8.0  # pixels inwards in which the sides of things lose the finest octave; the next: double
REACH = 8.0  # pixels inwards in which the finest octave is mirrored no more; the next takes double
TEXTURE_OCTAVES = 5  # octaves that may be texture: wider ones would be clouds
STEEPEST = 2.0  # how much stronger texture may be than that of the next finer octave
STRIP = 4  # cells of an octave behind the border whose texture goes on
SMALLEST = 4  # pixels on the shorter side of the coarsest octave
WINDOW = 8  # cells of an octave over which the strength of a texture is taken
SPARSE = (
    0.6760  # E[sqrt|z|]^4 of a normal z: a deviation from the mean root, which edges hardly move
)


def continued(pixels: Pixels, mask: Mask, seed: int = 0) -> Pixels:
    """The picture with everything whose mask is above 0 filled by continuing what is around.

    Pixels whose mask is 0 stay, byte for byte. `seed` draws the texture. Without any pixel to
    continue, the mean colour is taken. Raises RequestError if the mask has another size.
    """
    known = _known(pixels, mask)
    if known.all() or not known.any():
        return _trivial(pixels, mask)
    near = nearest(known)
    edge, mirror = (
        _octaves(picture.astype(np.float32))
        for picture in (pixels[near.rows, near.columns], _mirrored(pixels, known, near))
    )
    filled = _woven(edge, mirror, known, near, np.random.default_rng(seed))
    return np.where(known[..., None], pixels, rounded(filled))


def mirrored(pixels: Pixels, mask: Mask) -> Pixels:
    """The picture with everything whose mask is above 0 mirrored across the nearest known pixel.

    Over and over where the hole is wider than the picture. Raises RequestError as `continued`.
    """
    known = _known(pixels, mask)
    if known.all() or not known.any():
        return _trivial(pixels, mask)
    return _mirrored(pixels, known, nearest(known))


def edged(pixels: Pixels, mask: Mask) -> Pixels:
    """The picture with the nearest known pixel's colour wherever the mask is above 0.

    Raises RequestError as `continued`.
    """
    known = _known(pixels, mask)
    if known.all() or not known.any():
        return _trivial(pixels, mask)
    near = nearest(known)
    return pixels[near.rows, near.columns]


CONTINUATIONS: Mapping[str, Callable[[Pixels, Mask], Pixels]] = {
    "context": continued,
    "mirror": mirrored,
    "edge": edged,
}


def _known(pixels: Pixels, mask: Mask) -> NDArray[np.bool_]:
    check_fit(mask, pixels)
    return mask <= 0


def _trivial(pixels: Pixels, mask: Mask) -> Pixels:
    """Nothing to fill, or nothing to fill it from."""
    if not mask.any():
        return pixels.copy()
    return np.broadcast_to(mean_colour(pixels, mask), pixels.shape).copy()


def _mirrored(pixels: Pixels, known: NDArray[np.bool_], near: Nearest) -> Pixels:
    """Each unknown pixel from its mirror image across the nearest known one.

    A mirror image beyond the known pixels' bounding box is folded back into it; one that is unknown
    itself is sought nearer and nearer to the border.
    """
    box = bounding_box(known.astype(np.float32))
    assert box is not None, "no pixel is known"
    rows, columns = np.nonzero(~known)
    near_row, near_column = near.rows[rows, columns], near.columns[rows, columns]
    from_row, from_column = near_row.copy(), near_column.copy()
    unfilled = np.arange(len(rows))
    for share in (1.0, 0.5, 0.25, 0.125):
        row = _step(near_row[unfilled], rows[unfilled], share, box.top, box.bottom)
        column = _step(near_column[unfilled], columns[unfilled], share, box.left, box.right)
        found = known[row, column]
        from_row[unfilled[found]], from_column[unfilled[found]] = row[found], column[found]
        unfilled = unfilled[~found]
    result = pixels.copy()
    result[rows, columns] = pixels[from_row, from_column]
    return result


def _step(
    near: NDArray[np.int64], at: NDArray[np.int64], share: float, low: int, high: int
) -> NDArray[np.int64]:
    """From the nearest known place away from `at`, by a share of the way, folded into low..high."""
    there = near + np.rint((near - at) * share).astype(np.int64) - low
    period = max(2 * (high - low - 1), 1)
    there %= period
    folded: NDArray[np.int64] = low + np.minimum(there, period - there)
    return folded


Octaves = tuple[list[Floats], Floats]


def _octaves(picture: Floats) -> Octaves:
    """Octaves of detail, finest first, each half as large as the one before; and what is left."""
    bands = []
    while min(size_of(picture)) >= 2 * SMALLEST:
        size = size_of(picture)
        lower = _halved(picture)
        bands.append(picture - scaled(lower, size, Image.Resampling.BILINEAR))
        picture = lower
    return bands, picture


def _halved(picture: Floats) -> Floats:
    width, height = size_of(picture)
    return scaled(picture, ((width + 1) // 2, (height + 1) // 2), Image.Resampling.BILINEAR)


class Texture(NamedTuple):
    """What one octave is like along each pixel's nearest stretch of the border."""

    strength: Floats  # (h, w, 3), the deviation that is texture
    share: Floats  # (h, w, 1), 0: sides of things; 1: texture


def _woven(
    edge: Octaves,
    mirror: Octaves,
    known: NDArray[np.bool_],
    near: Nearest,
    rng: np.random.Generator,
) -> Floats:
    """The octaves of the edge and of the mirror, faded by the distance, and noise for both."""
    distance = near.distance()
    bands = mirror[0][:TEXTURE_OCTAVES]
    strips = [_strip(known, size_of(band)) for band in bands]
    textures = _textures(bands, strips, near)
    result = edge[1]
    for octave in reversed(range(len(edge[0]))):
        streaks, texture = edge[0][octave], mirror[0][octave]
        size = size_of(streaks)
        far = scaled(distance, size, Image.Resampling.BOX)[..., None]
        kept = np.clip(1 + octave - np.log2(1 + far / np.float32(FADE)), 0, 1)
        result = scaled(result, size, Image.Resampling.BILINEAR)
        if octave >= len(textures):
            result += kept * streaks
            continue
        own = np.clip(1 - far / np.float32(REACH * 2**octave), 0, 1)
        strength, share = (scaled(x, size, Image.Resampling.BILINEAR) for x in textures[octave])
        result += (1 - share) * kept * streaks + share * own * texture
        missing = np.sqrt(np.clip(1 - (1 - share) * kept**2 - share * own**2, 0, 1))
        noise = _coloured(band=texture, strip=strips[octave], rng=rng)
        result += missing * strength * noise
    return result


def _strip(known: NDArray[np.bool_], size: Size) -> Mask:
    """How much of each cell (h, w) of an octave is known, within `STRIP` cells of the border."""
    share = scaled(known.astype(np.float32), size, Image.Resampling.BOX)
    return share * grown((share < 1).astype(np.float32), STRIP)


def _textures(bands: list[Floats], strips: list[Mask], near: Nearest) -> list[Texture]:
    """What each octave is like along the border, finest first.

    A picture's texture has about as much strength in each octave (Field 1987): where one has far
    more than the next finer one, it is the side of a thing, and is held to `STEEPEST` times that.
    """
    textures: list[Texture] = []
    for band, strip in zip(bands, strips, strict=True):
        deviation, share = _strength(band, strip, near)
        if textures:
            finer = scaled(textures[-1].strength, size_of(deviation), Image.Resampling.BOX)
            bounded = np.minimum(deviation, np.float32(STEEPEST) * finer)
            share = share * ((bounded.sum(2) + 0.1) / (deviation.sum(2) + 0.1))[..., None]
            deviation = bounded
        textures.append(Texture(deviation * share, share))
    return textures


def _coloured(band: Floats, strip: Mask, rng: np.random.Generator) -> Floats:
    """Noise of a band's octave of deviation 1, its colours correlated as along the border."""
    size = size_of(band)
    white = rng.standard_normal(band.shape, np.float32)
    white -= scaled(_halved(white), size, Image.Resampling.BILINEAR)
    coloured: Floats = white @ _mixing(band[strip > 0]).T
    coloured /= coloured.std(axis=(0, 1)) + np.float32(1e-6)
    return coloured


def _mixing(details: Floats) -> Floats:
    """A matrix (3, 3) that gives independent noise the correlation of details (N, 3)."""
    covariance = np.cov(details.T.astype(np.float64)) if len(details) > 1 else np.zeros((3, 3))
    deviation = np.sqrt(np.diag(covariance)) + 1e-6
    correlation = covariance / np.outer(deviation, deviation)
    lower: Floats = np.linalg.cholesky(correlation + 1e-3 * np.eye(3)).astype(np.float32)
    return lower


def _strength(band: Floats, strip: Mask, near: Nearest) -> Texture:
    """The deviation of a band at each pixel's stretch of the border, and how far it is texture.

    At a quarter of the size. Texture varies both ways; the side of a thing varies across itself
    alone, which the ratio of the slopes down and to the right tells. Roots are averaged and not
    squares: a lone line counts for little.
    """
    size = size_of(band)
    rows, columns = np.nonzero(strip)
    here, share = band[rows, columns], strip[rows, columns, None]
    below = band[np.minimum(rows + 1, size[1] - 1), columns]
    beside = band[rows, np.minimum(columns + 1, size[0] - 1)]
    slopes = [np.abs(other - here).mean(axis=1, keepdims=True) for other in (below, beside)]
    sums = np.zeros((*band.shape[:2], 6), np.float32)
    roots = np.sqrt(np.concatenate([np.abs(here), *slopes], axis=1))
    sums[rows, columns] = np.concatenate([roots * share, share], axis=1)
    cells: Size = (max(size[0] // WINDOW, 1), max(size[1] // WINDOW, 1))
    quarter: Size = (max(size[0] // 4, 1), max(size[1] // 4, 1))
    means = scaled(scaled(sums, cells, Image.Resampling.BOX), quarter, Image.Resampling.BILINEAR)
    mean = (means[..., :5] / (means[..., 5:] + np.float32(1e-6))) ** 2
    down, right = mean[..., 3], mean[..., 4]
    both_ways = (np.minimum(down, right) + 0.01) / (np.maximum(down, right) + 0.01)
    share = np.clip((both_ways - 0.3) / 0.4, 0, 1)
    found = np.concatenate([mean[..., :3] / np.float32(SPARSE**0.5), share[..., None]], axis=2)
    found = _at_border(found, near)
    return Texture(found[..., :3], found[..., 3:])


def _at_border(values: Floats, near: Nearest) -> Floats:
    """The values (h, w, C) of each pixel's nearest known one, at a coarser size than `near`."""
    height, width = values.shape[:2]
    full_height, full_width = near.rows.shape
    middle = np.ix_(
        (np.arange(height) * 2 + 1) * full_height // (2 * height),
        (np.arange(width) * 2 + 1) * full_width // (2 * width),
    )
    rows = near.rows[middle] * height // full_height
    columns = near.columns[middle] * width // full_width
    there: Floats = values[rows, columns]
    return there
