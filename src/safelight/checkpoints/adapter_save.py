"""An adapter to one safetensors file, in kohya's names or in Diffusers'."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from safelight.adapters.adapter import TEXT_PARTS, UNET, Adapter
from safelight.adapters.deltas import Delta, LowRank
from safelight.adapters.rescalings import Decomposed
from safelight.adapters.rotations import Orthogonal
from safelight.checkpoints.adapter_file import innermost
from safelight.checkpoints.adapter_names import Layers, layers_of
from safelight.checkpoints.adapter_remarks import DORA_NORM, FAMILY
from safelight.checkpoints.adapter_scaling import KEY
from safelight.checkpoints.adapter_tensors import kohya_tensors, peft_tensors
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import CheckpointError, RequestError
from safelight.families import FAMILIES, Family
from safelight.model import Model
from safelight.printable import shown
from safelight.writing import make_folder

AdapterLayout = Literal["kohya", "diffusers"]
LAYOUTS: tuple[AdapterLayout, ...] = get_args(AdapterLayout)

_NUMBERS = ("alpha", "on_input")  # kept in a type that holds them exactly
# kohya's words for the families, and those of the Model Metadata Standard.
_VERSIONS: Mapping[str, tuple[str, str]] = {
    "sd15": ("sd_v1", "stable-diffusion-v1"),
    "sd2-base": ("sd_v2", "stable-diffusion-v2-512"),
    "sd2-v": ("sd_v2_v", "stable-diffusion-v2-768-v"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    "sdxl-refiner": ("sdxl_refiner_v1-0", "stable-diffusion-xl-v1-refiner"),
}


def save_adapter(
    adapter: Adapter,
    path: str | os.PathLike[str],
    model: Model | Family,
    *,
    layout: AdapterLayout = "kohya",
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an adapter as one safetensors file in names that other programs load.

    "kohya": `lora_unet_...`, for SDXL in the original names, as its trainer has them; all kinds but
        PEFT's own. "diffusers": `unet....lora_A.weight`, in which a strength (alpha / rank) is
        multiplied into the tensors, so that every reader comes to the same.
    model: what the adapter is for. dtype: None keeps the types in memory. metadata: remarks for the
        file, on top of the adapter's own.
    A file is replaced; folders above are made. What is saved and loaded again is the same change.
    Raises CheckpointError if the model has not all of its layers, RequestError for kinds that the
    layout has no names for, OutputError if the file cannot be written.
    """
    if layout not in LAYOUTS:
        raise RequestError(f"unknown layout {layout!r}; choose {' or '.join(LAYOUTS)}")
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise RequestError(f"adapters are saved as .safetensors; got {shown(path.name)}")
    family = model if isinstance(model, Family) else model.family
    layers = layers_of(family)
    entries = [
        _entry(f"{_module(layers, family, part, place, layout)}.{ending}", tensor, dtype)
        for part, place, delta in adapter
        for ending, tensor in _tensors(layers, part, place, delta, layout).items()
    ]
    if not entries:
        raise RequestError(f"the adapter {shown(adapter.name)} changes no layer; nothing to save")
    make_folder(path.parent)
    remarks = _metadata(adapter, family, layout) | dict(metadata or {})
    write_safetensors(path, entries, remarks)


def check_saveable(adapter: Adapter, model: Model | Family, layout: AdapterLayout) -> None:
    """Raise what `save_adapter` would for layers and kinds, and write nothing."""
    layers = layers_of(model if isinstance(model, Family) else model.family)
    for part, place, delta in adapter:
        _tensors(layers, part, place, delta, layout)


def _tensors(
    layers: Layers, part: str, path: str, delta: Delta, layout: AdapterLayout
) -> dict[str, Tensor]:
    layer = layers.at(part, path)
    if layer is None or not delta.fits(layer.shape, bias=layer.bias):
        raise CheckpointError(
            f"the model has no layer {shown(f'{part}.{path}')} that {delta.kind} {delta} fits; "
            "save the adapter for the model that it is of"
        )
    named = kohya_tensors if layout == "kohya" else peft_tensors
    with torch.no_grad():
        return named(delta, layer.shape)


