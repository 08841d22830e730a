"""The first pass brought to the size of the second (hires fix): names and rules are A1111's.

Shapes: B pictures, C latent channels, h w latent height and width. Sizes are (width, height) in
pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from safelight.errors import RequestError

Size = tuple[int, int]  # (width, height)


class Interpolation(NamedTuple):
    """What torch's `interpolate` is asked for."""

    mode: str
    antialias: bool


LATENT_UPSCALERS: Mapping[str, Interpolation] = MappingProxyType(
    {
        "Latent": Interpolation("bilinear", False),
        "Latent (antialiased)": Interpolation("bilinear", True),
        "Latent (bicubic)": Interpolation("bicubic", False),
        "Latent (bicubic antialiased)": Interpolation("bicubic", True),
        "Latent (nearest)": Interpolation("nearest", False),
        "Latent (nearest-exact)": Interpolation("nearest-exact", False),
    }
)


def latent_upscaler(name: str) -> str | None:
    """The latent upscaler's name as A1111 writes it, whatever the case; None if it is none."""
    return next((n for n in LATENT_UPSCALERS if n.lower() == name.strip().lower()), None)


def enlarged_latents(latents: Tensor, height: int, width: int, name: str = "Latent") -> Tensor:
    """Latents (B, C, h, w) interpolated to (B, C, height, width), in their own type.

    Raises RequestError if the name is not one of LATENT_UPSCALERS.
    """
    known = latent_upscaler(name)
    if known is None:
        raise RequestError(
            f"unknown latent upscaler {name!r}; choose one of {', '.join(LATENT_UPSCALERS)}."
        )
    mode, antialias = LATENT_UPSCALERS[known]
    return F.interpolate(latents, size=(height, width), mode=mode, antialias=antialias)


@dataclass(frozen=True, slots=True)
class Growth:
    """How a first pass becomes a second: enlarged to `size`, then cut in the middle to `frame`."""

    size: Size
    frame: Size

    def cut(self, latents: Tensor, factor: int = 8) -> Tensor:
        """The middle of latents of `size` that is the frame; an odd one more is cut after it."""
        height, width = latents.shape[2:]
        down, along = height - self.frame[1] // factor, width - self.frame[0] // factor
        return latents[
            :, :, down // 2 : height - (down + 1) // 2, along // 2 : width - (along + 1) // 2
        ]


def growth(
    size: Size, *, scale: float = 2.0, width: int = 0, height: int = 0, factor: int = 8
) -> Growth:
    """What a picture grows to, times `scale` or to a width and height; A1111's rule.

    A width or height alone keeps the aspect; both cover the frame and cut what sticks out. Every
    side is rounded down to a multiple of the factor. Raises RequestError unless scale is above 0
    and every side is at least one factor.
    """
    if width < 0 or height < 0 or not 0 < scale < 1e4:
        raise RequestError(
            "the second pass needs a scale above 0, or a width and height of 1 or more; got scale "
            f"{scale}, width {width} and height {height}."
        )
    own_width, own_height = size
    if not width and not height:
        grown = (int(own_width * scale), int(own_height * scale))
    elif width and (not height or own_width / own_height < width / height):
        grown = (width, width * own_height // own_width)
    else:
        grown = (height * own_width // own_height, height)
    whole = _rounded(grown, factor)
    frame = _rounded((width, height), factor) if width and height else whole
    if min(*whole, *frame) < factor:
        raise RequestError(
            f"the second pass would be {grown[0]} x {grown[1]}; its sides must be {factor} or more."
        )
    return Growth(whole, frame)


def second_steps(steps: int, second: int = 0) -> int:
    """The steps of the second pass: as many as of the first if 0.

    All of them are run, whatever its strength: plan them with the strength rule "a1111_exact".
    """
    return second or steps


def _rounded(size: Size, factor: int) -> Size:
    return (size[0] // factor * factor, size[1] // factor * factor)
