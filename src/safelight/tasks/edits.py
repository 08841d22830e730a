"""What a drawing starts from besides words: a picture, a mask, borders to grow, maps to follow.

Each group is one frozen part of a `Request`. Pictures are named by their files; `File` marks the
settings that name one, with the role under which a recipe remembers its content.
Importing this module does not import torch.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from safelight.tasks.large import LATENT_UPSCALERS, Scale, Upscaler
from safelight.tasks.settings import NUMBER, FileName, Fraction, Name, Prompt, Settings

StrengthRule = Literal["a1111", "a1111_exact", "diffusers", "comfy"]
Resize = Literal["just", "crop", "fill", "latent"]
MaskContent = Literal["original", "fill", "context", "noise", "nothing"]
BorderFill = Literal["context", "mirror", "edge", "noise"]

Pixels = Annotated[int, Field(ge=0, le=8192), NUMBER]


class Source(Settings):
    """The picture that is changed (SDEdit, Meng et al. 2021, arXiv:2108.01073).

    strength: how much of the noise it is given: 0 returns it, 1 keeps next to nothing of it.
    strength_rule: how strength and steps become the steps that are run, as a program does it.
    resize: how it is brought to the size that is drawn: stretched, cropped, filled up at its
        sides, or stretched as latents.
    scale: the size that is drawn, in sizes of the picture, where no width and height are given.
    upscaler: what makes it larger: a name of RESAMPLERS, or the file of an ESRGAN-like network.
    redraw: False makes it larger and draws nothing, so that no model is needed.
    loops: draw again from what was drawn, so many times in all, with strengths that go from
        `strength` to `last_strength`.
    """

    place = "source."
    roles: ClassVar[Mapping[str, str]] = {"picture": "source", "upscaler": "upscaler"}
    picture: FileName
    strength: Fraction = 0.75
    strength_rule: StrengthRule = "a1111"
    resize: Resize = "just"
    scale: Scale | None = None
    upscaler: Upscaler | None = None  # None: as `resize` does, with Lanczos
    redraw: bool = True
    colour_correction: bool = False  # afterwards, to the colours of the source
    loops: Annotated[int, Field(ge=1, le=100), NUMBER] = 1
    last_strength: Fraction | None = None

    @model_validator(mode="after")
    def _of_pixels(self) -> Self:
        if self.upscaler in LATENT_UPSCALERS:
            raise PydanticCustomError(
                "sentence",
                "source.upscaler works on pixels; {name} does not. Take a file, Lanczos or "
                "Nearest, or resize latent.",
                {"name": self.upscaler},
            )
        if self.upscaler is not None and self.resize == "latent":
            raise PydanticCustomError(
                "sentence",
                "source.upscaler does nothing beside the resize mode latent; leave one of them "
                "out.",
            )
        return self


class Mask(Settings):
    """Which part of the source is painted: white is, black stays as it is, to the last bit.

    Without a picture and a text, the source's own transparency is the mask. `reading` says what of
    a mask with transparency is painted; without transparency it is what is white.
    blur: how wide in pixels its soft border is, which lies inside of it; edge "across": a Gaussian
        of that deviation, half of which lies outside and is painted as well (A1111's).
    area: "whole" works on the whole picture; "masked" on the masked part and `padding` pixels
        around it, brought to the size that is drawn.
    content: what the masked part holds before it is painted: the original, colours bled in from
        around it (fill), what is around it continued (context), noise, or nothing.
    soft: grey is painted less than white: the mask is a strength for each pixel.
    """

    place = "mask."
    roles: ClassVar[Mapping[str, str]] = {"picture": "mask"}
    picture: FileName | None = None
    reading: Literal["luminance", "transparent", "opaque"] | None = None
    text: Prompt | None = None  # the part of the source that a CLIP finds these words in
    threshold: Fraction | None = None  # of that; None: chosen by the map itself
    invert: bool = False
    grow: Annotated[int, Field(ge=-1024, le=1024), NUMBER] = 0  # pixels; below 0 it shrinks
    blur: Annotated[float, Field(ge=0, le=256), NUMBER] = 4.0
    edge: Literal["inside", "across"] = "inside"
    content: MaskContent = "original"
    soft: bool = False
    area: Literal["whole", "masked"] = "whole"
    padding: Pixels = 32
    match_colour: bool = True  # of what was painted, to what lies around it

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.picture is not None and self.text is not None:
            raise PydanticCustomError(
                "sentence", "a mask is a picture or a text; got both. Leave one of them out."
            )
        if self.threshold is not None and self.text is None:
            raise PydanticCustomError(
                "sentence", "mask.threshold belongs to mask.text, which is not given."
            )
        return self


class Extend(Settings):
    """How far the picture grows beyond its borders, in pixels.

    fill: what a border holds before it is noised: continued structure and colour, a mirror, the
        repeated edge, or noise. A prompt of a side stands for that side alone.
    overlap: how many pixels of what is known each new part repaints, so that they join.
    """

    place = "extend."
    left: Pixels = 0
    right: Pixels = 0
    top: Pixels = 0
    bottom: Pixels = 0
    fill: BorderFill = "context"
    overlap: Annotated[int, Field(ge=0, le=1024), NUMBER] | None = None  # None: an eighth
    left_prompt: Prompt | None = None
    right_prompt: Prompt | None = None
    top_prompt: Prompt | None = None
    bottom_prompt: Prompt | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        sides = ("left", "right", "top", "bottom")
        if not any(getattr(self, side) for side in sides):
            raise PydanticCustomError("sentence", "extend needs a side: left, right, top, bottom.")
        for side in sides:
            if getattr(self, f"{side}_prompt") is not None and not getattr(self, side):
                raise PydanticCustomError(
                    "sentence",
                    "extend.{side}_prompt does nothing: the picture does not grow there.",
                    {"side": side},
                )
        return self


class Refiner(Settings):
    """A second model that takes over below a noise level, such as SDXL's refiner.

    switch: after this fraction of the steps (A1111: 0.8).
    """

    place = "refiner."
    roles: ClassVar[Mapping[str, str]] = {"model": "refiner"}
    model: FileName
    switch: Fraction = 0.8


Option = bool | int | float | Annotated[str, Field(max_length=64)]


class Control(Settings):
    """A control network and the map that it makes the picture follow.

    preprocessor: what makes the map from the picture, with its `options` and at `resolution`;
        "none": the picture is the map. None: as the network's training says, else "none". Without
        a picture, the source is taken.
    kind: what the map shows, for a network that follows several.
    mode: whether prompt and map count alike, or one more than the other (A1111's balanced, "my
        prompt is more important", "ControlNet is more important"); guess: Diffusers' mode that
        needs no prompt.
    """

    place = "controls."
    roles: ClassVar[Mapping[str, str]] = {"net": "control", "picture": "control picture"}
    net: FileName
    picture: FileName | None = None
    preprocessor: Name | None = None
    options: Annotated[dict[Name, Option], Field(default_factory=dict, max_length=16)]
    resolution: Annotated[int, Field(ge=16, le=4096), NUMBER] | None = None
    kind: Name | None = None
    scale: Annotated[float, Field(ge=-2, le=4), NUMBER] = 1.0
    start: Fraction = 0.0
    end: Fraction = 1.0
    mode: Literal["balanced", "prompt", "control", "guess"] = "balanced"
    resize: Literal["just", "crop", "fill"] = "just"


class ImagePrompt(Settings):
    """Pictures used as a prompt, through an IP-Adapter (Ye et al. 2023, arXiv:2308.06721).

    mask: where they count, as a picture whose white part is told.
    """

    place = "image_prompts."
    roles: ClassVar[Mapping[str, str]] = {
        "adapter": "image adapter",
        "vision": "image encoder",
        "pictures": "image prompt",
        "mask": "image prompt mask",
    }
    adapter: FileName
    vision: FileName | None = None
    pictures: Annotated[tuple[FileName, ...], Field(min_length=1, max_length=16)]
    mask: FileName | None = None
    scale: Annotated[float, Field(ge=-2, le=4), NUMBER] = 1.0
    start: Fraction = 0.0
    end: Fraction = 1.0


class Reference(Settings):
    """A picture that self-attention looks at as well (A1111's reference_only); needs no weights.

    fidelity: how much more the prompt's side looks at it than the negative's, 0 to 1. weight: in
        which share of the self-attentions, the widest first.
    """

    place = "references."
    roles: ClassVar[Mapping[str, str]] = {"picture": "reference"}
    picture: FileName
    fidelity: Fraction = 0.5
    weight: Fraction = 1.0
    start: Fraction = 0.0
    end: Fraction = 1.0
    resize: Literal["just", "crop", "fill"] = "just"


class ClipGuidance(Settings):
    """The gradient of a CLIP's similarity, besides the model's own guidance.

    scale: the weight of the CLIP's logit: at 1 it is taken for the likelihood of the text.
    gradient: "through" the network, which moves only what the model holds possible, or at the
        "estimate", which is cheaper. text: what it climbs towards; None: the prompt's plain words.
    cut_outs: squares of the foreseen picture that it is shown in each step.
    """

    place = "clip_guidance."
    scale: Annotated[float, Field(ge=-1000, le=1000), NUMBER] = 4.0
    gradient: Literal["through", "estimate"] = "through"
    text: Prompt | None = None
    cut_outs: Annotated[int, Field(ge=1, le=64), NUMBER] = 8
    start: Fraction = 0.0
    end: Fraction = 1.0
