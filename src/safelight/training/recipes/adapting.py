"""The deltas of a config: chosen, begun or read from a file, put to work, and written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from safelight.adapters.adapter import UNET, Adapter, AdapterFacts, by_text_part
from safelight.adapters.targets import targets
from safelight.adapters.trainable import Size, trainable
from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.adapter_save import check_saveable, save_adapter
from safelight.errors import RequestError
from safelight.models.deltas import Delta
from safelight.printable import shown
from safelight.training.config.configs import TaughtRun
from safelight.training.config.teaching import AdapterSection, Layout
from safelight.training.draw import stream
from safelight.training.recipes.job import Workshop
from safelight.training.recipes.taught import Taught, file_name
from safelight.training.recipes.writing import DTYPES
from safelight.training.taught_layers import TaughtLayers, taking_part
from safelight.version import __version__
from safelight.writing import make_folder

OTHERWISE = 'for Diffusers give --layout diffusers (layout = "diffusers" in [export])'
IN_KOHYAS_NAMES: Mapping[str, str] = MappingProxyType(  # by kind: tried, see tests
    {
        "DoRA": "Diffusers leaves out its magnitudes without a word and draws something else; "
        + OTHERWISE,
        "LoKr": f"Diffusers refuses it; {OTHERWISE}",
        "LoHa": "Diffusers refuses it; for PEFT, which alone takes it, give --layout diffusers "
        '(layout = "diffusers" in [export])',
    }
)


def networks(model: Taught) -> dict[str, nn.Module]:
    """The networks of a model, by the names that adapters have for their parts."""
    return {UNET: model.unet, **by_text_part(model.text.encoders)}


def taught_layers(
    section: AdapterSection, model: Taught, config: TaughtRun, workshop: Workshop
) -> TaughtLayers:
    """What learns, in its place until the workshop closes; all of it can be written afterwards.

    Raises RequestError for layers that are not there or have no names in the layout asked for, and
    what reading an adapter raises.
    """
    places = networks(model)
    if section.checkpoint is None:
        deltas = _begun(section, places, config.training.seed)
    else:
        deltas = _read(Path(section.checkpoint), model, places, workshop)
    check_saveable(Adapter(config.folder, deltas), model.model.family, config.export.layout)
    workshop.stack.enter_context(taking_part(places, deltas, dropout=section.dropout))
    return TaughtLayers(deltas)


def readers(layers: TaughtLayers, layout: Layout) -> tuple[str, ...]:
    """What to say before a run whose file some program that people use does not open as it is."""
    if layout != "kohya":
        return ()
    kinds = dict.fromkeys(d.kind for part in layers.deltas.values() for d in part.values())
    return tuple(
        f"this {kind} will be in kohya's names, for A1111 and ComfyUI; {IN_KOHYAS_NAMES[kind]}"
        for kind in kinds
        if kind in IN_KOHYAS_NAMES
    )


def _begun(
    section: AdapterSection, places: Mapping[str, nn.Module], seed: int
) -> dict[str, dict[str, Delta]]:
    size = Size(
        rank=section.rank,
        alpha=section.alpha,
        conv_rank=section.conv_rank,
        conv_alpha=section.conv_alpha,
        factor=section.factor,
        tucker=section.tucker,
    )
    kind = "lora" if section.kind == "locon" else section.kind
    made: dict[str, dict[str, Delta]] = {}
    for part, network in places.items():
        if part != UNET and not section.text:
            continue
        chosen = section.chosen if part == UNET else section.text_targets
        paths = _inside(targets(network, chosen), part, section.blocks)
        if paths:
            draws = stream(seed, f"adapter {part}")
            made[part] = trainable(network, kind, paths, size=size, generator=draws)
    if not made:
        raise RequestError(
            f"adapter.blocks {', '.join(section.blocks or ())} hold none of the layers that "
            "adapter.targets choose"
        )
    return made


def _inside(paths: Sequence[str], part: str, blocks: Sequence[str] | None) -> list[str]:
    """The paths that lie in one of the blocks; all if there are none."""
    if blocks is None:
        return list(paths)

    def under(path: str) -> bool:
        names = (path, f"{part}.{path}")
        return any(n == b or n.startswith(f"{b}.") for n in names for b in blocks)

    return [path for path in paths if under(path)]


def _read(
    path: Path, model: Taught, places: Mapping[str, nn.Module], workshop: Workshop
) -> dict[str, dict[str, Delta]]:
    """An adapter that goes on learning: all of it, or it is refused."""
    found = load_adapter(path, model.model, dtype=torch.float32)
    if found.unmatched:
        raise RequestError(
            f"{shown(path)}: {len(found.unmatched)} of its keys are for no layer of this model "
            f"({', '.join(shown(k, 60) for k in found.unmatched[:3])}), so it cannot go on learning"
        )
    device = workshop.device
    return {
        part: {p: delta.to(device).requires_grad_(True) for p, delta in layers.items()}
        for part, layers in found.adapter.deltas.items()
        if part in places
    }


def written(
    config: TaughtRun, layers: TaughtLayers, model: Taught, path: Path, facts: Mapping[str, str]
) -> list[Path]:
    """The adapter in a new folder, in the names that the config asks for."""
    name = file_name(config, Path(config.folder).name)
    kinds = tuple(dict.fromkeys(d.kind for part in layers.deltas.values() for d in part.values()))
    about = AdapterFacts(kinds=kinds, base=model.model.family.name)
    make_folder(path)
    file = path / f"{name}.safetensors"
    save_adapter(
        Adapter(name, layers.deltas, about),
        file,
        model.model.family,
        layout=config.export.layout,
        dtype=DTYPES[config.export.dtype or "fp32"],
        metadata={"safelight": __version__, **facts},
    )
    return [file]
