"""A model as one safetensors file of the original layout, which most programs read."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from safelight.checkpoints.about import KEY as ABOUT
from safelight.checkpoints.about import about_to_json
from safelight.checkpoints.keymap import Row
from safelight.checkpoints.kinds import UNET
from safelight.checkpoints.noising_json import KEY as NOISING
from safelight.checkpoints.noising_json import noising_to_json
from safelight.checkpoints.rows_autoencoder import autoencoder_rows
from safelight.checkpoints.rows_clip import open_clip_rows, transformers_rows
from safelight.checkpoints.rows_unet import unet_rows
from safelight.checkpoints.scheduler_json import scheduler_to_json
from safelight.checkpoints.single_file import VAE
from safelight.checkpoints.single_text import REFINER, SD1, SD2, XL, Place
from safelight.checkpoints.stock import Stock, entries
from safelight.checkpoints.stored_config import written_configs
from safelight.checkpoints.vocabulary_json import vocabulary_to_json
from safelight.checkpoints.write_folder import part_json
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import RequestError
from safelight.families import Family
from safelight.models.autoencoder import AutoencoderConfig
from safelight.models.clip import ClipTextConfig, ClipVisionConfig
from safelight.models.unet import UNetConfig
from safelight.printable import shown
from safelight.text.vocabulary import CLIP_VOCABULARY
from safelight.writing import make_folder

# As Stability AI's model spec calls them.
_ARCHITECTURES = {
    "sdxl": "stable-diffusion-xl-v1-base",
    "refiner": "stable-diffusion-xl-v1-refiner",
}
_SAID = {"eps": "epsilon", "v": "v"}


def write_original(
    stocks: list[Stock],
    family: Family,
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    remarks: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """All parts of a model in one file.

    remarks: metadata beside what the layout asks for.
    Raises RequestError for a model that the layout cannot hold, OutputError if it cannot be
    written.
    """
    if path.suffix.lower() != ".safetensors":
        raise RequestError(
            f"{shown(path)}: a model in the original layout is written as .safetensors; give a "
            "name that ends so"
        )
    prefixes = _prefixes(family)
    out: list[Entry] = []
    for stock in stocks:
        prefix, open_clip = prefixes[stock.role]
        out += entries(stock, _rows(stock, open_clip=open_clip), prefix=prefix, dtype=dtype)
    make_folder(path.parent)
    write_safetensors(path, [*out, *_marks(family)], {**_metadata(stocks, family), **remarks})


def _place(family: Family) -> Place:
    if family.text.vector != "none":
        return XL if family.text.vector == "sdxl" else REFINER
    # OpenCLIP's towers are padded with id 0, OpenAI's with the end of text.
    return SD2 if family.text.roles[0].pad == 0 else SD1


def _prefixes(family: Family) -> dict[str, tuple[str, bool]]:
    """For each role the prefix, and whether OpenCLIP's names belong below it."""
    place = _place(family)
    texts = [(prefix, prefix.endswith(".model.")) for prefix in place.prefixes]
    return {
        "unet": (UNET, False),
        "vae": (VAE, False),
        "text_encoder": texts[0],
        "text_encoder_2": texts[-1],
        "image_encoder": ("", False),  # `_rows` refuses it
    }


def _rows(stock: Stock, *, open_clip: bool) -> Iterator[Row]:
    match stock.config:
        case UNetConfig() as unet:
            return unet_rows(unet)
        case AutoencoderConfig() as vae:
            return autoencoder_rows(vae)
        case ClipTextConfig() as text:
            return open_clip_rows(text) if open_clip else transformers_rows(text)
        case ClipVisionConfig():
            raise RequestError(
                "the original layout has no place for a vision tower; save the model as a "
                "Diffusers folder, or the tower in a folder of its own"
            )
    raise RequestError(
        "the original layout has no place for a tiny autoencoder; load the model with its own, or "
        "save it as a Diffusers folder"
    )


def _marks(family: Family) -> list[Entry]:
    """The small tensors by which other programs know what an XL model predicts."""
    process = family.process
    if family.text.vector != "sdxl":
        return []
    marks: dict[str, torch.Tensor] = {}
    if process.kind == "edm" and process.prediction == "edm":
        marks = {"edm_mean": _numbers(family.codec.shift), "edm_std": _numbers(family.codec.scale)}
    elif process.kind == "edm":
        marks = {
            "edm_vpred.sigma_max": torch.tensor(process.sigma_max),
            "edm_vpred.sigma_min": torch.tensor(process.sigma_min),
        }
    elif process.prediction == "v":
        marks["v_pred"] = torch.empty(0)
        if process.zero_terminal_snr:
            marks["ztsnr"] = torch.empty(0)
    return [
        Entry(name, tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in marks.items()
    ]


def _numbers(value: float | tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(value)


def _metadata(stocks: list[Stock], family: Family) -> dict[str, str]:
    configs: dict[str, dict[str, object]] = {
        stock.role: part_json(stock, family) for stock in stocks
    }
    if family.text.vector == "refiner" and "text_encoder_2" in configs:
        configs["text_encoder"] = configs.pop("text_encoder_2")  # the only one there is
    configs["scheduler"] = scheduler_to_json(family.process, family.hint)
    if family.noising is not None:
        configs[NOISING] = noising_to_json(family.noising, with_level=True)
    if family.text.vocabulary != CLIP_VOCABULARY:
        configs["tokenizer"] = vocabulary_to_json(family.text.vocabulary)
    if (about := about_to_json(family)) is not None:
        configs[ABOUT] = about
    said = _SAID.get(family.process.prediction)
    spec = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.architecture": _architecture(family),
        "modelspec.resolution": f"{family.native_size}x{family.native_size}",
    }
    if said is not None:
        spec["modelspec.prediction_type"] = said
    return {"format": "pt", **spec, **written_configs(configs)}


def _architecture(family: Family) -> str:
    if family.text.vector in _ARCHITECTURES:
        name = _ARCHITECTURES[family.text.vector]
    elif _place(family) is SD1:
        name = "stable-diffusion-v1"
    else:
        name = f"stable-diffusion-v2-{'768-v' if family.process.prediction == 'v' else '512'}"
    return f"{name}/inpainting" if family.task == "inpaint" else name
