"""An adapter in a file, held against the layers of a model before a tensor is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from safelight.adapters.adapter import UNET
from safelight.adapters.deltas import Delta
from safelight.adapters.rescalings import Decomposed, Norm
from safelight.checkpoints.adapter_bias import WithBias
from safelight.checkpoints.adapter_build import (
    MAX_RANK,
    change_of,
    kind_of,
    numbers_of,
    rank_of,
    scale_of,
    without_memory,
)
from safelight.checkpoints.adapter_keys import Group, Sorted, sort
from safelight.checkpoints.adapter_kinds import Kind, Tensors, Told
from safelight.checkpoints.adapter_names import Layer, Layers
from safelight.checkpoints.adapter_scaling import Scaling, scaling_of
from safelight.checkpoints.closing import Closes
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.keymap import Shape
from safelight.checkpoints.kinds import kind_of as kind_of_file
from safelight.checkpoints.parts import listed
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError, FileError
from safelight.printable import shown

# What Diffusers and PEFT call an adapter in a folder.
STEMS = ("pytorch_lora_weights", "adapter_model")
SUFFIXES = (".safetensors", ".bin")


class Known(NamedTuple):
    """What a group of tensors is, whatever layer it is for; the delta has no memory."""

    kind: Kind
    rank: int | None
    shapes: Tensors
    told: Told
    delta: Delta


@dataclass(frozen=True)
class AdapterFile(Closes):
    """An opened adapter: its tensors by layer, and the strengths stated beside them."""

    file: WeightFile
    sorted: Sorted
    scaling: Scaling
    _known: dict[tuple[str, Norm], Known | None] = field(default_factory=dict, repr=False)

    def known(self, group: Group, norm: Norm) -> Known | None:
        """What a group is; None if it holds no change. Found once, for it may be asked of many
        families.

        Raises CheckpointError for a group that is incomplete, has shapes that no change has, or is
        of a kind that cannot be applied; FileError for numbers that are none.
        """
        key = (group.module, norm)
        if key not in self._known:
            self._known[key] = _known(self.file, group, norm)
        return self._known[key]

    @property
    def path(self) -> Path:
        return self.file.path

    def close(self) -> None:
        self.file.close()


@dataclass(frozen=True, slots=True)
class Change:
    """A group of tensors, and the layer that it changes.

    word: for the kind of change. rank: None for kinds without one. told: what its tensors do not
    tell.
    """

    layer: Layer
    group: Group
    kind: Kind
    word: str
    rank: int | None
    told: Told

    @property
    def alpha(self) -> float:
        """The scale times the rank; what files call alpha."""
        return self.told.scale * (self.rank or 1)


@dataclass(frozen=True, slots=True)
class Misfit:
    """A group whose layer is there but has another shape: shapes of its tensors by their names."""

    group: Group
    layer: Layer
    found: Mapping[str, Shape]

    def __str__(self) -> str:
        shapes = ", ".join(
            f"{shown(name.removeprefix(self.group.module).lstrip('.'), 60)} {list(shape)}"
            for name, shape in self.found.items()
        )
        return f"{shown(self.group.module)} has {shapes} for a weight of {list(self.layer.shape)}"


@dataclass(frozen=True, slots=True)
class Fit:
    """How an adapter's tensors compare with a model's layers; names are the file's.

    unmatched: names of tensors that belong to no layer. idle: those of text blocks that are not
    run. misfits: layers of another shape.
    """

    changes: tuple[Change, ...]
    unmatched: tuple[str, ...]
    idle: tuple[str, ...]
    misfits: tuple[Misfit, ...]

    @property
    def matched(self) -> int:
        """How many tensors have a place."""
        return sum(len(change.group.tensors) for change in self.changes)

    @property
    def whole(self) -> bool:
        """Whether every tensor has a place."""
        return not (self.unmatched or self.misfits)


def open_adapter(path: Path) -> AdapterFile:
    """The adapter in a weights file, or in a folder of Diffusers' or PEFT's. Close it after use.

    Raises FileError if it cannot be read, CheckpointError if it holds something else.
    """
    file = open_weights(file_in(path) if path.is_dir() else path)
    try:
        return adapter_in(file)
    except BaseException:
        file.close()
        raise


def adapter_in(file: WeightFile) -> AdapterFile:
    """The adapter in an opened file.

    Raises CheckpointError if it holds something else, and as `scaling_of` does.
    """
    found = sort(file.header)
    finding = kind_of_file({name: info.shape for name, info in file.header.items()})
    if not found.groups and finding.kind == "lora":
        raise CheckpointError(
            f"none of the {len(file.header)} tensors of {shown(file.path)} ends as a change of a "
            f"layer does, so 0 % of it can be used: {listed(map(shown, file.header), 3)}; get the "
            "file in the names of kohya, Diffusers or PEFT"
        )
    if not found.groups or finding.kind not in ("lora", "unknown"):
        raise CheckpointError(
            f"{shown(file.path)} is no adapter of layers (LoRA and its kin), but {finding.kind}: "
            f"{shown(finding.evidence)}"
        )
    return AdapterFile(file, found, scaling_of(file))


def file_in(folder: Path) -> Path:
    """The adapter's file in a folder of Diffusers' or PEFT's. Raises FileError if it has none."""
    for stem in STEMS:
        for suffix in SUFFIXES:
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    inner = sorted(p.parent.name for p in folder.glob(f"*/{STEMS[1]}.*"))
    hint = f"; did you mean {shown(folder / inner[0])}?" if inner else ""
    names = " or ".join(f"{stem}.safetensors" for stem in STEMS)
    raise FileError(f"{shown(folder)} holds no adapter: expected {names}{hint}")


