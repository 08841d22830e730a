"""The config of each recipe, as one type: what a TOML file may say."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from safelight.diffusion.process import BetaSchedule
from safelight.training.config.control import (
    ControlExportSection,
    ControlModelSection,
    ControlPreviewSection,
    ControlSection,
)
from safelight.training.config.sections import (
    Count,
    DataSection,
    ExportSection,
    PictureSection,
    Positive,
    PreviewSection,
    SceneSection,
    Section,
    Share,
    Text,
    TrainingSection,
    Weighting,
)
from safelight.training.config.teaching import (
    AdapterSection,
    DistillationSection,
    InversionSection,
    MaskSection,
    PriorSection,
    TaughtExportSection,
    TaughtModelSection,
    TextSection,
    check_layout,
)


def _kind_of(data: object) -> str:
    """What a data section says it is; pictures if it says nothing."""
    if isinstance(data, dict):
        return str(data.get("kind", "pictures"))
    return str(getattr(data, "kind", "pictures"))


Data = Annotated[
    Annotated[PictureSection, Tag("pictures")] | Annotated[SceneSection, Tag("scenes")],
    Discriminator(_kind_of),
]
Number = float | int | str


class Base(Section):
    """What every recipe has."""

    folder: Text
    device: Text = "auto"
    data: Data
    training: TrainingSection
    export: ExportSection = ExportSection()


class CacheSection(Section):
    """Where latents are kept. folder: None is the folder `cache` of the run."""

    folder: Text | None = None
    batch: Positive = 16
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"


# -- autoencoder -----------------------------------------------------------------------------------


class CoderSection(Section):
    """The autoencoder: its shape, or the checkpoint whose weights go on learning.

    learns: "decoder" leaves what makes the latents as it is, so models of these latents still fit.
    """

    kind: Literal["kl", "vq"] = "kl"
    checkpoint: Text | None = None  # of kind kl; then the shape is the checkpoint's
    learns: Literal["all", "decoder"] = "all"
    latent_channels: Positive = 4
    widths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (128, 256, 512, 512)
    layers: Positive = 2
    groups: Positive = 32
    mid_attention: bool = True
    codes: Positive = 8192  # vq
    averages: bool = True  # vq: the codebook follows its latents
    fold: bool = True  # kl from scratch: give the latents zero mean and unit deviation at the end

    @model_validator(mode="after")
    def _of_a_checkpoint(self) -> Self:
        if self.learns == "decoder" and self.checkpoint is None:
            raise ValueError("learns: a decoder learns alone only from a checkpoint; give one")
        return self


class CoderLossSection(Section):
    """How much each distance counts; 0 leaves it out."""

    l1: Weighting = 1.0
    laplacian: Weighting = 0.5
    ms_ssim: Weighting = 0.1
    squares: Weighting = 0.5
    perceptual: Weighting = 0.25
    image_encoder: Text | None = None  # the vision tower that judges likeness
    kl: Weighting = 2e-3
    codebook: Weighting = 1.0
    commitment: Weighting = 0.25
    adversarial: Weighting = 0.5
    noisy_rows: Share = 0.5  # that are decoded from latents with a little noise
    noise_sizes: tuple[Weighting, Weighting] = (0.05, 0.1)


class CriticSection(Section):
    """The critic, and when it counts."""

    widths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32, 64, 128, 192)
    norm: Literal["group", "spectral", "none"] = "group"
    groups: Positive = 16
    start: Share = 0.6
    lead: Count = 50
    ramp: Count = 200
    lecam: Weighting = 0.01
    r1: Weighting = 0.0


class AutoencoderRun(Base):
    """`recipe = "autoencoder"`."""

    recipe: Literal["autoencoder"]
    autoencoder: CoderSection = CoderSection()
    loss: CoderLossSection = CoderLossSection()
    critic: CriticSection | Literal[False] = CriticSection()


# -- tiny decoder ----------------------------------------------------------------------------------


class TinyDecoderSection(Section):
    """The shape of a tiny decoder, and whose latents it learns to show.

    teacher: an autoencoder, or the model that has it. blocks: of each level, finest first; a level
    is twice the size of the next. mixed: of the latents, how many are a blend of two pictures', as
    predictions are at high noise.
    """

    teacher: Text
    width: Positive = 64
    blocks: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 3, 3, 3)
    mixed: Share = 0.25


class TinyLossSection(Section):
    """How much each distance from the large decoder's pictures counts; 0 leaves it out."""

    l1: Weighting = 1.0
    laplacian: Weighting = 0.5
    ms_ssim: Weighting = 0.1
    squares: Weighting = 0.5
    perceptual: Weighting = 0.0
    image_encoder: Text | None = None  # the vision tower that judges likeness
    noisy_rows: Share = 0.5
    noise_sizes: tuple[Weighting, Weighting] = (0.05, 0.1)


