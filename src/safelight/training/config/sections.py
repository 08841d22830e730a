"""The sections that recipes share: data, training, previews, export.

Every model refuses keys that it does not know, so nothing in a file is without effect.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from safelight.errors import RequestError
from safelight.training.ema import EmaKind, ema_kind
from safelight.training.settings import OptimizerName, Precision, Schedule, Settings

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Weighting = Annotated[float, Field(ge=0)]
Text = Annotated[str, StringConstraints(min_length=1)]
Byte = Annotated[int, Field(ge=0, le=255)]


class Section(BaseModel):
    """A table of the file: immutable, and without keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CaptionSection(Section):
    """How captions are made of what a data set says; see `captions.Wording`."""

    templates: Annotated[tuple[Text, ...], Field(min_length=1)] = ("{caption}",)
    separator: Text = ", "
    shuffle: bool = False
    keep_first: Count = 0
    part_dropout: Share = 0.0
    trigger: str = ""
    prefix: str = ""
    suffix: str = ""


class PictureSection(Section):
    """Pictures with captions: a folder, tar shards, a table, or a saved Hugging Face dataset."""

    kind: Literal["pictures"] = "pictures"
    path: Text
    size: Positive
    caption: Text | None = None  # column or field
    image: Text | None = None
    split: Text | None = None
    multiple: Positive = 8
    max_aspect: Annotated[float, Field(ge=1, le=16)] = 2.0
    upscale: bool = True
    random_crop: bool = False
    flip: Share = 0.0
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)
    on_problem: Literal["stop", "skip"] = "stop"
    depth: Literal["decode", "header"] = "decode"
    threads: Positive = 2
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.05
    held_out_at_most: Positive = 512
    captions: CaptionSection = CaptionSection()


class SceneSection(Section):
    """Scenes made of cut-outs, with captions that say what they are made of."""

    kind: Literal["scenes"]
    path: Text | Annotated[tuple[Text, ...], Field(min_length=1)]
    size: Annotated[int, Field(ge=8)]
    count: Positive = 20_000
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of count, as further scenes
    held_out_at_most: Positive = 512
    concepts: Positive | Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    styles: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    groups: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    mix: dict[str, Weighting] | None = None
    style_named: Share | None = None
    background_named: Share | None = None
    seed: Count = 0
    workers: Positive | None = None


DataSection = PictureSection | SceneSection


class TrainingSection(Section):
    """The numbers of the run; see `Settings`, which they become."""

    batch_size: Positive
    steps: Positive
    learning_rate: Weighting | dict[str, Weighting] = 1e-4
    rates: dict[str, Weighting] = Field(default_factory=dict)
    micro_batch: Positive | None = None
    optimizer: OptimizerName = "adamw"
    betas: tuple[float, float] | dict[str, tuple[float, float]] = (0.9, 0.99)
    eps: Weighting = 1e-8
    weight_decay: Weighting | dict[str, Weighting] = 0.01
    warmup_steps: Count = 0
    schedule: Schedule = "constant"
    decay_from: Share = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | Literal[False] = 1.0
    precision: Precision = "fp32"
    compile: bool = False
    channels_last: bool = False
    deterministic: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    prefetch: bool = False
    ema: tuple[str, ...] = ()
    snapshot_every: Count = 0
    seed: Count = 0
    save_every: Weighting = 300.0
    log_every: Positive = 50
    validate_every: Count = 0
    keep: Positive = 2
    non_finite: Literal["stop", "skip"] = "stop"
    save_failure: Literal["warn", "stop"] = "warn"
    count_flops: bool = False
    tensorboard: bool = False
    wandb: Text | None = None

    @field_validator("ema")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _kind(name)
        return names

    def settings(self) -> Settings:
        """The same as the loop takes it. Raises RequestError for values that exclude others."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        values["ema"] = tuple(_kind(name) for name in self.ema)
        values["clip_norm"] = None if self.clip_norm is False else self.clip_norm
        return Settings(**values)


class PreviewSection(Section):
    """Pictures of fixed prompts while it learns; `every` counts steps and 0 draws at the end."""

    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    every: Count = 0
    height: Positive | None = None
    width: Positive | None = None
    steps: Positive = 20
    guidance_scale: Weighting = 3.0
    sampler: Text = "dpmpp_2m"
    schedule: Text = "karras"
    seed: Count = 0


class ExportSection(Section):
    """What is written at the end. weights: "last", or the name of one of training.ema."""

    folder: Text | None = None  # None: the folder `model` of the run
    weights: Text | None = None  # None: the first average, or the last weights if there is none
    dtype: Literal["fp32", "bf16", "fp16"] | None = None  # None: fp32, or that of the checkpoint
    max_file_mb: Positive | None = None


def _kind(name: str) -> EmaKind:
    try:
        return ema_kind(name)
    except RequestError as error:
        raise ValueError(str(error)) from None