def _module(layers: Layers, family: Family, part: str, path: str, layout: AdapterLayout) -> str:
    xl = family.text.vector in ("sdxl", "refiner")
    if layout == "diffusers":
        only_second = part == TEXT_PARTS[0] and family.text.vector == "refiner"
        return f"{TEXT_PARTS[1] if only_second else part}.{path}"
    if part == UNET:
        return f"lora_unet_{layers.original[path] if xl else path}".replace(".", "_")
    second = part == TEXT_PARTS[1] or family.text.vector == "refiner"
    number = ("2" if second else "1") if xl else ""
    return f"lora_te{number}_{path}".replace(".", "_")


def _entry(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Entry:
    exact = name.endswith(tuple(f".{number}" for number in _NUMBERS))
    kept = tensor.dtype if dtype is None or exact else dtype
    return Entry(name, tuple(tensor.shape), kept, lambda: tensor)


# -- remarks ---------------------------------------------------------------------------------------


def _metadata(adapter: Adapter, family: Family, layout: AdapterLayout) -> dict[str, str]:
    """What the file says: the remarks it was loaded with, and what is known of it now."""
    found = {k: v for k, v in adapter.about.metadata.items() if k != KEY}
    deltas = [delta for _, _, delta in adapter]
    found |= {"format": "pt", "modelspec.sai_model_spec": "1.0.0", FAMILY: family.label}
    found.setdefault("modelspec.title", adapter.name)
    if adapter.about.triggers:
        found.setdefault("modelspec.trigger_phrase", ", ".join(adapter.about.triggers))
    for name, (version, architecture) in _VERSIONS.items():
        known = replace(FAMILIES[name], label=family.label, hint=family.hint)
        if replace(family, name=name) == known:
            found |= {
                "ss_base_model_version": version,
                "modelspec.architecture": f"{architecture}/lora",
            }
    return found | _network(deltas, layout) | _dora(deltas) | _of_peft(adapter, layout)


def _network(deltas: list[Delta], layout: AdapterLayout) -> dict[str, str]:
    """kohya's facts of a network: its module, and the rank and alpha of most of its layers."""
    low = [d for d in map(innermost, deltas) if isinstance(d, LowRank)]
    plain = len(low) == len(deltas) and not any(isinstance(d, Decomposed) for d in deltas)
    facts = {"ss_network_module": "networks.lora" if plain else "lycoris.kohya"}
    if low:
        ranks, alphas = [d.rank for d in low], [d.alpha for d in low]
        rank, alpha = max(ranks, key=ranks.count), max(alphas, key=alphas.count)
        # Diffusers' layout has the strength within its tensors.
        facts |= {
            "ss_network_dim": str(rank),
            "ss_network_alpha": f"{alpha if layout == 'kohya' else rank:g}",
        }
    return facts


def _dora(deltas: list[Delta]) -> dict[str, str]:
    norms = {delta.norm for delta in deltas if isinstance(delta, Decomposed)}
    if len(norms) > 1:
        raise RequestError(
            "the DoRA of an adapter must take one norm in all layers; got changed and base"
        )
    return {DORA_NORM: norms.pop()} if norms else {}


def _of_peft(adapter: Adapter, layout: AdapterLayout) -> dict[str, str]:
    """How PEFT's OFT turns, which its tensors do not tell."""
    terms = {delta.terms for _, _, delta in adapter if isinstance(delta, Orthogonal)}
    if layout == "kohya" or not terms:
        return {}
    if len(terms) > 1:
        raise RequestError("an OFT of PEFT's must take as many terms in all layers")
    count = terms.pop()
    settings: dict[str, object] = {"use_cayley_neumann": count is not None}
    if count is not None:
        settings["num_cayley_neumann_terms"] = count
    return {KEY: json.dumps({f"{p}.{k}": v for p in adapter.deltas for k, v in settings.items()})}
