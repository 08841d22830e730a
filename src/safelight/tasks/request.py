"""Everything that decides a picture, as one frozen value that survives a trip through JSON.

`Request.parse(mapping)` is the border: what a user typed, in a terminal, a JSON body or a picture's
text, becomes a `Request` or one `RequestError` that names the setting, the value and the remedy.
Sizes are in pixels and always (width, height). Importing this module does not import torch.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from safelight.errors import RequestError
from safelight.tasks.addons import Embedding, Hypernetwork, Lora
from safelight.tasks.clashes import clashes
from safelight.tasks.complaint import echo
from safelight.tasks.edits import (
    ClipGuidance,
    Control,
    Extend,
    ImagePrompt,
    Mask,
    Reference,
    Refiner,
    Source,
)
from safelight.tasks.large import Hires, Region, Seamless, Tiles, second_pixels
from safelight.tasks.settings import (
    NUMBER,
    SEED_LIMIT,
    Device,
    FileName,
    Fraction,
    Length,
    Name,
    Prompt,
    Seed,
    Settings,
    Side,
)
from safelight.tasks.thrift import Reuse, TokenMerging

RANDOM_SEED_LIMIT = 2**32  # random seeds stay short enough to read aloud, as A1111's do
WORK_LIMIT = 2**40  # pixels x steps x pictures of one request: about 200,000 pictures at 512, 20
AUTOMATIC = "automatic"  # the schedule that the sampler chooses
UNKNOWN_SIDE = 1024  # the side assumed by the work limit when the model decides the size

Dialect = Literal["a1111", "comfy", "compel", "plain"]
Emphasis = Literal["original", "no norm", "ignore", "none", "comfy", "compel"]
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
NoiseSource = Literal["cpu", "nv"]
EngineName = Literal[  # of engines.table; auto: the one that is done soonest
    "auto", "eager", "compiled", "recorded", "openvino", "openvino-int8", "int8-weights",
    "int8-dynamic", "fp8",
]  # fmt: skip
Offload = Literal["auto", "none", "parts", "sequential"]  # of engines.offload; auto: as they fit
Start = Literal["a1111", "diffusers", "sigma", "unit"]


class SamplerOptions(Settings):
    """Knobs of a sampler; None leaves the sampler's own default."""

    place = "sampler_options."
    eta: Annotated[float, Field(ge=0, le=10), NUMBER] | None = None
    s_churn: Annotated[float, Field(ge=0, le=1000), NUMBER] | None = None
    s_tmin: Annotated[float, Field(ge=0, le=1e6), NUMBER] | None = None
    s_tmax: Annotated[float, Field(ge=0, le=1e6), NUMBER] | None = None
    s_noise: Annotated[float, Field(ge=0, le=10), NUMBER] | None = None
    order: Annotated[int, Field(ge=1, le=10), NUMBER] | None = None
    r: Annotated[float, Field(gt=0, le=1), NUMBER] | None = None
    solver_type: Name | None = None
    rtol: Annotated[float, Field(gt=0, le=100), NUMBER] | None = None
    atol: Annotated[float, Field(gt=0, le=100), NUMBER] | None = None
    h_init: Annotated[float, Field(gt=0, le=100), NUMBER] | None = None

    def given(self) -> dict[str, float | int | str]:
        """Only the options that were set, by name: keyword arguments of the sampler."""
        return {name: value for name, value in self if value is not None}


class ScheduleOptions(Settings):
    """Knobs of a schedule; None leaves the schedule's own default."""

    place = "schedule_options."
    rho: Annotated[float, Field(gt=0, le=100), NUMBER] | None = None
    sigma_min: Annotated[float, Field(gt=0, le=1e6), NUMBER] | None = None
    sigma_max: Annotated[float, Field(gt=0, le=1e6), NUMBER] | None = None
    alpha: Annotated[float, Field(gt=0, le=100), NUMBER] | None = None
    beta: Annotated[float, Field(gt=0, le=100), NUMBER] | None = None
    steps_offset: Annotated[int, Field(ge=0, le=1000), NUMBER] | None = None
    original_steps: Annotated[int, Field(ge=1, le=1000), NUMBER] | None = None

    def given(self) -> dict[str, float | int]:
        """Only the options that were set, by name: keyword arguments of the schedule."""
        return {name: value for name, value in self if value is not None}


class Thresholding(Settings):
    """Dynamic thresholding: guide at the full scale, keep the range of a milder one."""

    place = "guidance.thresholding."
    mimic_scale: Annotated[float, Field(ge=0, le=100), NUMBER] = 7.0
    percentile: Annotated[float, Field(gt=0, le=1), NUMBER] = 0.995