class TinyExportSection(ExportSection):
    """As everywhere, with the name of the file; None is the name of the run's folder."""

    name: Text | None = None


class TinyDecoderRun(Base):
    """`recipe = "tiny_decoder"`."""

    recipe: Literal["tiny_decoder"]
    decoder: TinyDecoderSection
    loss: TinyLossSection = TinyLossSection()
    cache: CacheSection = CacheSection()
    export: TinyExportSection = TinyExportSection()


# -- clip ------------------------------------------------------------------------------------------


class TowerSection(Section):
    """A transformer."""

    layers: Positive
    width: Positive
    heads: Positive
    mlp_width: Positive


class TextTowerSection(TowerSection):
    layers: Positive = 4
    width: Positive = 256
    heads: Positive = 4
    mlp_width: Positive = 1024


class VisionTowerSection(TowerSection):
    layers: Positive = 6
    width: Positive = 160
    heads: Positive = 5
    mlp_width: Positive = 640
    patch: Positive = 16


class ClipSection(Section):
    """The two towers and their words. vocabulary: "learned", "clip", or a tokenizer's folder."""

    vocabulary: Text = "learned"
    vocabulary_size: Annotated[int, Field(ge=514)] = 6000
    projection: Positive = 256
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    caption_tokens: Annotated[int, Field(ge=8, le=77)] = 77  # columns that training is shown
    text: TextTowerSection = TextTowerSection()
    vision: VisionTowerSection = VisionTowerSection()


class ClipLossSection(Section):
    """The contrast, what a teacher adds, and how pictures and captions are changed."""

    kind: Literal["softmax", "sigmoid"] = "softmax"
    teacher: Text | None = None
    phrases: Positive = 1  # of the teacher, beside each pair
    taught: Weighting = 1.0
    matched: Weighting = 1.0
    temperature: Annotated[float, Field(gt=0)] = 0.1
    crop: Annotated[float, Field(gt=0, le=1)] = 0.7
    blur: Share = 1.0
    noise: Weighting = 0.05
    thinned: Share = 0.05


class ClipRun(Base):
    """`recipe = "clip"`."""

    recipe: Literal["clip"]
    clip: ClipSection = ClipSection()
    loss: ClipLossSection = ClipLossSection()


# -- diffusion -------------------------------------------------------------------------------------


class UnetSection(Section):
    """The shape of a U-Net from scratch; context width and channels follow from the parts."""

    channels: Annotated[tuple[Positive, ...], Field(min_length=1)] = (128, 192)
    depths: Annotated[tuple[tuple[Count, ...], ...], Field(min_length=1)] = ((1, 1), (1, 1))
    heads: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4, 6)
    mid_depth: Count = 1
    groups: Positive = 32
    linear_projection: bool = False


class ModelSection(Section):
    """Which network learns: a whole model that is fine-tuned, or parts and a new U-Net.

    checkpoint: a file or folder. autoencoder, text: folders that the other recipes wrote, or parts
    of a published model; text is the folder that holds text_encoder and tokenizer.
    """

    checkpoint: Text | None = None
    vae: Text | None = None  # replaces the checkpoint's own
    variant: Text | None = None
    use_ema: bool = False  # of the checkpoint
    autoencoder: Text | None = None
    text: Text | None = None
    unet: UnetSection | None = None
    label: Annotated[str, Field(min_length=1, max_length=80)] | None = None


class ProcessSection(Section):
    """The noise process; for a checkpoint what is left out is the checkpoint's own."""

    kind: Literal["ddpm", "edm", "flow"] | None = None
    prediction: Literal["eps", "v", "x0", "flow", "edm"] | None = None
    beta_start: Annotated[float, Field(gt=0, lt=1)] | None = None
    beta_end: Annotated[float, Field(gt=0, lt=1)] | None = None
    beta_schedule: BetaSchedule | None = None
    zero_terminal_snr: bool | None = None
    shift: Annotated[float, Field(gt=0)] | None = None


class NamedSection(Section):
    """A law by its name, with its numbers beside it."""

    name: Text
    options: dict[str, Number] = Field(default_factory=dict)


class NoiseSection(Section):
    """What a step asks: at which noise levels, how they weigh, and what is said."""

    draw: NamedSection | None = None
    weight: NamedSection = NamedSection(name="constant")
    caption_dropout: Share = 0.1
    offset_noise: Weighting = 0.0
    pyramid_noise: Share = 0.0
    input_perturbation: Weighting = 0.0
    huber: Annotated[float, Field(gt=0)] | None = None
    latents: Literal["mode", "sample"] = "mode"
    checkpointing: bool = False  # recompute activations instead of keeping them


class HintSection(Section):
    """How a model from scratch is best drawn with, written into it."""

    sampler: Text = "dpmpp_2m"
    schedule: Text | None = "karras"
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 3.0


