"""The settings of a drawing as command-line options: written once for every verb that draws."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer

from safelight.cli.groups import (
    control,
    embedding,
    hypernetwork,
    image_prompt,
    lora,
    reference,
    region,
)
from safelight.errors import RequestError

Result = TypeVar("Result")

PROMPT = "The words"
DRAWING = "The drawing"
MODEL = "The model"
SEEDS = "Seeds and noise"
GUIDANCE = "Guidance"
THRIFT = "Faster, and nearly the same"
SAMPLING = "Sampler details"
SCHEDULING = "Schedule details"
XL = "SDXL's sizes"
PICTURE = "A picture to start from"
CONTROL = "What it follows"
MASK = "What of it is painted"
BORDERS = "Beyond its borders"
LARGE = "Large pictures"
PLACES = "Words for places"


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
    Setting("model", ("--model", "-m"), str, "A .safetensors or .ckpt file, a Diffusers folder, or a name [embedded].", MODEL),
    Setting("loras", ("--lora",), list[str], "FILE:WEIGHT,start=...,blocks=...: a LoRA or its kin; <lora:NAME:WEIGHT> in the prompt does the same; repeatable.", MODEL),
    Setting("embeddings", ("--embedding",), list[str], "FILE,word=...: a textual inversion and how prompts say it [the file's name]; repeatable.", MODEL),
    Setting("hypernetworks", ("--hypernetwork",), list[str], "FILE:WEIGHT: a hypernetwork in A1111's format; repeatable.", MODEL),
    Setting("look_up", ("--look-up/--no-look-up",), bool, "Look for tags and learned words of prompts in the folders loras, embeddings, hypernetworks [on].", MODEL),
    Setting("vae", ("--vae",), str, "Another autoencoder's file or folder.", MODEL),
    Setting("ema", ("--ema/--no-ema",), bool, "Take the EMA weights of a file that has both.", MODEL),
    Setting("prediction", ("--prediction",), str, "eps, v, x0, flow or edm [as the file says].", MODEL),
    Setting("zero_terminal_snr", ("--zero-snr/--no-zero-snr",), bool, "Zero terminal SNR [as the file says].", MODEL),
    Setting("dtype", ("--dtype",), str, "fp32, bf16 or fp16 [fp32 on the CPU, fp16 elsewhere].", MODEL),
    Setting("device", ("--device",), str, "cpu, cuda, cuda:1, xpu or mps [the best there is].", MODEL),
    Setting("engine", ("--engine",), str, "What computes the model: eager (default), auto (what is done soonest here, measured once), compiled, openvino, openvino-int8, int8-dynamic, int8-weights for less memory, or on a GPU recorded or fp8.", MODEL),
    Setting("offload", ("--offload",), str, "Less memory, same bits: none, parts (each is there only while it works), sequential (and the U-Net block by block) [none if that fits; parts for one picture].", MODEL),
    Setting("seed", ("--seed",), int, "Seed of the first picture [random].", SEEDS),
    Setting("subseed", ("--subseed",), int, "Seed of a variation [random].", SEEDS),
    Setting("subseed_strength", ("--subseed-strength",), float, "How far towards the variation, 0 to 1.", SEEDS),
    Setting("resize_from", ("--resize-from",), str, "WIDTHxHEIGHT of another size, whose noise fills the centre.", SEEDS),
    Setting("noise_source", ("--noise",), str, "cpu (default), or nv: as an NVIDIA GPU draws it.", SEEDS),
    Setting("ensd", ("--ensd",), int, "Eta noise seed delta [0].", SEEDS),
    Setting("start", ("--start",), str, "First noise scaled as in a1111 (default) or diffusers, or by sigma, or to unit variance.", SEEDS),
    Setting("source.picture", ("--source",), str, "The picture; `safelight edit` takes it as its first word.", PICTURE),
    Setting("source.strength", ("--strength",), float, "How much of it is drawn anew: 0 returns it [0.75].", PICTURE),
    Setting("source.strength_rule", ("--strength-rule",), str, "How strength counts in steps: a1111 (default), a1111_exact, diffusers or comfy.", PICTURE),
    Setting("source.resize", ("--resize",), str, "To the size that is drawn: just (stretched, default), crop, fill, or latent.", PICTURE),
    Setting("source.scale", ("--scale",), float, "Draw so many times as large as the picture.", PICTURE),
    Setting("source.upscaler", ("--upscaler",), str, "What makes it larger first: Lanczos, Nearest, or the file of an ESRGAN-like network [Lanczos].", PICTURE),
    Setting("source.redraw", ("--redraw/--no-redraw",), bool, "Off: only make it larger; no model draws.", PICTURE),
    Setting("source.colour_correction", ("--colour-correction/--no-colour-correction",), bool, "Give the result the colours of the picture.", PICTURE),
    Setting("source.loops", ("--loops",), int, "Draw so many times, each on what came before [1].", PICTURE),
    Setting("source.last_strength", ("--last-strength",), float, "Strength of the last loop [--strength].", PICTURE),
    Setting("noise_level", ("--noise-level",), int, "The x4 upscaler: how much of the picture it may doubt [20].", PICTURE),
    Setting("image_cfg_scale", ("--image-cfg",), float, "InstructPix2Pix: how close to the picture [1.5].", PICTURE),
    Setting("depth", ("--depth",), str, "Depth models: a grey map in which near is bright.", PICTURE),
    Setting("refiner.model", ("--refiner",), str, "A model that takes over for the last steps.", MODEL),
    Setting("refiner.switch", ("--refiner-switch",), float, "After this share of the noise is gone [0.8].", MODEL),
    Setting("controls", ("--control",), list[str], "FILE,picture=...,preprocessor=...,scale=...: follow a map; embedded-edges is one that goes with the embedded model; repeatable.", CONTROL),
    Setting("references", ("--reference",), list[str], "PICTURE,fidelity=0.5,...: self-attention looks at it, too (reference_only); repeatable.", CONTROL),
    Setting("image_prompts", ("--image-prompt",), list[str], "FILE,picture=...,scale=...: an IP-Adapter and its pictures; repeatable.", CONTROL),
    Setting("clip", ("--clip",), str, "The CLIP that sees for --mask-text, --clip-guidance and --best-of [the model's own, else the embedded].", CONTROL),
    Setting("clip_guidance.scale", ("--clip-guidance",), float, "Climb a CLIP's similarity to the prompt with this weight; switches it on [4].", GUIDANCE),
    Setting("clip_guidance.gradient", ("--clip-gradient",), str, "through the network (default), or at the estimate, which is cheaper.", GUIDANCE),
    Setting("clip_guidance.text", ("--clip-text",), str, "Climb towards these words instead.", GUIDANCE),
    Setting("clip_guidance.cut_outs", ("--clip-cut-outs",), int, "Squares of the picture that CLIP is shown in a step [8].", GUIDANCE),
    Setting("clip_guidance.start", ("--clip-start",), float, "From this fraction of the steps.", GUIDANCE),
    Setting("clip_guidance.end", ("--clip-end",), float, "Until this fraction of the steps.", GUIDANCE),
    Setting("best_of", ("--best-of",), int, "Draw so many with seeds in a row, and keep the one that a CLIP finds best [1].", DRAWING),
    Setting("mask.picture", ("--mask",), str, "A picture of the same size: white is painted, black stays to the last bit.", MASK),
    Setting("mask.reading", ("--mask-reading",), str, "Of a mask with transparency: luminance, transparent or opaque is painted.", MASK),
    Setting("mask.text", ("--mask-text",), str, "Paint what a CLIP finds these words in.", MASK),
    Setting("mask.threshold", ("--mask-threshold",), float, "How sure it must be, 0 to 1 [by itself].", MASK),
    Setting("mask_alpha", ("--mask-alpha",), bool, "Paint where the picture is transparent.", MASK),
    Setting("mask.invert", ("--mask-invert/--no-mask-invert",), bool, "Paint what the mask leaves out.", MASK),
    Setting("mask.grow", ("--mask-grow",), int, "Grow the mask by so many pixels; below 0 shrink it.", MASK),
    Setting("mask.blur", ("--mask-blur",), float, "Width in pixels of its soft edge [4].", MASK),
    Setting("mask.edge", ("--mask-edge",), str, "Where that lies: inside (default), or across: half of it outside, as in A1111.", MASK),
    Setting("mask.content", ("--mask-content",), str, "What is under it at first: original (default), fill, context, noise or nothing.", MASK),
    Setting("mask.soft", ("--mask-soft/--no-mask-soft",), bool, "Grey is painted less than white: a strength for each pixel.", MASK),
    Setting("mask.area", ("--mask-area",), str, "whole (default), or masked: enlarge the masked part to the size that is drawn.", MASK),
    Setting("mask.padding", ("--mask-padding",), int, "Pixels around the masked part that are seen with it [32].", MASK),
    Setting("mask.match_colour", ("--match-colour/--no-match-colour",), bool, "Fit the painted part's colours to what surrounds it [on].", MASK),
    Setting("extend", ("--extend",), str, "Pixels to add, such as left=256,right=256, or all=64.", BORDERS),
    Setting("extend.fill", ("--extend-fill",), str, "What a border holds at first: context (default), mirror, edge or noise.", BORDERS),
    Setting("extend.overlap", ("--extend-overlap",), int, "Known pixels that each new part repaints [an eighth of it].", BORDERS),
    Setting("extend.left_prompt", ("--left-prompt",), str, "Words for the left border alone.", BORDERS),
    Setting("extend.right_prompt", ("--right-prompt",), str, "The same for the right one.", BORDERS),
    Setting("extend.top_prompt", ("--top-prompt",), str, "The same for the top one.", BORDERS),
    Setting("extend.bottom_prompt", ("--bottom-prompt",), str, "The same for the bottom one.", BORDERS),
    Setting("hires.scale", ("--hires",), float, "Draw a second pass over the picture, made so many times as large [2].", LARGE),
    Setting("hires.size", ("--hires-size",), str, "The same to WIDTHxHEIGHT; a 0 keeps the aspect.", LARGE),
    Setting("hires.upscaler", ("--hires-upscaler",), str, "What makes it larger: Latent (default) and its kinds, Lanczos, Nearest, or a file.", LARGE),
    Setting("hires.strength", ("--hires-strength",), float, "How much is drawn anew [0.7].", LARGE),
    Setting("hires.steps", ("--hires-steps",), int, "Steps of the second pass; 0: as many as before [0].", LARGE),
    Setting("hires.prompt", ("--hires-prompt",), str, "Other words for the second pass.", LARGE),
    Setting("hires.negative_prompt", ("--hires-negative",), str, "The same for the negative prompt.", LARGE),
    Setting("hires.cfg_scale", ("--hires-cfg",), float, "Guidance scale of the second pass.", LARGE),
    Setting("hires.sampler", ("--hires-sampler",), str, "Sampler of the second pass.", LARGE),
    Setting("hires.schedule", ("--hires-schedule",), str, "Its spacing of the noise levels.", LARGE),
    Setting("tiles.size", ("--tile",), str, "See the picture through windows of so many pixels: 512, or WIDTHxHEIGHT.", LARGE),
    Setting("tiles.overlap", ("--tile-overlap",), int, "Pixels that windows share at least [a quarter of one].", LARGE),
    Setting("tiles.weighting", ("--tile-weighting",), str, "gaussian (default): less towards a window's edges; or uniform.", LARGE),
    Setting("tiles.batch", ("--tile-batch",), int, "Windows computed at once [1].", LARGE),
    Setting("seamless", ("--seamless",), str, "Let the picture continue at its other side: x, y or both.", LARGE),
    Setting("regions", ("--region",), list[str], "'PLACE: WORDS' for a part; PLACE is left, right, top, bottom, middle, LEFT,TOP,RIGHT,BOTTOM or a mask's file; repeatable.", PLACES),
    Setting("feather", ("--feather",), int, "Pixels over which regions go over into each other [an eighth].", PLACES),
    Setting("background", ("--background",), float, "How much the prompt counts within regions, too, 0 to 1 [0].", PLACES),
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
    Setting("reuse.steps", ("--reuse",), float, "Leave out calls that would move the estimate by no more than this share of the noisy latents, such as 0.05 [0].", THRIFT),
    Setting("reuse.guidance", ("--reuse-guidance",), float, "Leave out the negative prompt's half of calls likewise [0].", THRIFT),
    Setting("reuse.every", ("--reuse-deep",), int, "Ask the U-Net's deep part in every n-th call alone (DeepCache) [1].", THRIFT),
    Setting("reuse.blocks", ("--reuse-blocks",), int, "How many of its outermost blocks the other calls ask [1].", THRIFT),
    Setting("token_merging.ratio", ("--merge-tokens",), float, "Merge this share of the tokens before self-attention, up to 0.75 [0].", THRIFT),
    Setting("token_merging.levels", ("--merge-levels",), int, "In so many levels of the U-Net, the finest first [1].", THRIFT),
    Setting("token_merging.parts", ("--merge-parts",), list[str], "Before self (default), cross and feed-forward; repeatable.", THRIFT),
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


SIDES = ("left", "right", "top", "bottom")

# Settings that hold several in one text
GROUPS: Mapping[str, Callable[[str], dict[str, object]]] = {
    "controls": control,
    "embeddings": embedding,
    "hypernetworks": hypernetwork,
    "image_prompts": image_prompt,
    "loras": lora,
    "references": reference,
    "regions": region,
}

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
            case _ if name in GROUPS:
                assert isinstance(value, list)
                mapping[name] = [GROUPS[name](text) for text in value]
            case "tiles__size":
                text = str(value).strip()
                both = f"{text}x{text}" if text.isdecimal() else text
                _put(mapping, ["tiles", "size"], size(both, "--tile"))
            case "mask_alpha":
                mapping.setdefault("mask", {})
            case "extend":
                from safelight.canvas.extension import Extension

                grown = Extension.parse(str(value))
                for side in SIDES:
                    _put(mapping, ["extend", side], getattr(grown, side))
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
