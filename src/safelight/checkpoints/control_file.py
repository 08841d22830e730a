"""A control network in a file or folder: what it is, and its tensors, found but not read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from safelight.checkpoints.closing import Closes
from safelight.checkpoints.control_json import CLASSES, control_from_json
from safelight.checkpoints.control_lllite import measured_lllite
from safelight.checkpoints.control_measure import measured_adapter, measured_controlnet
from safelight.checkpoints.control_rows import (
    adapter_rows,
    controlnet_rows,
    renamed,
    rows_by_structure,
)
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.folders import find_weights, open_folder
from safelight.checkpoints.identity import Layout
from safelight.checkpoints.json_object import read_object
from safelight.checkpoints.keymap import KeyMap, Row
from safelight.checkpoints.kinds import kind_of
from safelight.checkpoints.parts import Part, Selection
from safelight.checkpoints.stored_config import stored_configs
from safelight.checkpoints.vae_file import STEM
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError, FileError
from safelight.models.controlnet import ControlNetConfig
from safelight.models.lllite import LLLiteConfig
from safelight.models.t2i_adapter import T2IAdapterConfig
from safelight.models.unet import UNetConfig
from safelight.models.unet_configs import SDXL
from safelight.printable import shown

ControlKind = Literal[
    "ControlNet", "union ControlNet", "ControlLoRA", "T2I-Adapter", "ControlNet-LLLite"
]

DIFFERENCE, LORA = "difference", "lora_controlnet"  # marks: tensors without use of their own
KEY = "controlnet"  # among the configs of a single file
_PREFIX = "control_model."
_PART_OF_LORA = re.compile(r"\.(up|down)$")
_CONTEXTS: Mapping[int, str] = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "the SDXL refiner",
    2048: "SDXL",
}
_SDXL_VECTOR = 2816


@dataclass(frozen=True)
class FoundControl(Closes):
    """A control network that has been found but not read, and the files it is in.

    part: for a ControlLoRA, what the file holds beside the changes of the U-Net's layers.
    changes: names of these layers in the original layout. difference: whether the file holds what
    its ControlNet has more than the U-Net, so that this must be added.
    others: prefixes of tensors that belong to something else.
    """

    kind: ControlKind
    layout: Layout
    reason: str
    part: Part
    file: WeightFile
    paths: tuple[Path, ...]
    changes: tuple[str, ...] = ()
    difference: bool = False
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def close(self) -> None:
        self.file.close()

    @property
    def made_for(self) -> str:
        """The models it was made for, in words, with the width that tells."""
        return family_of(self.part.config)

    @property
    def needs_base(self) -> bool:
        """Whether it can only be built beside the U-Net that it changes."""
        return self.difference or self.kind == "ControlLoRA"


def family_of(config: object) -> str:
    """The family of models that a control network was made for, in words."""
    if isinstance(config, LLLiteConfig):
        width = config.unet.context_width
        return f"{_CONTEXTS.get(width, 'a model of its own')} (context width {width})"
    if isinstance(config, T2IAdapterConfig):
        large = config.unshuffle > config.factor
        return f"{'SDXL' if large else 'Stable Diffusion 1.x'} ({config.unshuffle} pixels a place)"
    assert isinstance(config, ControlNetConfig)
    encoder = config.encoder
    width = encoder.context_width
    if not width:
        xl = encoder.vector_width == _SDXL_VECTOR
        return f"{'SDXL' if xl else 'a model of its own'} (vector width {encoder.vector_width})"
    return f"{_CONTEXTS.get(width, 'a model of its own')} (context width {width})"


def open_control(
    path: Path, variant: str | None = None, *, base: UNetConfig = SDXL
) -> FoundControl:
    """The control network in a weights file or a Diffusers folder. Close it after use.

    base: the U-Net whose layers a ControlNet-LLLite names; those published are for SDXL.
    Raises FileError, or CheckpointError if it is something else.
    """
    if path.is_dir():
        return _from_folder(path, variant)
    file = open_weights(path)
    try:
        return _from_file(file, base)
    except CheckpointError as error:
        file.close()
        where = shown(path)
        raise (error if where in str(error) else CheckpointError(f"{where}: {error}")) from None
    except BaseException:
        file.close()
        raise


def _from_folder(folder: Path, variant: str | None) -> FoundControl:
    config = folder / "config.json"
    if not config.is_file():
        inner = sorted(p.parent.name for p in folder.glob("*/config.json") if _is_control(p))
        hint = f"; did you mean {shown(folder / inner[0])}?" if inner else ""
        raise FileError(f"{shown(folder)} holds no control network: no config.json{hint}")
    json = read_object(config)
    own = control_from_json(json)
    paths = tuple(find_weights(folder, STEM, variant))
    file = open_folder(folder, STEM, variant)
    part = Part("control", own, _own_names(file), KeyMap([Row("", "")]))
    kind = json.text("_class_name")
    return FoundControl(_kind(own), "Diffusers folder", f"its class is {kind}", part, file, paths)


def _is_control(config: Path) -> bool:
    return read_object(config).values.get("_class_name") in CLASSES


def _kind(config: ControlNetConfig | T2IAdapterConfig) -> ControlKind:
    if isinstance(config, T2IAdapterConfig):
        return "T2I-Adapter"
    return "ControlNet" if config.union is None else "union ControlNet"


def _own_names(file: WeightFile) -> Selection:
    """The tensors without the `adapter.` of Diffusers' T2I-Adapters."""
    below = Selection.below(file, "adapter.")
    return below if below.names else Selection.below(file)


