"""From the tensors that a file holds for one layer to the change that they are.

Tensors without memory make changes that can be asked whether they fit, so every shape is checked
before a tensor is read.
"""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from safelight.adapters.deltas import Delta
from safelight.adapters.rescalings import Axis, Decomposed
from safelight.checkpoints.adapter_bias import WithBias
from safelight.checkpoints.adapter_keys import Group
from safelight.checkpoints.adapter_kinds import KINDS, Kind, Numbers, Tensors, Told
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError, FileError
from safelight.printable import shown

MAX_RANK = 4096  # above all published ones; a forged rank must not fill the memory

NUMBERS = ("alpha", "scale", "on_input")  # slots that hold one number each
DORA = ("dora_scale", "magnitude")  # LyCORIS' and kohya's, and PEFT's, which is of the outputs
_ALWAYS = frozenset({"alpha", "scale", "diff_b", "up_bias"})  # may stand beside any kind
_FOREIGN: Mapping[str, str] = {
    "oft_diag": "an OFT of an early LyCORIS, which stored something else",
    "vera": "a VeRA, whose shared matrices are drawn by a seed",
    "t_lora": "a T-LoRA, which changes with the step",
}

_DIMENSIONS: Mapping[str, Collection[int]] = {
    "hada_w1_a": (2,),
    "hada_w1_b": (2,),
    "hada_w2_a": (2,),
    "hada_w2_b": (2,),
    "hada_t1": (4,),
    "hada_t2": (4,),
    "lokr_w1_a": (2,),
    "lokr_w1_b": (2,),
    "lokr_w2_a": (2,),
    "lokr_t2": (4,),
    "dora_scale": (1, 2, 4),
    "magnitude": (1, 2, 4),
    "diff": (1, 2, 4),
    "diff_b": (1,),
    "up_bias": (1,),
    "w_norm": (1,),
    "b_norm": (1,),
    "weight": (1, 2, 4),
    "ia3_l": (1, 2, 4),
    "oft_blocks": (3, 4),
    "oft_R": (2,),
    "boft_R": (4,),
    "boft_s": (1, 2, 4),
    "rescale": (1, 2, 4),
}


def kind_of(group: Group, where: object) -> Kind | None:
    """The kind of change that a group is; None if it holds none, as an alpha alone.

    Raises CheckpointError, naming `where` and the layer, for kinds that we cannot apply, and for
    groups that lack a tensor or hold those of two kinds.
    """
    slots = group.tensors.keys()
    for slot, what in _FOREIGN.items():
        if slot in slots:
            raise CheckpointError(
                f"{shown(where)}: {shown(group.module)} is {what}; that kind cannot be applied, "
                "merge it with the program that made it"
            )
    touched = [kind for kind in KINDS if kind.needs & slots]
    for kind in touched:
        if kind.needs <= slots:
            surplus = slots - kind.needs - kind.may - _ALWAYS
            if surplus:
                raise CheckpointError(
                    f"{shown(where)}: {shown(group.module)} holds {_listed(group, surplus)} beside "
                    f"its {kind.word}; the tensors do not belong together"
                )
            return kind
    if touched:
        lost = min((kind.needs - slots for kind in touched), key=len)
        raise CheckpointError(
            f"{shown(where)}: the change of {shown(group.module)} is incomplete: it has "
            f"{', '.join(sorted(slots))} but no {', '.join(sorted(lost))}; get the file again"
        )
    return None


def numbers_of(group: Group, file: WeightFile) -> dict[str, float]:
    """The numbers of a group by slot.

    Raises FileError for one that is none or not finite.
    """
    found = {}
    for slot in NUMBERS:
        if (name := group.tensors.get(slot)) is None:
            continue
        info = file.header[name]
        if info.nbytes != info.dtype.itemsize:
            raise FileError(
                f"{shown(file.path)}: {shown(name)} has the shape {list(info.shape)}; expected one "
                "number"
            )
        value = float(file.read(name).reshape(()))
        if not math.isfinite(value):
            raise FileError(f"{shown(file.path)}: {shown(name)} is {value}; the file is damaged")
        found[slot] = value
    return found


def rank_of(group: Group, kind: Kind, file: WeightFile) -> int | None:
    """The rank that a group's shapes tell; None for kinds without one."""
    for slot in (kind.rank, "lokr_w1_b", "lokr_w2_b"):
        if slot is not None and (name := group.tensors.get(slot)) is not None:
            return file.header[name].shape[0]
    return None


def scale_of(kind: Kind, numbers: Numbers, rank: int | None, stated: float | None) -> float:
    """What a change is multiplied by: as its tensors say, else as stated elsewhere, else 1."""
    if "scale" in numbers:
        return numbers["scale"]
    if "alpha" in numbers:
        # Two whole factors have no rank, and LyCORIS leaves their alpha unused.
        return 1.0 if rank is None else numbers["alpha"] / rank
    return 1.0 if stated is None else stated


def without_memory(group: Group, file: WeightFile) -> dict[str, Tensor]:
    """The tensors of a group as their shapes alone.

    Raises CheckpointError for shapes and types that no change has.
    """
    found = {}
    for slot, name in group.tensors.items():
        if slot in NUMBERS:
            continue
        info = file.header[name]
        if not info.dtype.is_floating_point:
            raise CheckpointError(
                f"{shown(file.path)}: {shown(name)} is stored as {info.dtype}; quantised adapters "
                "are not supported, get the file in fp16, bf16 or fp32"
            )
        if len(info.shape) not in _DIMENSIONS.get(slot, (2, 4)) or 0 in info.shape:
            raise CheckpointError(
                f"{shown(file.path)}: {shown(name)} has the shape {list(info.shape)}, which no "
                "change of a layer has; the file is damaged or forged"
            )
        found[slot] = torch.empty(info.shape, device="meta")
    return found


def change_of(kind: Kind, tensors: Tensors, told: Told) -> Delta:
    """The change that these tensors are, with DoRA's magnitude and the change of a bias.

    Raises CheckpointError for shapes that make none; whether it fits a layer, `Delta.fits` says.
    """
    delta = kind.make(tensors, told)
    for slot in DORA:
        if (magnitude := tensors.get(slot)) is not None:
            over: Axis = "input" if slot == "dora_scale" and _of_inputs(magnitude) else "output"
            delta = Decomposed(delta, magnitude.flatten(), over=over, norm=told.norm)
    bias = tensors.get("diff_b")
    if (scaled := tensors.get("up_bias")) is not None:
        bias = scaled * told.scale if bias is None else bias + scaled * told.scale
    return delta if bias is None or kind.word == "full" else WithBias(delta, bias)


def _of_inputs(magnitude: Tensor) -> bool:
    """Whether a `dora_scale` is of every input, (1, in[, 1, 1]), not (out, 1[, 1, 1])."""
    return magnitude.ndim > 1 and magnitude.shape[0] == 1


def _listed(group: Group, slots: Collection[str]) -> str:
    return ", ".join(shown(group.tensors[slot]) for slot in sorted(slots))
