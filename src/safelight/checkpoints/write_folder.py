"""A model as the Diffusers folder that Diffusers and Transformers load again."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from safelight.checkpoints.about import FILE as ABOUT
from safelight.checkpoints.about import about_to_json
from safelight.checkpoints.keymap import Row
from safelight.checkpoints.model_json import clip_to_json, vae_to_json
from safelight.checkpoints.noising_json import KEY as NOISING
from safelight.checkpoints.noising_json import MAX_LEVEL, noising_to_json
from safelight.checkpoints.scheduler_json import scheduler_to_json
from safelight.checkpoints.stock import Stock, entries
from safelight.checkpoints.tokenizer_files import write_tokenizer
from safelight.checkpoints.unet_json import unet_to_json
from safelight.checkpoints.vae_file import STEM
from safelight.checkpoints.vision_json import PREPROCESSOR, preprocessor_to_json, vision_to_json
from safelight.checkpoints.writing import Entry, write_json, write_shards
from safelight.families import Family
from safelight.models.clip import ClipTextConfig, ClipVisionConfig
from safelight.models.taesd import TinyAutoencoderConfig
from safelight.models.unet import UNetConfig
from safelight.writing import whole_folder

_AS_IT_IS = (Row("", ""),)
_TRANSFORMERS = (ClipTextConfig, ClipVisionConfig)  # whose weights are called `model`
_PIPELINES: Mapping[tuple[str, str], str] = {
    ("none", "text"): "StableDiffusionPipeline",
    ("none", "inpaint"): "StableDiffusionInpaintPipeline",
    ("none", "edit"): "StableDiffusionInstructPix2PixPipeline",
    ("none", "depth"): "StableDiffusionDepth2ImgPipeline",
    ("none", "variation"): "StableUnCLIPImg2ImgPipeline",
    ("none", "upscale"): "StableDiffusionUpscalePipeline",
    ("sdxl", "text"): "StableDiffusionXLPipeline",
    ("sdxl", "inpaint"): "StableDiffusionXLInpaintPipeline",
    ("sdxl", "edit"): "StableDiffusionXLInstructPix2PixPipeline",
    ("refiner", "refine"): "StableDiffusionXLImg2ImgPipeline",
}


def write_diffusers(
    stocks: list[Stock],
    family: Family,
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    max_file_bytes: int | None = None,
    remarks: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """All parts of a model in a new folder; see `save`.

    remarks: metadata of every weights file.
    Raises OutputError if that cannot be done, RequestError for a tensor that no file may hold.
    """
    files = {_folder(stock, family): _entries(stock, dtype) for stock in stocks}
    size = sum(entry.nbytes for part in files.values() for entry in part)
    with whole_folder(path, size) as folder:
        for stock in stocks:
            name = _folder(stock, family)
            stem = "model" if isinstance(stock.config, _TRANSFORMERS) else STEM
            (folder / name).mkdir()
            metadata = {"format": "pt", **remarks}
            write_shards(folder / name, stem, files[name], metadata, max_file_bytes)
            write_json(folder / name / "config.json", part_json(stock, family))
        for role, name in zip(family.text.roles, _text_folders(family), strict=True):
            tokenizer = name.replace("text_encoder", "tokenizer")
            write_tokenizer(folder / tokenizer, family.text.vocabulary, pad=role.pad)
        vision = next((s.config for s in stocks if isinstance(s.config, ClipVisionConfig)), None)
        if vision is not None:
            write_json(folder / "feature_extractor" / PREPROCESSOR, preprocessor_to_json(vision))
        _write_schedulers(folder, family)
        write_json(folder / "model_index.json", _index(family, seeing=vision is not None))
        if (about := about_to_json(family)) is not None:
            write_json(folder / ABOUT, about)


def part_json(stock: Stock, family: Family) -> dict[str, object]:
    """The config.json of one part."""
    match stock.config:
        case UNetConfig() as unet:
            sample = family.native_size // family.codec.factor
            return unet_to_json(unet, sample_size=sample, size_width=family.text.size_width)
        case ClipTextConfig() as text:
            return clip_to_json(text)
        case ClipVisionConfig() as vision:
            return vision_to_json(vision)
        case _:
            return vae_to_json(family.codec, native_size=family.native_size)


def _entries(stock: Stock, dtype: torch.dtype | None) -> list[Entry]:
    return entries(stock, _AS_IT_IS, dtype=dtype)


def _text_folders(family: Family) -> tuple[str, ...]:
    """The refiner's only text encoder is XL's second, and is called so."""
    if family.text.vector == "refiner":
        return ("text_encoder_2",)
    return ("text_encoder", "text_encoder_2")[: len(family.text.roles)]


def _folder(stock: Stock, family: Family) -> str:
    return _text_folders(family)[0] if stock.role == "text_encoder" else stock.role


def _write_schedulers(folder: Path, family: Family) -> None:
    scheduler = scheduler_to_json(family.process, family.hint)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    if family.noising is not None:
        noising = noising_to_json(family.noising, with_level=False)
        write_json(folder / NOISING / "scheduler_config.json", noising)


def _index(family: Family, *, seeing: bool) -> dict[str, object]:
    vector, task = family.text.vector, family.task
    pipeline = _PIPELINES.get((vector, task), "StableDiffusionPipeline")
    if family.backbone.guidance_width is not None and pipeline == "StableDiffusionPipeline":
        pipeline = "LatentConsistencyModelPipeline"
    tiny = isinstance(family.codec.autoencoder, TinyAutoencoderConfig)
    scheduler = scheduler_to_json(family.process, family.hint)
    index: dict[str, object] = {
        "_class_name": pipeline,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny" if tiny else "AutoencoderKL"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    }
    for role, name in zip(family.text.roles, _text_folders(family), strict=True):
        # Where nothing pools, pipelines take the first output, which must be the hidden states.
        kind = "CLIPTextModelWithProjection" if role.pooled else "CLIPTextModel"
        index[name] = ["transformers", kind]
        index[name.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
    absent: list[str] = ["image_encoder", "feature_extractor"]
    if vector == "none":
        absent.append("safety_checker")
        index["requires_safety_checker"] = False
    else:
        index["force_zeros_for_empty_prompt"] = family.text.force_zeros_for_empty_negative
    if vector == "refiner":
        index["requires_aesthetics_score"] = True
    if family.noising is not None:
        index |= {NOISING: ["diffusers", "DDPMScheduler"], MAX_LEVEL: family.noising.max_level}
        absent = ["feature_extractor", "safety_checker", "watermarker"]
    if seeing:
        index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    return {name: [None, None] for name in absent} | index