def _from_file(file: WeightFile, base: UNetConfig) -> FoundControl:
    found = kind_of({name: info.shape for name, info in file.header.items()})
    if found.kind == "controlnet lllite":
        return _lllite(file, found.evidence, base)
    if found.kind == "t2i adapter":
        return _adapter(file, found.evidence)
    if found.kind != "controlnet":
        raise CheckpointError(
            f"this is no control network: {found.evidence}; give a ControlNet or a T2I-Adapter"
        )
    below = Selection.below(file, _PREFIX)
    tensors = below if below.names else Selection.below(file)
    others = tuple(n for n in file.header if n not in set(tensors.names.values()))
    marks = {DIFFERENCE, LORA}
    names = {name: stored for name, stored in tensors.names.items() if name not in marks}
    tensors = replace(tensors, names=names)
    notes: tuple[str, ...] = ()
    if kept := [name for name in others if name not in marks]:
        notes = (f"{len(kept)} tensors beside the ControlNet belong to a model and are not used",)
    made = _control_lora if LORA in file.header else _controlnet
    result = made(file, tensors, found.evidence)
    return replace(
        result,
        difference=DIFFERENCE in file.header or f"{_PREFIX}{DIFFERENCE}" in file.header,
        others=tuple(kept),
        notes=(*notes, *result.notes),
    )


def _controlnet(file: WeightFile, tensors: Selection, evidence: str) -> FoundControl:
    ours = "controlnet_cond_embedding.conv_in.weight" in tensors.names
    layout: Layout = "Diffusers names" if ours else "original names"
    stated = _stated(file)
    notes: tuple[str, ...] = ()
    if isinstance(stated, ControlNetConfig):
        config = stated
    else:
        config, notes = _measured(file, tensors, ours=ours)
    rows = [Row("", "")] if ours else list(controlnet_rows(config))
    part = Part("control", config, tensors, KeyMap(rows))
    return FoundControl(_kind(config), layout, evidence, part, file, (file.path,), notes=notes)


def _measured(
    file: WeightFile, tensors: Selection, *, ours: bool
) -> tuple[ControlNetConfig, tuple[str, ...]]:
    shapes = tensors.shapes
    if ours:
        names = renamed(shapes, rows_by_structure(shapes))
        shapes = {original: shapes[name] for original, name in names.items()}
    config = measured_controlnet(shapes)
    if "shuffle" in file.path.stem.lower():
        # Nothing in the weights tells; A1111 goes by the name, too.
        note = (
            "taken for a shuffle ControlNet by its name: what it adds is averaged over the picture"
        )
        return replace(config, global_pool=True), (note,)
    return config, ()


def _stated(file: WeightFile) -> ControlNetConfig | T2IAdapterConfig | None:
    """The config that the file itself holds, or that lies beside it if Diffusers named both."""
    configs = stored_configs(file)
    if KEY in configs:
        return control_from_json(configs[KEY])
    beside = file.path.with_name("config.json")
    if file.path.name.partition(".")[0] != STEM or not beside.is_file():
        return None
    json = read_object(beside)
    return control_from_json(json) if json.values.get("_class_name") in CLASSES else None


def _control_lora(file: WeightFile, tensors: Selection, evidence: str) -> FoundControl:
    """The part holds what the file has whole; its config says only how the picture is read."""
    changes = sorted({_PART_OF_LORA.sub("", n) for n in tensors.names if _PART_OF_LORA.search(n)})
    whole = {n: s for n, s in tensors.names.items() if not _PART_OF_LORA.search(n)}
    shapes = tensors.shapes
    # A layer's change tells the layer's shape: up is (out, rank, ...), down (rank, in, ...).
    for name in changes:
        up, down = shapes.get(f"{name}.up"), shapes.get(f"{name}.down")
        if up is None or down is None or len(up) < 2 or len(down) < 2 or up[1] != down[0]:
            raise CheckpointError(f"the change of {shown(name)} is incomplete")
        shapes[f"{name}.weight"] = (up[0], *down[1:])
    config = measured_controlnet(shapes)
    part = Part("control", config, replace(tensors, names=whole), KeyMap(controlnet_rows(config)))
    return FoundControl(
        "ControlLoRA",
        "original names",
        f"{evidence}; changes of {len(changes)} layers by up and down",
        part,
        file,
        (file.path,),
        changes=tuple(changes),
    )


def _lllite(file: WeightFile, evidence: str, base: UNetConfig) -> FoundControl:
    tensors = Selection.below(file)
    try:
        config = measured_lllite(tensors.shapes, base)
    except CheckpointError:
        # For another model than the one at hand: if for SDXL, whoever asks is told so.
        config = measured_lllite(tensors.shapes, SDXL)
    part = Part("control", config, tensors, KeyMap([Row("", "")]))
    return FoundControl("ControlNet-LLLite", "original names", evidence, part, file, (file.path,))


def _adapter(file: WeightFile, evidence: str) -> FoundControl:
    tensors = _own_names(file)
    ours = "body.0.resnets.0.block1.weight" in tensors.names
    stated = _stated(file)
    config = stated if isinstance(stated, T2IAdapterConfig) else measured_adapter(tensors.shapes)
    rows = [Row("", "")] if ours else list(adapter_rows(config))
    part = Part("control", config, tensors, KeyMap(rows))
    layout: Layout = "Diffusers names" if ours else "original names"
    return FoundControl("T2I-Adapter", layout, evidence, part, file, (file.path,))