class Apg(Settings):
    """Adaptive projected guidance; defaults for SDXL of Sadat et al. 2024 (arXiv:2410.02416)."""

    place = "guidance.apg."
    eta: Annotated[float, Field(ge=-10, le=10), NUMBER] = 0.0
    momentum: Annotated[float, Field(ge=-1, le=1), NUMBER] = -0.5
    norm_threshold: Annotated[float, Field(ge=0, le=1000), NUMBER] = 15.0


class Pag(Settings):
    """Perturbed-attention guidance (Ahn et al. 2024, arXiv:2403.17377)."""

    place = "guidance.pag."
    scale: Annotated[float, Field(ge=0, le=100), NUMBER] = 3.0
    layers: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)] = ("mid",)


class Sag(Settings):
    """Self-attention guidance (Hong et al. 2023, arXiv:2210.00939)."""

    place = "guidance.sag."
    scale: Annotated[float, Field(ge=-10, le=10), NUMBER] = 0.75


class FreeU(Settings):
    """FreeU: gains of the backbone (b) and of the skips' low frequencies (s), arXiv:2309.11497."""

    place = "guidance.freeu."
    b1: Annotated[float, Field(ge=0, le=10), NUMBER]
    b2: Annotated[float, Field(ge=0, le=10), NUMBER]
    s1: Annotated[float, Field(ge=0, le=10), NUMBER]
    s2: Annotated[float, Field(ge=0, le=10), NUMBER]


class Guidance(Settings):
    """What is done to the guided prediction besides its scale; None leaves a method out."""

    place = "guidance."
    rescale: Fraction = 0.0
    start: Fraction = 0.0  # guided between these fractions of the steps, conditional outside
    end: Fraction = 1.0
    thresholding: Thresholding | None = None
    apg: Apg | None = None
    pag: Pag | None = None
    sag: Sag | None = None
    freeu: FreeU | None = None

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if self.start > self.end:
            raise PydanticCustomError(
                "sentence",
                "guidance must not start after it ends; got start {start} and end {end}. "
                "Both are fractions of the steps.",
                {"start": self.start, "end": self.end},
            )
        return self


class Sizes(Settings):
    """What SDXL is told about its training picture; None means the size that is drawn."""

    place = "sizes."
    original: tuple[Length, Length] | None = None
    target: tuple[Length, Length] | None = None
    crop_left: Length = 0
    crop_top: Length = 0
    negative_original: tuple[Length, Length] | None = None
    negative_target: tuple[Length, Length] | None = None
    aesthetic_score: Annotated[float, Field(ge=0, le=20), NUMBER] = 6.0  # the refiner's
    negative_aesthetic_score: Annotated[float, Field(ge=0, le=20), NUMBER] = 2.5


