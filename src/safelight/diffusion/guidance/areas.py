"""Where each of several prompts counts: boxes and mask pictures as weights on the latents.

Shapes: H W pixels, h w latents (H = factor * h).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safelight.diffusion.guidance.tiled import Window
from safelight.errors import RequestError
from safelight.printable import shown

_EVERYWHERE = 1e-6  # what of a place may be nobody's by rounding


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a picture, in pixels from its top left corner; right and bottom lie outside.

    Raises RequestError unless left < right and top < bottom, all 0 or more.
    """

    left: int
    top: int
    right: int
    bottom: int

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right and 0 <= self.top < self.bottom):
            raise RequestError(
                f"a box goes from its left and top to its right and bottom, from 0 on; got "
                f"{self.left},{self.top},{self.right},{self.bottom}."
            )

    def window(self, factor: int) -> Window:
        """The latents that the box touches."""
        top, left = self.top // factor, self.left // factor
        return Window(top, left, -(-self.bottom // factor) - top, -(-self.right // factor) - left)


Area = Box | NDArray[np.float32]

_NAMED: Mapping[str, tuple[float, float, float, float]] = MappingProxyType(
    {
        "all": (0, 0, 1, 1),
        "left": (0, 0, 0.5, 1),
        "right": (0.5, 0, 1, 1),
        "top": (0, 0, 1, 0.5),
        "bottom": (0, 0.5, 1, 1),
        "middle": (0.25, 0.25, 0.75, 0.75),
    }
)


def parse_box(text: str, width: int, height: int) -> Box:
    """The box that a text names in a picture of width x height pixels.

    "LEFT,TOP,RIGHT,BOTTOM" in pixels ("0,0,256,512") or in parts of the picture ("0,0,0.5,1",
    "0,0,50%,100%"), or one of all, left, right, top, bottom, middle. Numbers are parts if one of
    them has a point or %, or none is above 1. Raises RequestError for anything else, and for a box
    that reaches outside or holds no pixel.
    """
    named = _NAMED.get(text.strip().lower())
    parts = named if named is not None else _parts(text)
    edges = _pixels(text, width, height) if parts is None else _scaled(parts, width, height)
    box = Box(*edges)
    if box.right > width or box.bottom > height:
        raise RequestError(
            f"the box {shown(text)} reaches outside of the picture of {width} x {height}; parts "
            "lie between 0 and 1, pixels within the picture."
        )
    return box


def region_masks(
    areas: Sequence[Area],
    width: int,
    height: int,
    *,
    factor: int = 8,
    feather: int = 0,
    weights: Sequence[float] | None = None,
    background: float | None = None,
    wrap_x: bool = False,
    wrap_y: bool = False,
) -> list[Tensor]:
    """How much each area's prompt counts at each latent, (1, 1, h, w) each; they add up to 1.

    areas: boxes, or masks (H, W) of 0 to 1. feather: pixels over which an edge goes from 1 to 0,
        half of them inside; areas side by side still add up to 1. weights: one for each area,
        where areas lie over one another; 1 unless given.
    background: if given, one more mask comes last, of the prompt for all the picture: it has what
        no area covers, and this share (0 to 1) of what they do.
    wrap_x, wrap_y: the picture continues at its other side, and so does the feather.
    Raises RequestError for sizes that differ or are no multiple of the factor, numbers out of
    range, and places that nobody covers.
    """
    if not areas:
        raise RequestError("regions need at least one area; got none.")
    _check_numbers(width, height, factor, feather, background)
    shares = [1.0] * len(areas) if weights is None else list(weights)
    if len(shares) != len(areas) or not all(0 < share < np.inf for share in shares):
        raise RequestError(f"each of the {len(areas)} areas needs a weight above 0; got {weights}.")
    own = [
        share * _pooled(_feathered(_mask(area, width, height), feather, wrap_x, wrap_y), factor)
        for area, share in zip(areas, shares, strict=True)
    ]
    total = np.sum(own, axis=0)
    covered = np.minimum(np.sum([o / s for o, s in zip(own, shares, strict=True)], axis=0), 1)
    if background is None and covered.min() < _EVERYWHERE:
        empty = float((covered < _EVERYWHERE).mean())
        raise RequestError(
            f"the regions leave {empty:.1%} of the picture to no prompt; add a prompt for all of "
            "it (the background), or areas that cover it."
        )
    rest = 0.0 if background is None else background
    taken = 1.0 if background is None else covered
    scale = (1 - rest) * taken / np.where(total > 0, total, 1)
    masks = [o * scale for o in own]
    if background is not None:
        masks.append((1 - np.sum(masks, axis=0)).clip(0))
    return [torch.from_numpy(mask.astype(np.float32))[None, None] for mask in masks]


def _parts(text: str) -> list[float] | None:
    """Four parts of the whole, or None if the numbers are pixels."""
    words = [word.strip() for word in text.split(",")]
    if len(words) != 4:
        raise _unread(text)
    try:
        numbers = [float(word[:-1]) / 100 if word.endswith("%") else float(word) for word in words]
    except ValueError:
        raise _unread(text) from None
    if not all(np.isfinite(numbers)):
        raise _unread(text)
    fractional = any("." in word or word.endswith("%") for word in words)
    return numbers if fractional or max(numbers) <= 1 else None


def _pixels(text: str, width: int, height: int) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = (int(word) for word in text.split(","))
    except ValueError:
        raise _unread(text) from None
    return left, top, right, bottom


def _scaled(parts: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = parts
    return (
        round(left * width),
        round(top * height),
        round(right * width),
        round(bottom * height),
    )


def _unread(text: str) -> RequestError:
    return RequestError(
        f"cannot read the box {shown(text)}; write LEFT,TOP,RIGHT,BOTTOM in pixels (0,0,256,512) "
        f"or parts of the picture (0,0,0.5,1), or one of {', '.join(_NAMED)}."
    )


def _check_numbers(
    width: int, height: int, factor: int, feather: int, background: float | None
) -> None:
    if width % factor or height % factor or min(width, height) < factor:
        raise RequestError(
            f"a picture with regions must have sides of a multiple of {factor}; got "
            f"{width} x {height}."
        )
    if not 0 <= feather <= min(width, height):
        raise RequestError(
            f"the feather of regions is 0 to {min(width, height)} pixels, the smaller side; got "
            f"{feather}."
        )
    if background is not None and not 0 <= background <= 1:
        raise RequestError(
            f"the background's share of the regions lies between 0 and 1; got {background}."
        )


def _mask(area: Area, width: int, height: int) -> NDArray[np.float64]:
    if isinstance(area, Box):
        mask = np.zeros((height, width))
        if area.right > width or area.bottom > height:
            raise RequestError(
                f"a box up to {area.right},{area.bottom} reaches outside of the picture of "
                f"{width} x {height}."
            )
        mask[area.top : area.bottom, area.left : area.right] = 1
        return mask
    if area.shape != (height, width):
        given = " x ".join(str(n) for n in area.shape[::-1])
        raise RequestError(
            f"the mask of a region is {given}, but the picture is {width} x {height}; resize it."
        )
    if not (area >= 0).all() or not (area <= 1).all():
        raise RequestError("the mask of a region must lie between 0 and 1 everywhere.")
    return area.astype(np.float64)


def _feathered(
    mask: NDArray[np.float64], feather: int, wrap_x: bool, wrap_y: bool
) -> NDArray[np.float64]:
    """The mean over `feather` pixels (made odd) along both axes; edges go on as they end."""
    radius = feather // 2
    if radius:
        mask = _mean_along(mask, radius, wrap_y)
        mask = _mean_along(mask.T, radius, wrap_x).T
    return mask


def _mean_along(mask: NDArray[np.float64], radius: int, wrap: bool) -> NDArray[np.float64]:
    padded = np.pad(mask, ((radius + 1, radius), (0, 0)), mode="wrap" if wrap else "edge")
    sums = padded.cumsum(axis=0)
    length = 2 * radius + 1
    means: NDArray[np.float64] = (sums[length:] - sums[:-length]) / length
    return means.clip(0, 1)


def _pooled(mask: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    height, width = mask.shape
    cells = mask.reshape(height // factor, factor, width // factor, factor)
    return np.asarray(cells.mean(axis=(1, 3)))
