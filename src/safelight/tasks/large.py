"""Settings of pictures larger than a model was made for, and of prompts that count in places.

Importing this module does not import torch.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from safelight.tasks.settings import NUMBER, FileName, Fraction, Name, Prompt, Settings, Side

LATENT_UPSCALERS = (
    "Latent",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
    "Latent (nearest)",
    "Latent (nearest-exact)",
)
RESAMPLERS = ("None", "Lanczos", "Nearest")  # upscalers of pixels without a network
_PLAIN = {name.lower(): name for name in (*LATENT_UPSCALERS, *RESAMPLERS)}
DOUBLE = 2.0  # what a second pass grows to unless told (A1111)

Seamless = Literal["none", "x", "y", "both"]
Weighting = Literal["uniform", "gaussian"]


def is_plain(upscaler: str) -> bool:
    """Whether an upscaler is one by name, which needs no file."""
    return upscaler.strip().lower() in _PLAIN


def _known(name: str) -> str:
    """A name without a file as A1111 writes it, whatever its case; a file's stays."""
    return _PLAIN.get(name.strip().lower(), name)


def _whole(side: int) -> int:
    if side % 8:
        raise PydanticCustomError(
            "sentence",
            "hires.size must be multiples of 8, or 0 to keep the aspect; got {side}.",
            {"side": side},
        )
    return side


Upscaler = Annotated[FileName, AfterValidator(_known)]  # a name of _PLAIN, or a file
Scale = Annotated[float, Field(gt=0, le=16), NUMBER]
SecondSide = Annotated[int, Field(ge=0, le=8192), AfterValidator(_whole), NUMBER]


class Hires(Settings):
    """A second pass over the first one's picture, made larger (A1111's "hires fix").

    upscaler: what makes it larger: a name of LATENT_UPSCALERS or RESAMPLERS, or the file of an
        ESRGAN-like network.
    scale: how much larger each side is, 2 unless said; or size: width and height, of which one may
        be 0 to keep the aspect. Both cut what sticks out.
    strength: how much is drawn anew, by A1111's rule for this pass: all of its steps are run.
    steps: 0 takes those of the first pass. What is None is as in the first pass.
    """

    place = "hires."
    roles: ClassVar[Mapping[str, str]] = {"upscaler": "upscaler"}
    upscaler: Upscaler = "Latent"
    scale: Scale | None = None
    size: tuple[SecondSide, SecondSide] | None = None
    strength: Fraction = 0.7
    steps: Annotated[int, Field(ge=0, le=1000), NUMBER] = 0
    prompt: Prompt | None = None
    negative_prompt: Prompt | None = None
    cfg_scale: Annotated[float, Field(ge=0, le=100), NUMBER] | None = None
    sampler: Name | None = None
    schedule: Name | None = None

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.scale is not None and self.size is not None:
            raise PydanticCustomError(
                "sentence", "hires.scale and hires.size both say how large; leave one of them out."
            )
        if self.size == (0, 0):
            raise PydanticCustomError(
                "sentence", "hires.size cannot be 0x0; give a width, a height, or both."
            )
        return self


def second_pixels(hires: Hires, width: int, height: int) -> int:
    """About how many pixels the second pass of a drawing of this size has."""
    if hires.size is None:
        return int(width * height * (hires.scale or DOUBLE) ** 2)
    wide, high = hires.size
    return (wide or high * width // height) * (high or wide * height // width)


class Tiles(Settings):
    """The model looks at the picture through overlapping windows, whose answers are averaged.

    MultiDiffusion (Bar-Tal et al. 2023, arXiv:2302.08113) with weighting "uniform"; Mixture of
    Diffusers (Jimenez 2023, arXiv:2302.02412) with "gaussian", which counts a window less towards
    its edges.
    size: of a window in pixels, the model's own unless given; overlap: pixels that windows share
    at least, a quarter of their smaller side unless given; batch: windows of one network call.
    """

    place = "tiles."
    size: tuple[Side, Side] | None = None
    overlap: Annotated[int, Field(ge=0, le=8184), NUMBER] | None = None
    weighting: Weighting = "gaussian"
    batch: Annotated[int, Field(ge=1, le=64), NUMBER] = 1

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.size is not None and self.overlap is not None and self.overlap >= min(self.size):
            raise PydanticCustomError(
                "sentence",
                "tiles.overlap must be below the sides of a tile; got {overlap} and {width} x "
                "{height}.",
                {"overlap": self.overlap, "width": self.size[0], "height": self.size[1]},
            )
        return self


class Region(Settings):
    """A prompt for a part of the picture, as it is drawn.

    box: "left,top,right,bottom" in pixels or in parts of the picture, or one of all, left, right,
        top, bottom, middle; or mask: a picture whose white part is meant, stretched to the drawing.
    weight: how much it counts against other regions where they lie over one another.
    """

    place = "regions."
    roles: ClassVar[Mapping[str, str]] = {"mask": "region mask"}
    prompt: Prompt
    negative_prompt: Prompt | None = None  # None: that of the picture
    box: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    mask: FileName | None = None
    weight: Annotated[float, Field(gt=0, le=1000), NUMBER] = 1.0

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.box is None) == (self.mask is None):
            raise PydanticCustomError(
                "sentence", "a region is a box or a mask; give one of them, such as box left."
            )
        return self
