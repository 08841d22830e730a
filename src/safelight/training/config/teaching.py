"""The sections of recipes that teach a model that is there something more."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from safelight.training.config.sections import Count, Positive, Section, Share, Text, Weighting

Kind = Literal["lora", "locon", "loha", "lokr", "dora", "ia3", "glora", "oft", "boft", "full"]
Layout = Literal["kohya", "diffusers"]
ONLY_KOHYA: tuple[Kind, ...] = ("ia3", "glora", "oft", "boft", "full")
"""Kinds that Diffusers and PEFT have no names for in the form in which they are taught."""
FileName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^/\\\x00]+$")]


class MaskSection(Section):
    """Which places of a picture count: those that a mask shows white, or that are opaque.

    folder: of mask pictures, each with the name and the size of its picture. alpha: the pictures'
    own transparency. outside: what the other places count. even: a small subject counts as much as
    a large one.
    """

    folder: Text | None = None
    alpha: bool = False
    outside: Share = 0.0
    even: bool = True

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.alpha == (self.folder is not None):
            raise ValueError("give folder, which holds mask pictures, or alpha = true; one of them")
        return self


class PriorSection(Section):
    """Pictures of the class of what is taught, so that the class stays what it was.

    prompt: what the model draws them with, `count` of them, before it learns; of several each gets
    its turn. path: pictures that are there already, with captions, or all with `prompt`.
    share: of each batch. weight: what they count beside the subject's. folder: where drawn ones are
    kept; left out, beside the run.
    """

    prompt: Text | Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    negative: str = ""
    path: Text | None = None
    count: Positive = 100
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    weight: Weighting = 1.0
    folder: Text | None = None
    steps: Positive = 30
    guidance_scale: Weighting = 7.5
    sampler: Text = "dpmpp_2m"
    schedule: Text = "karras"
    seed: Count = 0
    batch: Positive = 4

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.prompt is None and self.path is None:
            raise ValueError("give prompt, with which the model draws its class, or path")
        return self

    @property
    def prompts(self) -> tuple[str, ...]:
        """What is said of the pictures."""
        if self.prompt is None:
            return ()
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt


class TextSection(Section):
    """Whether the text encoders learn beside the U-Net; training.rates says how fast."""

    learns: bool = False


class TaughtModelSection(Section):
    """The model that is taught. checkpoint: a file, a folder, or "embedded"."""

    checkpoint: Text
    vae: Text | None = None
    variant: Text | None = None
    use_ema: bool = False  # of the checkpoint


class AdapterSection(Section):
    """What is added to the layers of the model, and to which.

    kind: locon is lora for the convolutions as well. rank, alpha: the change is scaled by
    alpha / rank; left out, alpha is the rank. conv_rank, conv_alpha: of convolutions with a kernel,
    if not the same. targets: words or patterns of paths, see `adapters.targets`; left out,
    attention, and for locon transformer and convolutions. blocks: only in these, as
    "down_blocks.1". text: whether the text encoders learn, and text_targets what of them. factor:
    lokr, how large its small half is at most. tucker: convolutions through a core. dropout: of what
    a lora sees. checkpoint: an adapter that goes on learning; then it says all but dropout.
    """

    kind: Kind = "lora"
    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] | None = None
    conv_rank: Positive | None = None
    conv_alpha: Annotated[float, Field(gt=0)] | None = None
    targets: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    blocks: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    text: bool = False
    text_targets: Annotated[tuple[Text, ...], Field(min_length=1)] = ("attention",)
    factor: Positive | None = None
    tucker: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    checkpoint: Text | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.dropout and self.kind not in ("lora", "locon"):
            raise ValueError(f"dropout is of lora and locon; {self.kind} makes whole weights")
        if self.factor is not None and self.kind != "lokr":
            raise ValueError(f"factor is of lokr; leave it out for {self.kind}")
        if self.checkpoint is not None:
            own = self.model_fields_set - {"checkpoint", "dropout"}
            if own:
                raise ValueError(
                    f"checkpoint says what is learned, so leave out {', '.join(sorted(own))}"
                )
        return self

    @property
    def chosen(self) -> tuple[str, ...]:
        """Which layers of the U-Net are taught."""
        if self.targets is not None:
            return self.targets
        return ("transformer", "convolutions") if self.kind == "locon" else ("attention",)


def check_layout(kind: Kind, layout: Layout) -> None:
    """Raise ValueError for a kind that could not be written after it was taught."""
    if layout == "diffusers" and kind in ONLY_KOHYA:
        raise ValueError(
            f"export.layout diffusers has no names for {kind}; leave it out, which writes kohya's"
        )


class InversionSection(Section):
    """A word that stands for vectors, which are all that learns.

    word: what prompts call it. vectors: how many it stands for. initial: a word of the model's own
    whose vectors it begins with; left out, the mean of all with a little noise.
    """

    word: Text
    vectors: Annotated[int, Field(ge=1, le=75)] = 1
    initial: Text | None = None


class DistillationSection(Section):
    """How many steps of the teacher become one of the student. Luo et al. 2023.

    solver_steps: how many levels the teacher's way is cut into; the student learns to leap over any
    number of them to its start. guidance: the scale of the teacher; two numbers are drawn between,
    and are told to the student if `embedding`. target: decay of the average that is leapt to; 0 is
    the student itself. huber: where the error stops growing quadratically.
    """

    solver_steps: Annotated[int, Field(ge=2, le=1000)] = 50
    guidance: Weighting | tuple[Weighting, Weighting] = 7.5
    embedding: bool = False
    target: Annotated[float, Field(ge=0, lt=1)] = 0.95
    huber: Annotated[float, Field(gt=0)] | None = 0.001
    timestep_scaling: Annotated[float, Field(gt=0)] = 10.0
    steps: Positive = 4  # that it is meant to be drawn with


class TaughtExportSection(Section):
    """What is written at the end: a file in kohya's names or in Diffusers'."""

    folder: Text | None = None
    weights: Text | None = None
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    layout: Layout = "kohya"
    name: FileName | None = None  # of the file, without its suffix; None: the run's folder's
