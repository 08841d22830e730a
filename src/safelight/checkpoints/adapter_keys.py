"""Tensor names of adapter files, taken apart: which layer, and what of its change.

A name is a layer as the file spells it and one of the endings below. The endings of all published
layouts stand for the same few things, called slots here; they are kohya's and LyCORIS' words where
these have one.

Sources: kohya-ss/sd-scripts `networks/`, LyCORIS `modules/`, PEFT `tuners/`, and the attention
processors of Diffusers from 0.11 on.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BUNDLE = "bundle_emb."  # OneTrainer and A1111: embeddings that were trained beside the adapter

_PLAIN = (
    "alpha",
    "scale",
    "dora_scale",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
    "diff",
    "diff_b",
    "w_norm",
    "b_norm",
    "on_input",
    "ia3_l",
    "oft_blocks",
    "oft_diag",
    "rescale",
)
# What the last part or parts of a name stand for.
SLOTS: Mapping[str, str] = {
    **{name: name for name in _PLAIN},
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_B.bias": "up_bias",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "a1.weight": "a1",
    "a2.weight": "a2",
    "b1.weight": "b1",
    "b2.weight": "b2",
    "bm.weight": "bm",
    "weight": "weight",  # of IA3, beside `on_input`
    "oft_R.weight": "oft_R",
    "boft_R": "boft_R",
    "boft_s": "boft_s",
    # Kinds that we know by name only, so that a file of them is refused by its name.
    "vera_lambda_b": "vera",
    "vera_lambda_d": "vera",
    "q_layer.weight": "t_lora",
    "p_layer.weight": "t_lora",
    "lambda_layer": "t_lora",
}
_LONGEST = max(ending.count(".") for ending in SLOTS) + 1

# PEFT keeps the adapter's own name in a state that was not saved through its function.
_NAMED = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.(?!weight$|bias$)[^.]+(?=\.|$)")
_OLD = re.compile(r"_lora\.(down|up)\.weight$")  # of Diffusers' processors: `to_q_lora.down.weight`


@dataclass(frozen=True, slots=True)
class Group:
    """What a file holds for one layer: names of its tensors by slot, and the layer's spelling."""

    module: str
    tensors: Mapping[str, str]

    @property
    def peft(self) -> bool:
        """Whether PEFT or Diffusers named it, whose alphas stand outside the tensors."""
        return not any(
            name.endswith((".lora_down.weight", ".alpha")) for name in self.tensors.values()
        )


@dataclass(frozen=True, slots=True)
class Sorted:
    """All names of a file: by layer, those of bundled embeddings, and those of neither."""

    groups: tuple[Group, ...]
    bundled: tuple[str, ...]
    unknown: tuple[str, ...]


def split(name: str) -> tuple[str, str] | None:
    """The layer's spelling and the slot of one name; None if it has none of the endings."""
    plain = _NAMED.sub(r".\1", name)
    if old := _OLD.search(plain):
        return plain[: old.start()], old[1]
    parts = plain.split(".")
    for count in range(min(_LONGEST, len(parts) - 1), 0, -1):
        if slot := SLOTS.get(".".join(parts[-count:])):
            return ".".join(parts[:-count]), slot
    return None


def sort(names: Iterable[str]) -> Sorted:
    """The names of a file by layer, in the file's order.

    A name that would take a slot a second time is of no layer; a file that spells one layer in two
    ways makes two groups of it.
    """
    layers: dict[str, dict[str, str]] = {}
    bundled, unknown = [], []
    for name in names:
        if name.startswith(BUNDLE):
            bundled.append(name)
            continue
        found = split(name)
        if found is None or found[1] in layers.get(found[0], ()):
            unknown.append(name)
            continue
        layers.setdefault(found[0], {})[found[1]] = name
    groups = []
    for module, tensors in layers.items():
        if tensors.keys() == {"weight"}:  # a layer of its own, not a change of one
            unknown.extend(tensors.values())
        else:
            groups.append(Group(module, tensors))
    return Sorted(tuple(groups), tuple(bundled), tuple(unknown))