class DiffusionRun(Base):
    """`recipe = "diffusion"`."""

    recipe: Literal["diffusion"]
    model: ModelSection
    process: ProcessSection = ProcessSection()
    noise: NoiseSection = NoiseSection()
    cache: CacheSection = CacheSection()
    previews: PreviewSection | None = None
    hint: HintSection = HintSection()
    text: TextSection = TextSection()
    mask: MaskSection | None = None
    prior: PriorSection | None = None


# -- teaching --------------------------------------------------------------------------------------


class TaughtRun(Base):
    """What recipes have that teach a model something, and write a small file of it."""

    model: TaughtModelSection
    noise: NoiseSection = NoiseSection()
    cache: CacheSection = CacheSection()
    previews: PreviewSection | None = None
    export: TaughtExportSection = TaughtExportSection()  # type: ignore[assignment]
    mask: MaskSection | None = None
    prior: PriorSection | None = None


class LoraRun(TaughtRun):
    """`recipe = "lora"`."""

    recipe: Literal["lora"]
    adapter: AdapterSection = AdapterSection()

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        check_layout(self.adapter.kind, self.export.layout)
        return self


class InversionNoiseSection(NoiseSection):
    """As for diffusion; no caption is dropped, since only the word in it can learn."""

    caption_dropout: Share = 0.0


class InversionRun(TaughtRun):
    """`recipe = "textual_inversion"`."""

    recipe: Literal["textual_inversion"]
    inversion: InversionSection
    noise: InversionNoiseSection = InversionNoiseSection()


class LcmNoiseSection(NoiseSection):
    """As for diffusion; the teacher is asked without a caption beside each anyway."""

    caption_dropout: Share = 0.0


class LcmAdapterSection(AdapterSection):
    """As for lora, of a greater rank and for every layer: a LoRA of LCM is no small change."""

    rank: Positive = 64
    text: Literal[False] = False

    @property
    def chosen(self) -> tuple[str, ...]:
        return ("transformer", "convolutions") if self.targets is None else self.targets


class LcmRun(TaughtRun):
    """`recipe = "lcm"`."""

    recipe: Literal["lcm"]
    adapter: LcmAdapterSection | Literal[False] = LcmAdapterSection()  # false: the whole U-Net
    distillation: DistillationSection = DistillationSection()
    noise: LcmNoiseSection = LcmNoiseSection()
    mask: None = None
    prior: None = None

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        if self.adapter is not False:
            check_layout(self.adapter.kind, self.export.layout)
        return self


# -- controlnet ------------------------------------------------------------------------------------


class ControlNoiseSection(NoiseSection):
    """As for diffusion; half of the captions are dropped, so that maps speak for themselves."""

    caption_dropout: Share = 0.5


class ControlRun(Base):
    """`recipe = "controlnet"`."""

    recipe: Literal["controlnet"]
    model: ControlModelSection
    control: ControlSection
    noise: ControlNoiseSection = ControlNoiseSection()
    cache: CacheSection = CacheSection()
    previews: ControlPreviewSection | None = None
    export: ControlExportSection = ControlExportSection()


# -- evaluator -------------------------------------------------------------------------------------


class EvaluatorSection(Section):
    """The shape of the judge of scenes, or the folder of one that goes on learning.

    held_out_drawings: how many scenes, as a share of data.count, show the drawings that models are
    tested on and never learn from; the judge has to know them.
    """

    checkpoint: Text | None = None  # of the same concepts and styles; then the shape is its own
    widths: Annotated[tuple[Positive, ...], Field(min_length=4, max_length=4)] = (32, 64, 128, 192)
    image_size: Annotated[int, Field(ge=16)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    held_out_drawings: Share = 0.08


class EvaluatorRun(Base):
    """`recipe = "evaluator"`."""

    recipe: Literal["evaluator"]
    data: SceneSection
    evaluator: EvaluatorSection = EvaluatorSection()


Config = (
    AutoencoderRun
    | TinyDecoderRun
    | ClipRun
    | DiffusionRun
    | LoraRun
    | InversionRun
    | LcmRun
    | ControlRun
    | EvaluatorRun
)
RECIPES: dict[str, type[Config]] = {
    "autoencoder": AutoencoderRun,
    "tiny_decoder": TinyDecoderRun,
    "clip": ClipRun,
    "diffusion": DiffusionRun,
    "controlnet": ControlRun,
    "lora": LoraRun,
    "textual_inversion": InversionRun,
    "lcm": LcmRun,
    "evaluator": EvaluatorRun,
}
ADAPTERS: dict[str, TypeAdapter[Config]] = {n: TypeAdapter(kind) for n, kind in RECIPES.items()}
__all__ = ["ADAPTERS", "RECIPES", "Config", "DataSection"]
