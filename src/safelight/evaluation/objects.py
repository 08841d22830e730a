"""Objects on a plain background: where they are, how large, which colour, and cut out for a judge.

No network: an object is what differs from the border. So it holds for pictures with a plain
background only, which `background.border_spread` tells.

Shapes: B pictures, S pixels of a side. Places are shares of the side, x to the right, y downwards.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.evaluation.background import border_colour
from safelight.evaluation.components import filled, labelled
from safelight.measures.colours import RECOLOUR_NAMES, RECOLOURS, hsv_rgb
from safelight.measures.lab import hue_chroma, lab, unit_colours
from safelight.models.evaluator import at_size

Side = Literal["left", "right", "above", "below"]

FAR = 18.0  # in CIELAB: a pixel this far from the border's colour belongs to an object
LEAST = 0.003  # of the picture: smaller areas are specks
REACH = 1 / 128  # of the side: parts of an object may lie twice as far apart
RIM = 1 / 64  # of the side: the outermost pixels belong to no object
PALE = 18.0  # chroma below which a pixel has no hue of its own
APART = 0.08  # of the side: centres nearer than this stand in no relation


@dataclass(frozen=True, slots=True)
class Blob:
    """One connected area: the numbers of its parts in the label map, its size, centre and box."""

    parts: tuple[int, ...]
    area: float  # share of the picture
    x: float
    y: float
    left: float
    top: float
    right: float
    bottom: float

    @property
    def side(self) -> float:
        """The longer side of the box."""
        return max(self.right - self.left, self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class Segments:
    """The objects of a batch: label maps, and for each picture its blobs, largest first."""

    labels: Tensor  # (B, S, S) int64; 0 is background or specks
    blobs: tuple[tuple[Blob, ...], ...]
    borders: Tensor  # (B, 3) in [0, 1]


def segmented(
    pictures: Tensor, *, far: float = FAR, least: float = LEAST, reach: float = REACH
) -> Segments:
    """What differs from the border colour, in connected areas without holes.

    pictures (B, 3, S, S) in [-1, 1]. far: distance in CIELAB from the border's median; least: the
    smallest area, as a share; reach: areas at most twice this apart are one.
    """
    borders = border_colour(pictures)
    apart = lab(unit_colours(pictures)) - lab(borders)[:, None, None]
    mask = filled(_off_rim(torch.linalg.vector_norm(apart, dim=-1) > far))
    radius = round(reach * mask.shape[-1])
    grown = F.max_pool2d(mask.float()[:, None], 2 * radius + 1, 1, radius)[:, 0] > 0
    labels, counts = labelled(grown)
    labels = labels * mask
    return _described(labels, int(counts.max()) if len(counts) else 0, least, borders)


def merged(blobs: Sequence[Blob]) -> Blob:
    """Several blobs as one."""
    area = sum(b.area for b in blobs)
    return Blob(
        tuple(part for b in blobs for part in b.parts),
        area,
        sum(b.x * b.area for b in blobs) / area,
        sum(b.y * b.area for b in blobs) / area,
        min(b.left for b in blobs),
        min(b.top for b in blobs),
        max(b.right for b in blobs),
        max(b.bottom for b in blobs),
    )


def grouped(blobs: Sequence[Blob], count: int) -> tuple[Blob, ...]:
    """At most `count` blobs: the smallest joins the one nearest to it until so many are left.

    Small parts (steam, a string, a spark) so find the object that they belong to.
    """
    groups = sorted(blobs, key=lambda b: -b.area)
    while len(groups) > max(1, count):
        groups = _joined(groups)
    return tuple(groups)


def counted(blobs: Sequence[Blob], *, share: float = 0.3) -> tuple[Blob, ...]:
    """The blobs that count as objects: those below `share` of the largest join their neighbour."""
    groups = sorted(blobs, key=lambda b: -b.area)
    while len(groups) > 1 and groups[-1].area < share * groups[0].area:
        groups = _joined(groups)
    return tuple(groups)


def relation(one: Blob, other: Blob, *, apart: float = APART) -> Side | None:
    """Where the first stands seen from the second, along the longer axis; None if too near."""
    right, down = one.x - other.x, one.y - other.y
    if max(abs(right), abs(down)) < apart:
        return None
    if abs(right) >= abs(down):
        return "right" if right > 0 else "left"
    return "below" if down > 0 else "above"


def crops(
    pictures: Tensor,
    segments: Segments,
    wanted: Iterable[tuple[int, Blob]],
    *,
    size: int,
    margin: float = 0.1,
) -> Tensor:
    """Each wanted blob alone on its picture's background, filling a square: (N, 3, size, size).

    wanted: the number of a picture, and a blob of it. margin: the share of the square left free on
    every side of the longer one. Other objects are painted over with the border's colour.
    """
    cut = [_crop(pictures[i], segments, i, blob, margin) for i, blob in wanted]
    if not cut:
        return pictures.new_zeros(0, 3, size, size, dtype=torch.float32)
    return torch.cat([at_size(picture[None], size) for picture in cut])


def dominant_hue(pictures: Tensor, segments: Segments, picture: int, blob: Blob) -> str | None:
    """The name of the colour that most of a blob has, of colours.RECOLOUR_NAMES.

    Each pixel votes, with its chroma, for the name of the nearest hue. None if more than half of
    the blob has no hue (white, grey, black).
    """
    pixels = lab(unit_colours(pictures[picture])[_mask(segments, picture, blob)])  # (P, 3)
    hue, chroma = hue_chroma(pixels)
    vivid = chroma > PALE
    if 2 * int(vivid.sum()) < len(vivid):
        return None
    known, _ = hue_chroma(lab(_recolours().to(pixels)))
    turn = torch.remainder(hue[:, None] - known + torch.pi, 2 * torch.pi) - torch.pi
    votes = torch.bincount(
        turn.abs().argmin(dim=1)[vivid], weights=chroma[vivid], minlength=len(RECOLOUR_NAMES)
    )
    return RECOLOUR_NAMES[int(votes.argmax())]


def _recolours() -> Tensor:
    return torch.tensor([hsv_rgb(*RECOLOURS[name]) for name in RECOLOUR_NAMES]) / 255


def _off_rim(mask: Tensor) -> Tensor:
    """The masks without their outermost pixels.

    Decoders err along the edge, and a thin frame would enclose the whole picture as one object.
    """
    side = mask.shape[-1]
    width = round(side * RIM)
    inside = torch.zeros_like(mask[0])
    inside[width : side - width, width : side - width] = True
    return mask & inside


def _joined(groups: Sequence[Blob]) -> list[Blob]:
    """The groups with the last, smallest one merged into the nearest other."""
    *rest, least = groups
    nearest = min(rest, key=lambda b: _gap(b, least))
    groups = [merged([b, least]) if b is nearest else b for b in rest]
    return sorted(groups, key=lambda b: -b.area)


def _gap(one: Blob, other: Blob) -> float:
    """The distance between two boxes; between their centres, scaled down, if they overlap."""
    across = max(one.left - other.right, other.left - one.right, 0.0)
    down = max(one.top - other.bottom, other.top - one.bottom, 0.0)
    return hypot(across, down) + 1e-3 * hypot(one.x - other.x, one.y - other.y)


def _mask(segments: Segments, picture: int, blob: Blob) -> Tensor:
    labels = segments.labels[picture]
    return torch.isin(labels, torch.tensor(blob.parts, device=labels.device))


def _crop(picture: Tensor, segments: Segments, number: int, blob: Blob, margin: float) -> Tensor:
    """The square around a blob, (3, s, s), continued by the background past the picture's edge."""
    size = picture.shape[-1]
    mask = _mask(segments, number, blob)
    plain = (segments.borders[number] * 2 - 1)[:, None, None].to(picture)
    other = (segments.labels[number] > 0) & ~mask
    # A rim of two pixels around the others: their soft edges would stay as ghosts.
    other = F.max_pool2d(other.float()[None], 5, 1, 2)[0] > 0
    alone = torch.where(other & ~mask, plain, picture)
    side = max(2, round(blob.side * size / (1 - 2 * margin)))
    left = round((blob.left + blob.right) / 2 * size - side / 2)
    top = round((blob.top + blob.bottom) / 2 * size - side / 2)
    canvas = plain.expand(3, side, side).clone()
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, size), min(top + side, size)
    canvas[:, y0 - top : y1 - top, x0 - left : x1 - left] = alone[:, y0:y1, x0:x1]
    return canvas