class Request(Settings):
    """A drawing from text, or from a picture and text: every setting that can change a pixel.

    A setting that is not given is left open. Drawing fills it with the model's own if the model
    states one (steps, sampler, schedule, guidance scale; `suited`), else with the default below; a
    value that equals the default counts as given. A picture's recipe leaves nothing open.
    Raises RequestError (one line) for an unknown setting, a value out of its range, a NaN or an
    infinity, a size that is not a multiple of 8, or more work than `WORK_LIMIT`.
    """

    roles: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "vae": "vae",
        "depth": "depth",
        "clip": "clip",
    }

    prompt: Prompt
    negative_prompt: Prompt = ""
    dialect: Dialect = "a1111"
    emphasis: Emphasis = "original"
    comma_backtrack: Annotated[int, Field(ge=0, le=74), NUMBER] = 20
    max_chunks: Annotated[int, Field(ge=1, le=1024), NUMBER] = 64
    clip_skip: Annotated[int, Field(ge=1, le=64), NUMBER] | None = None
    force_clip_skip: bool = False  # SDXL's encoders, too, which A1111 moves only if asked

    model: FileName | None = None
    vae: FileName | None = None
    ema: bool = False
    prediction: Literal["eps", "v", "x0", "flow", "edm"] | None = None  # None: as the file says
    zero_terminal_snr: bool | None = None
    dtype: Dtype = "auto"
    device: Device = "auto"
    engine: EngineName = "eager"  # what computes the model
    offload: Offload = "auto"  # whether its parts are in memory while they do not work

    loras: Annotated[tuple[Lora, ...], Field(max_length=32)] = ()
    embeddings: Annotated[tuple[Embedding, ...], Field(max_length=64)] = ()
    hypernetworks: Annotated[tuple[Hypernetwork, ...], Field(max_length=8)] = ()
    look_up: bool = True  # whether names in prompts are looked for; a recipe names their files

    width: Side | None = None  # None: the model's native size
    height: Side | None = None
    count: Annotated[int, Field(ge=1, le=10_000), NUMBER] = 1
    batch: Annotated[int, Field(ge=1, le=1024), NUMBER] = 1
    exact: bool | None = None  # True: the same bits in any batch. None: so in fp32 on the CPU

    seed: Seed | None = None  # None or -1: random; see `resolved`
    subseed: Seed | None = None
    subseed_strength: Fraction = 0.0
    resize_from: tuple[Side, Side] | None = None  # the first noise of this size fills the centre
    ensd: Annotated[int, Field(ge=-(2**62), le=2**62), NUMBER] = 0  # eta noise seed delta
    noise_source: NoiseSource = "cpu"
    # How the first noise is scaled: as the program does for this sampler, or by a rule of
    # `diffusion.process.start` by its name
    start: Start = "a1111"

    steps: Annotated[int, Field(ge=1, le=1000), NUMBER] = 20
    sampler: Name = "DPM++ 2M"
    schedule: Name = AUTOMATIC
    sampler_options: SamplerOptions = SamplerOptions()
    schedule_options: ScheduleOptions = ScheduleOptions()
    cfg_scale: Annotated[float, Field(ge=0, le=100), NUMBER] = 7.0
    guidance: Guidance = Guidance()
    reuse: Reuse = Reuse()
    token_merging: TokenMerging = TokenMerging()

    sizes: Sizes = Sizes()
    tile_vae: bool | None = None  # None: only when the picture is large

    source: Source | None = None
    mask: Mask | None = None
    extend: Extend | None = None
    image_cfg_scale: Annotated[float, Field(ge=0, le=100), NUMBER] = 1.5  # of InstructPix2Pix
    depth: FileName | None = None  # a depth map, near is bright, for a depth model
    refiner: Refiner | None = None
    controls: Annotated[tuple[Control, ...], Field(max_length=8)] = ()
    image_prompts: Annotated[tuple[ImagePrompt, ...], Field(max_length=8)] = ()
    references: Annotated[tuple[Reference, ...], Field(max_length=4)] = ()
    clip: FileName | None = None  # that sees for masks, guidance and judgement
    clip_guidance: ClipGuidance | None = None
    best_of: Annotated[int, Field(ge=1, le=64), NUMBER] = 1  # draw so many, keep the best by CLIP

    hires: Hires | None = None
    tiles: Tiles | None = None
    seamless: Seamless = "none"  # the picture continues at its other side
    regions: Annotated[tuple[Region, ...], Field(max_length=16)] = ()  # `prompt` is for the rest
    feather: Annotated[int, Field(ge=0, le=4096), NUMBER] | None = None  # pixels; None: an eighth
    background: Fraction = 0.0  # how much of a region the prompt of the picture has, too
    noise_level: Annotated[int, Field(ge=0, le=1000), NUMBER] = 20  # of the x4 upscaler's picture

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        for number, control in enumerate(self.controls):
            if control.picture is None and self.source is None:
                raise PydanticCustomError(
                    "sentence",
                    "controls.{number} needs a picture to follow; give picture, or source.picture.",
                    {"number": number},
                )
        for name in ("mask", "extend"):
            if getattr(self, name) is not None and self.source is None:
                raise PydanticCustomError(
                    "sentence",
                    "{name} needs a picture to work on; give source.picture.",
                    {"name": name},
                )
        return self

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        for clash in clashes(self):
            raise PydanticCustomError("sentence", "{clash}", {"clash": clash})
        return self

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        width, height = self.width or UNKNOWN_SIDE, self.height or UNKNOWN_SIDE
        work = width * height * self.steps
        if self.hires is not None:
            work += second_pixels(self.hires, width, height) * (self.hires.steps or self.steps)
        work *= self.count
        if work > WORK_LIMIT:
            raise PydanticCustomError(
                "sentence",
                "width x height x steps x count is {work}, and one request may ask for {limit}. "
                "Ask for fewer or smaller pictures.",
                {"work": work, "limit": WORK_LIMIT},
            )
        for name in ("seed", "subseed"):
            seed = getattr(self, name)
            if (
                seed is not None
                and seed + self.count * self.best_of + max(self.ensd, 0) > SEED_LIMIT
            ):
                raise PydanticCustomError(
                    "sentence",
                    "{name} + count + ensd must stay below 2**64; "
                    "got {name} {seed}, count {count} and ensd {ensd}.",
                    {"name": name, "seed": seed, "count": self.count, "ensd": self.ensd},
                )
        return self

    @classmethod
    def parse(cls, settings: Mapping[str, object], *, check_names: bool = True) -> Self:
        """A checked request from names and values, as they come from a terminal or a JSON body.

        Numbers may be given as text. With `check_names` the sampler and the schedule must exist
        and are stored under their canonical labels; this imports torch.
        Raises RequestError naming the setting, the value and what is allowed.
        """
        if not isinstance(settings, Mapping):
            raise RequestError(
                f"a request must be an object of settings; got {type(settings).__name__}."
            )
        request = cls(**{str(name): value for name, value in settings.items()})  # type: ignore[arg-type]
        return request.with_known_names() if check_names else request

    def with_known_names(self) -> Self:
        """The same request with sampler and schedule under their canonical labels.

        A sampler's name may carry its schedule, as A1111's did before 1.9 ("DPM++ 2M Karras").
        Raises RequestError for a name that no table has, an option that the sampler or the
        schedule does not take, or two names of schedules.
        """
        from safelight.diffusion.samplers import resolve_sampler_and_schedule
        from safelight.diffusion.schedules import resolve_schedule

        info, carried = resolve_sampler_and_schedule(self.sampler)
        info.checked(self.sampler_options.given())
        named = None if self.is_automatic else resolve_schedule(self.schedule)
        if carried is not None:
            other, named = named, resolve_schedule(carried)
            if other is not None and other.name != named.name:
                raise RequestError(
                    f"sampler {echo(self.sampler)} names the schedule {named.label}, "
                    f"but schedule is {other.label}. Give one of them."
                )
        used = named or resolve_schedule(info.default_schedule)
        for option in self.schedule_options.given():
            if option not in used.options:
                known = f"takes {', '.join(used.options)}" if used.options else "takes no options"
                raise RequestError(f"schedule {used.label} has no option {option}; it {known}.")
        names = {"sampler": info.label, "schedule": named.label if named else AUTOMATIC}
        # what was left open and has the default's name stays open
        same = self.replace(**{k: v for k, v in names.items() if getattr(self, k) != v})
        return same if same.hires is None else same._with_known_hires(same.hires)

    def _with_known_hires(self, hires: Hires) -> Self:
        """The same request with the second pass's sampler and schedule under their labels."""
        second = {"sampler": hires.sampler, "schedule": hires.schedule}
        given = {name: value for name, value in second.items() if value is not None}
        if not given:
            return self
        known = self.replace(**given, hires=None).with_known_names()
        told = {
            name: getattr(known, name)
            for name in second
            if name in given or getattr(known, name) != getattr(self, name)
        }
        if all(getattr(hires, name) == value for name, value in told.items()):
            return self
        return self.replace(hires=hires.replace(**told))

    def suited(self, settings: Mapping[str, object]) -> Self:
        """The same request with these settings of a model where it leaves them open.

        The model's schedule belongs to its sampler: it is left out for another sampler. Raises
        RequestError if what was given does not go with them, as an option of another sampler.
        """
        below = {name: v for name, v in settings.items() if name not in self.model_fields_set}
        if "sampler" in self.model_fields_set:
            below.pop("schedule", None)
        return self.replace(**below).with_known_names() if below else self

    @property
    def needs_model(self) -> bool:
        """Whether anything is drawn; else a picture is only made larger."""
        return self.source is None or self.source.redraw

    @property
    def is_automatic(self) -> bool:
        """Whether the sampler chooses its own schedule."""
        return self.schedule.strip().lower() in ("automatic", "auto")

    def resolved(self) -> Self:
        """The same request with every random choice made: seed and subseed become concrete."""
        seed = self.seed if self.seed not in (None, -1) else secrets.randbelow(RANDOM_SEED_LIMIT)
        subseed = self.subseed if self.subseed_strength else None
        if self.subseed_strength and subseed in (None, -1):
            subseed = secrets.randbelow(RANDOM_SEED_LIMIT)
        return self.replace(seed=seed, subseed=subseed)

    def single(self, index: int) -> Self:
        """The request that draws picture `index` of this resolved one alone.

        Picture k uses seed + k, or seed + k n for the best of n; with a variation strength the seed
        stays and subseed + k is used, so that a batch shows variations of one picture (A1111's
        rule).
        Raises RequestError if the seed is still random.
        """
        if self.seed is None or self.seed < 0:
            raise RequestError("the seed is random; resolve the request before taking one picture.")
        assert 0 <= index < self.count, (index, self.count)
        step = index * self.best_of
        if self.subseed is None or not self.subseed_strength:
            return self.replace(seed=self.seed + step, count=1, batch=1)
        return self.replace(subseed=self.subseed + step, count=1, batch=1)
