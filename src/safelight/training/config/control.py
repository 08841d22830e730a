"""The sections that only the recipe "controlnet" has."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from safelight.errors import RequestError
from safelight.preprocessors.maps import LEAST_RESOLUTION, MOST_RESOLUTION, resolve_preprocessor
from safelight.training.config.sections import (
    ExportSection,
    Positive,
    PreviewSection,
    Section,
    Share,
    Text,
)

GIVEN = ("depth", "normal", "pose", "segmentation")  # maps that no preprocessor makes of a picture
Resolution = Annotated[int, Field(ge=LEAST_RESOLUTION, le=MOST_RESOLUTION)]


class ControlSection(Section):
    """What the ControlNet is to follow, and how it begins.

    preprocessor: makes the map of each picture, with `options` and at `resolution`; or of each
    finished map, in the folder `maps`, named like its picture.
    checkpoint: a ControlNet that goes on learning; left out, it begins as a copy of the U-Net's
    first half. widths: of the convolutions that read the map, for such a copy.
    """

    preprocessor: Text | None = None
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    resolution: Resolution | None = None
    maps: Text | None = None
    keep: bool = False  # make all maps once, and keep them on the device
    dropout: Share = 0.0  # of maps that are shown black
    checkpoint: Text | None = None
    widths: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None

    @field_validator("preprocessor")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                return resolve_preprocessor(name).name
            except RequestError as error:
                raise ValueError(str(error)) from None
        return name

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.preprocessor is None and self.maps is None:
            raise ValueError(
                "give preprocessor, which makes maps of the pictures (such as canny), or maps, a "
                "folder of finished ones"
            )
        if self.maps is None and self.preprocessor in GIVEN:
            raise ValueError(
                f"preprocessor {self.preprocessor} makes no map of a picture: give finished ones "
                "in the folder maps"
            )
        how = resolve_preprocessor(self.making)
        try:
            how.checked(self.options)
        except RequestError as error:
            raise ValueError(f"options: {error}") from None
        if how.masked:
            raise ValueError(
                f"preprocessor {how.name} needs masks, which training does not draw; choose another"
            )
        if self.resolution is not None and not how.scaled:
            raise ValueError(
                f"resolution: the preprocessor {how.name} gives the same at any; leave it out"
            )
        if self.keep and "seed" in {o.name for o in how.options} and "seed" not in self.options:
            raise ValueError(
                f"keep: the preprocessor {how.name} draws another map in every step; leave it out"
            )
        if self.checkpoint is not None and self.widths is not None:
            raise ValueError("widths are those of the checkpoint; leave one of the two out")
        return self

    @property
    def making(self) -> str:
        """The preprocessor; of finished maps without one, none."""
        return self.preprocessor or "none"


class ControlModelSection(Section):
    """The model that the ControlNet is for: as it is, and as it stays."""

    checkpoint: Text
    vae: Text | None = None
    variant: Text | None = None
    use_ema: bool = False  # of the checkpoint


class ControlPreviewSection(PreviewSection):
    """Pictures drawn while it learns, each beside the map that it follows.

    pictures: files of which the maps are made (finished ones, if the run learns from such); one for
    each prompt. Left out, the first pictures held out, with their captions.
    """

    prompts: tuple[str, ...] = ()
    pictures: tuple[Text, ...] = ()
    count: Positive = 8  # of pictures held out

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.prompts) != len(self.pictures):
            raise ValueError(
                f"prompts and pictures belong together, one for each; got {len(self.prompts)} and "
                f"{len(self.pictures)}"
            )
        return self


class ControlExportSection(ExportSection):
    """What is written at the end: a folder of Diffusers, or one file in the original layout."""

    layout: Literal["diffusers", "ldm"] = "diffusers"
