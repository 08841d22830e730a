"""The kinds of change that adapters hold: which tensors each needs, and how it is made of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from safelight.adapters.deltas import (
    Delta,
    Difference,
    Hadamard,
    Kronecker,
    LowRank,
    NormDifference,
)
from safelight.adapters.rescalings import Axis, Generalised, Norm, Scaled
from safelight.adapters.rotations import Butterfly, Orthogonal, packed_size
from safelight.checkpoints.adapter_scaling import Settings
from safelight.errors import CheckpointError
from safelight.printable import shown

NEUMANN_TERMS = 5  # PEFT's usual length of the series for its OFT
Tensors = Mapping[str, Tensor]
Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a change besides its tensors.

    scale: what it is multiplied by. norm: of DoRA. settings: PEFT's own, where it wrote some.
    """

    scale: float = 1.0
    numbers: Numbers = field(default_factory=dict)
    norm: Norm = "changed"
    settings: Settings = field(default_factory=dict)


Make = Callable[[Tensors, Told], Delta]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of change: the slots that it must have, those it may have, and how it is made."""

    word: str
    needs: frozenset[str]
    may: frozenset[str]
    make: Make
    rank: str | None = None  # the slot whose rows are the rank


def _low_rank(tensors: Tensors, told: Told) -> Delta:
    return LowRank(tensors["up"], tensors["down"], tensors.get("mid"), told.scale)


def _hadamard(tensors: Tensors, told: Told) -> Delta:
    return Hadamard(
        tensors["hada_w1_a"],
        tensors["hada_w1_b"],
        tensors["hada_w2_a"],
        tensors["hada_w2_b"],
        t1=tensors.get("hada_t1"),
        t2=tensors.get("hada_t2"),
        scale=told.scale,
    )


def _kronecker(tensors: Tensors, told: Told) -> Delta:
    found = {slot.removeprefix("lokr_"): tensor for slot, tensor in tensors.items()}
    names = ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b", "t2")
    return Kronecker(**{name: found.get(name) for name in names}, scale=told.scale)


def _difference(tensors: Tensors, told: Told) -> Delta:
    return Difference(tensors.get("diff"), tensors.get("diff_b"))


def _norm(tensors: Tensors, told: Told) -> Delta:
    return NormDifference(tensors.get("w_norm"), tensors.get("b_norm"))


def _scaled(tensors: Tensors, told: Told) -> Delta:
    on: Axis = "input" if told.numbers["on_input"] else "output"
    return Scaled(tensors["weight"].flatten(), on=on)


def _scaled_by_peft(tensors: Tensors, told: Told) -> Delta:
    factors = tensors["ia3_l"]
    if factors.ndim != 2 or 1 not in factors.shape:
        raise CheckpointError(
            f"PEFT's IA3 of shape {list(factors.shape)} does not tell whether it scales what "
            "enters a layer or what leaves it; expected (out, 1) or (1, in)"
        )
    inputs = factors.shape[0] == 1
    weight = factors.flatten() - 1  # PEFT stores the factor itself
    return Scaled(weight, on="input" if inputs else "output", scales_bias=not inputs)


def _generalised(tensors: Tensors, told: Told) -> Delta:
    a1, a2, b1, b2 = (tensors[slot] for slot in ("a1", "a2", "b1", "b2"))
    now = a1.shape[1] == a2.shape[0] == b1.shape[1] == b2.shape[0]
    if not now and a1.shape[0] == a2.shape[1] == b1.shape[0] == b2.shape[1]:
        a1, a2, b1, b2 = a2, a1, b2, b1  # LyCORIS before 2.2
    return Generalised(a1, a2, b1, b2, bm=tensors.get("bm"), scale=told.scale)


def _rotation(tensors: Tensors, told: Told) -> Delta:
    blocks, rescale = tensors["oft_blocks"], tensors.get("rescale")
    features = blocks.shape[-3] * blocks.shape[-2]
    constraint = told.numbers.get("alpha", 0.0) * features
    if blocks.ndim == 4:
        return Butterfly(blocks, constraint=constraint, rescale=rescale)
    return Orthogonal(blocks, constraint=constraint, rescale=rescale)


def _rotation_by_peft(tensors: Tensors, told: Told) -> Delta:
    entries, settings = tensors["oft_R"], told.settings
    if not packed_size(entries.shape[1]):
        raise CheckpointError(
            f"PEFT's OFT of shape {list(entries.shape)} is no half of square blocks"
        )
    terms = settings.get("num_cayley_neumann_terms", NEUMANN_TERMS)
    if not isinstance(terms, int) or not 1 <= terms <= 64:
        raise CheckpointError(
            f"num_cayley_neumann_terms is {shown(terms)}; expected a whole number from 1 to 64"
        )
    # The key is missing where PEFT had no such series yet.
    series = settings.get("use_cayley_neumann", not settings)
    return Orthogonal.packed(entries, terms=terms if series is True else None)


def _butterfly_by_peft(tensors: Tensors, told: Told) -> Delta:
    return Butterfly.of_peft(tensors["boft_R"], tensors["boft_s"])


def _kind(word: str, needs: str, make: Make, *, may: str = "", rank: str | None = None) -> Kind:
    return Kind(word, frozenset(needs.split()), frozenset(may.split()), make, rank)


_FIRST = ("lokr_w1", "lokr_w1_a lokr_w1_b")
_SECOND = (("lokr_w2", ""), ("lokr_w2_a lokr_w2_b", "lokr_t2"))
KINDS: tuple[Kind, ...] = (
    _kind("LoRA", "up down", _low_rank, may="mid dora_scale magnitude", rank="down"),
    _kind(
        "LoHa",
        "hada_w1_a hada_w1_b hada_w2_a hada_w2_b",
        _hadamard,
        may="hada_t1 hada_t2 dora_scale magnitude",
        rank="hada_w1_b",
    ),
    *(
        _kind("LoKr", f"{first} {second}", _kronecker, may=f"{core} dora_scale magnitude")
        for first in _FIRST
        for second, core in _SECOND
    ),
    _kind("norm", "w_norm", _norm, may="b_norm"),
    _kind("norm", "b_norm", _norm),
    _kind("full", "diff", _difference, may="diff_b dora_scale magnitude"),
    _kind("IA3", "weight on_input", _scaled),
    _kind("IA3", "ia3_l", _scaled_by_peft),
    _kind("GLoRA", "a1 a2 b1 b2", _generalised, may="bm", rank="a2"),
    _kind("OFT", "oft_blocks", _rotation, may="rescale"),
    _kind("OFT", "oft_R", _rotation_by_peft),
    _kind("BOFT", "boft_R boft_s", _butterfly_by_peft),
    _kind("full", "diff_b", _difference),
)
