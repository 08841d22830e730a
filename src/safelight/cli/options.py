"""The settings of a drawing as command-line options: written once for every verb that draws."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from safelight.errors import RequestError

Result = TypeVar("Result")

# Options that several verbs have besides the settings of a drawing
Like = Annotated[
    Path | None, typer.Option("--like", help="Start from the settings that a picture carries.")
]
Metadata = Annotated[
    bool, typer.Option("--metadata/--no-metadata", help="Store the recipe in the file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a picture.")]
StyleNames = Annotated[
    list[str] | None, typer.Option("--style", help="A style by name; see --styles. Repeatable.")
]
Styles = Annotated[
    Path | None,
    typer.Option("--styles", help="The table of styles, as A1111 has it [styles.csv]."),
]
WildcardFolder = Annotated[
    Path | None, typer.Option("--wildcards", help="Folder of the lists that __name__ picks from.")
]
Dynamic = Annotated[
    bool, typer.Option("--dynamic/--no-dynamic", help="Read {a|b} and __name__ as choices.")
]

PROMPT = "The words"
DRAWING = "The drawing"
MODEL = "The model"
SEEDS = "Seeds and noise"
GUIDANCE = "Guidance"
SAMPLING = "Sampler details"
SCHEDULING = "Schedule details"
XL = "SDXL's sizes"


@dataclass(frozen=True)
class Setting:
    """One option: where it goes in a request (dotted), its flags, its type and its meaning."""

    field: str
    flags: tuple[str, ...]
    kind: Any
    help: str
    panel: str

    @property
    def parameter(self) -> str:
        return self.field.replace(".", "__")


SETTINGS: tuple[Setting, ...] = (
    Setting("negative_prompt", ("--negative", "-n"), str, "What the picture should not show.", PROMPT),
    Setting("dialect", ("--dialect",), str, "a1111 (default), comfy, compel or plain.", PROMPT),
    Setting("emphasis", ("--emphasis",), str, "How weights act: original (default), no norm, ignore, none, comfy or compel.", PROMPT),
    Setting("clip_skip", ("--clip-skip",), int, "Take the text from the n-th last layer.", PROMPT),
    Setting("force_clip_skip", ("--force-clip-skip/--no-force-clip-skip",), bool, "Let clip skip act on SDXL, too.", PROMPT),
    Setting("comma_backtrack", ("--comma-backtrack",), int, "How far back a full chunk may end at a comma [20].", PROMPT),
    Setting("max_chunks", ("--max-chunks",), int, "Refuse prompts of more chunks of 75 tokens [64].", PROMPT),
    Setting("steps", ("--steps", "-s"), int, "Sampling steps [the model's own, else 20].", DRAWING),
    Setting("sampler", ("--sampler",), str, "A1111's, ComfyUI's and Diffusers' names work [the model's own, else DPM++ 2M].", DRAWING),
    Setting("schedule", ("--schedule",), str, "Spacing of the noise levels [the model's own, else the sampler's].", DRAWING),
    Setting("cfg_scale", ("--cfg",), float, "Guidance scale; 1 leaves the negative prompt out [the model's own, else 7].", DRAWING),
    Setting("size", ("--size",), str, "WIDTHxHEIGHT in pixels [the model's own].", DRAWING),
    Setting("count", ("--count", "-c"), int, "How many pictures; each has the next seed [1].", DRAWING),
    Setting("batch", ("--batch", "-b"), int, "Pictures computed at once [1].", DRAWING),
    Setting("exact", ("--exact/--no-exact",), bool, "Same bits in any batch, computed apart [on in fp32 on the CPU].", DRAWING),
    Setting("tile_vae", ("--tile-vae/--no-tile-vae",), bool, "Decode in bands, with less memory [only when large].", DRAWING),
    Setting("model", ("--model", "-m"), str, "A .safetensors or .ckpt file, a Diffusers folder, or a name.", MODEL),
    Setting("vae", ("--vae",), str, "Another autoencoder's file or folder.", MODEL),
    Setting("ema", ("--ema/--no-ema",), bool, "Take the EMA weights of a file that has both.", MODEL),
    Setting("prediction", ("--prediction",), str, "eps, v, x0, flow or edm [as the file says].", MODEL),
    Setting("zero_terminal_snr", ("--zero-snr/--no-zero-snr",), bool, "Zero terminal SNR [as the file says].", MODEL),
    Setting("dtype", ("--dtype",), str, "fp32, bf16 or fp16 [fp32 on the CPU, fp16 elsewhere].", MODEL),
    Setting("device", ("--device",), str, "cpu, cuda, cuda:1, xpu or mps [the best there is].", MODEL),
    Setting("seed", ("--seed",), int, "Seed of the first picture [random].", SEEDS),
    Setting("subseed", ("--subseed",), int, "Seed of a variation [random].", SEEDS),
    Setting("subseed_strength", ("--subseed-strength",), float, "How far towards the variation, 0 to 1.", SEEDS),
    Setting("resize_from", ("--resize-from",), str, "WIDTHxHEIGHT of another size, whose noise fills the centre.", SEEDS),
    Setting("noise_source", ("--noise",), str, "cpu (default), or nv: as an NVIDIA GPU draws it.", SEEDS),
    Setting("ensd", ("--ensd",), int, "Eta noise seed delta [0].", SEEDS),
    Setting("start", ("--start",), str, "First noise scaled as in a1111 (default) or diffusers, or by sigma, or to unit variance.", SEEDS),
    Setting("guidance.rescale", ("--rescale",), float, "Guidance rescale, 0 to 1.", GUIDANCE),
    Setting("guidance.start", ("--guidance-start",), float, "Guide from this fraction of the steps.", GUIDANCE),
    Setting("guidance.end", ("--guidance-end",), float, "Guide until this fraction of the steps.", GUIDANCE),
    Setting("guidance.thresholding.mimic_scale", ("--mimic-scale",), float, "Dynamic thresholding to this scale's range; switches it on [7].", GUIDANCE),
    Setting("guidance.thresholding.percentile", ("--percentile",), float, "Dynamic thresholding's percentile, 0 to 1; switches it on [0.995].", GUIDANCE),
    Setting("guidance.apg.norm_threshold", ("--apg",), float, "Adaptive projected guidance with this norm; switches it on [15].", GUIDANCE),
    Setting("guidance.apg.eta", ("--apg-eta",), float, "APG: share of the parallel part; switches APG on [0].", GUIDANCE),
    Setting("guidance.apg.momentum", ("--apg-momentum",), float, "APG: momentum; switches APG on [-0.5].", GUIDANCE),
    Setting("guidance.pag.scale", ("--pag",), float, "Perturbed-attention guidance scale; switches it on [3].", GUIDANCE),
    Setting("guidance.pag.layers", ("--pag-layers",), list[str], "Where: mid (default), up, down, or module names; switches PAG on.", GUIDANCE),
    Setting("guidance.sag.scale", ("--sag",), float, "Self-attention guidance scale; switches it on.", GUIDANCE),
    Setting("freeu", ("--freeu",), str, "FreeU's b1,b2,s1,s2, such as 1.5,1.6,0.9,0.2.", GUIDANCE),
    Setting("sampler_options.eta", ("--eta",), float, "Share of fresh noise [the sampler's own].", SAMPLING),
    Setting("sampler_options.s_churn", ("--s-churn",), float, "Noise added before steps.", SAMPLING),
    Setting("sampler_options.s_tmin", ("--s-tmin",), float, "Lowest sigma at which to churn.", SAMPLING),
    Setting("sampler_options.s_tmax", ("--s-tmax",), float, "Highest sigma at which to churn.", SAMPLING),
    Setting("sampler_options.s_noise", ("--s-noise",), float, "Factor on every fresh noise.", SAMPLING),
    Setting("sampler_options.order", ("--order",), int, "Order of a multistep method.", SAMPLING),
    Setting("sampler_options.r", ("--sampler-r",), float, "DPM++ SDE: place of its probe within a step.", SAMPLING),
    Setting("sampler_options.solver_type", ("--solver-type",), str, "Form of a solver: midpoint or heun, bh1 or bh2.", SAMPLING),
    Setting("sampler_options.rtol", ("--rtol",), float, "DPM adaptive: relative tolerance.", SAMPLING),
    Setting("sampler_options.atol", ("--atol",), float, "DPM adaptive: absolute tolerance.", SAMPLING),
    Setting("sampler_options.h_init", ("--h-init",), float, "DPM adaptive: first step.", SAMPLING),
    Setting("schedule_options.rho", ("--rho",), float, "Karras, polyexponential: how dense near zero.", SCHEDULING),
    Setting("schedule_options.sigma_min", ("--sigma-min",), float, "Karras, exponential: the lowest noise level.", SCHEDULING),
    Setting("schedule_options.sigma_max", ("--sigma-max",), float, "Karras, exponential: the highest noise level.", SCHEDULING),
    Setting("schedule_options.alpha", ("--beta-alpha",), float, "Beta: its alpha.", SCHEDULING),
    Setting("schedule_options.beta", ("--beta-beta",), float, "Beta: its beta.", SCHEDULING),
    Setting("schedule_options.steps_offset", ("--steps-offset",), int, "Leading: added to every timestep.", SCHEDULING),
    Setting("schedule_options.original_steps", ("--original-steps",), int, "LCM: steps that it was distilled with.", SCHEDULING),
    Setting("sizes.original", ("--original-size",), str, "WIDTHxHEIGHT told as the original size.", XL),
    Setting("sizes.target", ("--target-size",), str, "WIDTHxHEIGHT told as the target size.", XL),
    Setting("sizes.negative_original", ("--negative-original-size",), str, "The same for the negative prompt.", XL),
    Setting("sizes.negative_target", ("--negative-target-size",), str, "The same for the negative prompt.", XL),
    Setting("sizes.aesthetic_score", ("--aesthetic-score",), float, "The refiner's score [6].", XL),
    Setting("sizes.negative_aesthetic_score", ("--negative-aesthetic-score",), float, "The same for the negative prompt [2.5].", XL),
    Setting("crop", ("--crop",), str, "LEFT,TOP told as the crop.", XL),
)  # fmt: skip


# Settings of two numbers, by parameter, with the flag that messages name
PAIRS = {
    setting.parameter: setting.flags[0]
    for setting in SETTINGS
    if setting.field == "resize_from" or setting.flags[0].endswith("-size")
}


def in_flags(message: str) -> str:
    """A message about the fields of a request, with their options' names instead.

    A field of one plain word is one only where a sentence begins with it: "seed must be ...".
    """
    names = {setting.field: setting.flags[0].partition("/")[0] for setting in SETTINGS}
    for setting in SETTINGS:
        if setting.parameter in PAIRS:
            names[setting.field] = PAIRS[setting.parameter]
    names |= {side: f"--size: {side}" for side in ("width", "height")}
    names |= {f"sizes.crop_{side}": f"--crop: {side}" for side in ("left", "top")}
    names |= {f"guidance.freeu.{gain}": f"--freeu: {gain}" for gain in ("b1", "b2", "s1", "s2")}
    for field, flag in names.items():
        begins = r"(?<![\w.'\"/\\-])" if "_" in field or "." in field else r"(?:^|(?<=[.] ))"
        message = re.sub(
            rf"{begins}{re.escape(field)}(?=(?:\.\d+)? (?:must|is|cannot)\b)", flag, message
        )
    return message


def takes_settings(function: Callable[..., Result]) -> Callable[..., Result]:
    """Give a verb, written with `**settings`, all the options of a drawing.

    An option that is not given does not reach the verb.
    """

    def verb(**values: object) -> Result:
        return function(**{name: value for name, value in values.items() if value is not None})

    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = [
        inspect.Parameter(
            setting.parameter,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                setting.kind | None,
                typer.Option(*setting.flags, help=setting.help, rich_help_panel=setting.panel),
            ],
        )
        for setting in SETTINGS
    ]
    verb.__doc__ = function.__doc__
    verb.__name__ = function.__name__
    verb.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    return verb


def request_mapping(settings: Mapping[str, object]) -> dict[str, object]:
    """Option values by parameter name, as the nested mapping that `Request.parse` takes.

    Raises RequestError for a size, crop or FreeU text that cannot be read.
    """
    mapping: dict[str, object] = {}
    for name, value in settings.items():
        if value is None or value == []:
            continue
        match name:
            case "size":
                mapping["width"], mapping["height"] = size(str(value), "--size")
            case _ if name in PAIRS:
                _put(mapping, name.split("__"), size(str(value), PAIRS[name]))
            case "crop":
                left, top = _numbers(str(value), "--crop", 2)
                _put(mapping, ["sizes", "crop_left"], int(left))
                _put(mapping, ["sizes", "crop_top"], int(top))
            case "freeu":
                factors = _numbers(str(value), "--freeu", 4)
                gains = dict(zip(("b1", "b2", "s1", "s2"), factors, strict=True))
                _put(mapping, ["guidance", "freeu"], gains)
            case _:
                _put(mapping, name.split("__"), value)
    return mapping


def size(text: str, option: str) -> tuple[int, int]:
    """(width, height) of a text such as 512x768. Raises RequestError for another text."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*[xX×,:]\s*(\d{1,6})\s*", text)
    if found is None:
        raise RequestError(f"{option} must be WIDTHxHEIGHT, such as 512x768; got {text!r}.")
    return int(found[1]), int(found[2])


def _numbers(text: str, option: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise RequestError(f"{option} must be {count} numbers with commas between; got {text!r}.")
    return numbers


def _put(mapping: dict[str, object], path: list[str], value: object) -> None:
    for name in path[:-1]:
        inner = mapping.setdefault(name, {})
        assert isinstance(inner, dict)
        mapping = inner
    mapping[path[-1]] = value