def _described(labels: Tensor, most: int, least: float, borders: Tensor) -> Segments:
    """The blobs of label maps whose numbers go up to `most`; specks are taken off the maps."""
    batch, height, width = labels.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=labels.device, dtype=torch.float64),
        torch.arange(width, device=labels.device, dtype=torch.float64),
        indexing="ij",
    )
    flat = labels.flatten(1)
    cells = (batch, most + 1)

    def gathered(values: Tensor, how: str, start: float) -> Tensor:
        empty = torch.full(cells, start, device=labels.device, dtype=torch.float64)
        values = values.flatten().expand(batch, -1)
        return empty.scatter_reduce(1, flat, values, how)

    area = gathered(torch.ones_like(x), "sum", 0.0)
    sums = [gathered(axis, "sum", 0.0) / area.clamp(min=1) for axis in (x, y)]
    low = [gathered(axis, "amin", float("inf")) for axis in (x, y)]
    high = [gathered(axis, "amax", float("-inf")) for axis in (x, y)]
    kept = area >= max(1.0, least * height * width)
    kept[:, 0] = False
    table = torch.stack([area, *sums, *low, *high], dim=-1).cpu()
    keep = kept.cpu()
    blobs = []
    for b in range(batch):
        found = [
            _blob(number, table[b, number].tolist(), height, width)
            for number in keep[b].nonzero().flatten().tolist()
        ]
        blobs.append(tuple(sorted(found, key=lambda blob: -blob.area)))
    return Segments(labels * kept.gather(1, flat).view_as(labels), tuple(blobs), borders)


def _blob(number: int, row: Sequence[float], height: int, width: int) -> Blob:
    area, x, y, left, top, right, bottom = row
    return Blob(
        (number,),
        area / (height * width),
        (x + 0.5) / width,
        (y + 0.5) / height,
        left / width,
        top / height,
        (right + 1) / width,
        (bottom + 1) / height,
    )