def fitted(opened: AdapterFile, layers: Layers, *, norm: Norm = "changed") -> Fit:
    """The layer of every group of tensors, by name and by shape.

    norm: of which weight DoRA takes the norm. Raises CheckpointError for groups that are
    incomplete or of a kind that cannot be applied, and where one layer is changed twice.
    """
    changes: dict[tuple[str, str], Change] = {}
    unmatched, misfits = list(opened.sorted.unknown), []
    idle: list[str] = []
    for group in opened.sorted.groups:
        candidates = layers.find(group.module)
        if not candidates:
            (idle if layers.beyond(group.module) else unmatched).extend(group.tensors.values())
            continue
        found = _change(opened, group, candidates, norm)
        if found is None:  # an alpha alone
            unmatched.extend(group.tensors.values())
        elif isinstance(found, Misfit):
            misfits.append(found)
        else:
            place = (found.layer.part, found.layer.path)
            if place in changes:
                raise CheckpointError(
                    f"{shown(opened.path)} changes {found.layer.path} twice: as "
                    f"{shown(changes[place].group.module)} and as {shown(group.module)}"
                )
            changes[place] = found
    return Fit(tuple(changes.values()), tuple(unmatched), tuple(idle), tuple(misfits))


def _change(
    opened: AdapterFile, group: Group, candidates: tuple[Layer, ...], norm: Norm
) -> Change | Misfit | None:
    known = opened.known(group, norm)
    if known is None:
        return None
    kind, rank, shapes, told = known.kind, known.rank, known.shapes, known.told
    for layer in candidates:
        wider = widened(shapes, layer)
        delta = known.delta if wider is shapes else change_of(kind, wider, told)
        if delta.fits(layer.shape, bias=layer.bias):
            stated = opened.scaling.of(layer.part, layer.path, rank)
            told = replace(
                told,
                scale=scale_of(kind, told.numbers, rank, stated),
                settings=opened.scaling.settings_of(layer.part),
            )
            return Change(layer, group, kind, innermost(delta).kind, rank, told)
    return Misfit(group, candidates[0], _found(opened.file, shapes, group))


def _known(file: WeightFile, group: Group, norm: Norm) -> Known | None:
    kind = kind_of(group, file.path)
    if kind is None:
        return None
    shapes = without_memory(group, file)
    rank = rank_of(group, kind, file)
    if rank is not None and rank > MAX_RANK:
        raise CheckpointError(
            f"{shown(file.path)}: {shown(group.module)} has the rank {rank}; at most {MAX_RANK} "
            "are read, which no published adapter passes"
        )
    told = Told(numbers=numbers_of(group, file), norm=norm)
    try:
        delta = change_of(kind, shapes, told)
    except CheckpointError as error:
        raise CheckpointError(f"{shown(file.path)}: {shown(group.module)}: {error}") from None
    return Known(kind, rank, shapes, told, delta)


def innermost(delta: Delta) -> Delta:
    """The change of a weight that DoRA and a bias stand around."""
    while isinstance(delta, (Decomposed, WithBias)):
        delta = delta.inner
    return delta


def widened(tensors: Tensors, layer: Layer) -> Tensors:
    """The tensors with zeros for channels that a model's input has and the adapter's has not.

    An inpainting model's first layer reads mask and picture behind the latents, of which an
    adapter for the model without them knows nothing.
    """
    if (layer.part, layer.path) != (UNET, "conv_in") or "mid" in tensors:
        return tensors
    found = dict(tensors)
    for slot in ("down", "diff"):
        tensor = found.get(slot)
        if tensor is not None and tensor.ndim == 4 and tensor.shape[1] < layer.shape[1]:
            missing = layer.shape[1] - tensor.shape[1]
            zeros = tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])
            found[slot] = torch.cat([tensor, zeros], dim=1)
            return found
    return tensors


def _found(file: WeightFile, shapes: Tensors, group: Group) -> dict[str, Shape]:
    return {group.tensors[slot]: file.header[group.tensors[slot]].shape for slot in shapes}
