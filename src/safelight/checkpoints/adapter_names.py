"""Layers of a model by the names that adapter files give them.

kohya and LyCORIS write a layer's path with underscores for dots, which cannot be undone by itself:
`attn1_to_out_0` has underscores of its own. So the underscored form of every layer of the model at
hand is built, in Diffusers' and in the original names, and looked up. Dotted names are underscored
first and go the same way.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from safelight.adapters.adapter import PARTS, TEXT_PARTS, UNET, by_text_part
from safelight.checkpoints.keymap import KeyMap, Shape
from safelight.checkpoints.parts import shapes_of
from safelight.checkpoints.rows_unet import unet_rows
from safelight.families import Family
from safelight.models.clip import ClipTextConfig
from safelight.models.unet import UNetConfig

ANY = PARTS

# What stands before a layer, and the parts that it may mean; the longest that fits counts.
PREFIXES: Mapping[str, tuple[str, ...]] = {
    "lora_unet_": (UNET,),
    "oft_unet_": (UNET,),
    "lycoris_unet_": (UNET,),
    "unet.": (UNET,),
    "unet.base_model.model.": (UNET,),
    "base_model.model.unet.": (UNET,),
    "diffusion_model.": (UNET,),
    "model.diffusion_model.": (UNET,),
    "lora_te_": TEXT_PARTS,
    "oft_te_": TEXT_PARTS,
    "lycoris_te_": TEXT_PARTS,
    "lora_te1_": TEXT_PARTS[:1],
    "oft_te1_": TEXT_PARTS[:1],
    "lycoris_te1_": TEXT_PARTS[:1],
    "text_encoder.": TEXT_PARTS[:1],
    "text_encoder.base_model.model.": TEXT_PARTS[:1],
    "base_model.model.text_encoder.": TEXT_PARTS[:1],
    "text_encoders.clip_l.transformer.": TEXT_PARTS[:1],
    "text_encoders.clip_h.transformer.": TEXT_PARTS[:1],
    "lora_te2_": TEXT_PARTS[1:],
    "oft_te2_": TEXT_PARTS[1:],
    "lycoris_te2_": TEXT_PARTS[1:],
    "text_encoder_2.": TEXT_PARTS[1:],
    "text_encoder_2.base_model.model.": TEXT_PARTS[1:],
    "base_model.model.text_encoder_2.": TEXT_PARTS[1:],
    "text_encoders.clip_g.transformer.": TEXT_PARTS[1:],
    "lycoris_": ANY,
    "base_model.model.": ANY,
    "": ANY,
}
_BY_LENGTH = sorted(PREFIXES, key=len, reverse=True)
_BLOCK = re.compile(r"(?:^|_)encoder_layers_(\d{1,4})_")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that an adapter can change: its part, its path, and the shape of its weight."""

    part: str
    path: str
    shape: Shape
    bias: bool


@dataclass(frozen=True)
class Layers:
    """The layers of a model, to be found by any of their spellings.

    original: paths of the U-Net's layers in the original names. depths: how many blocks each text
    encoder has.
    """

    tables: Mapping[str, Mapping[str, Layer]]  # part -> underscored path -> layer
    original: Mapping[str, str]
    depths: Mapping[str, int]

    def find(self, spelled: str) -> tuple[Layer, ...]:
        """The layers that a spelling can mean, likeliest first; several for one text encoder
        of two, where the shape tells."""
        parts, rest = _prefix(spelled)
        found = []
        for part in parts:
            table = self.tables.get(part, {})
            forms = _forms(rest, text=part != UNET)
            if layer := next((table[form] for form in forms if form in table), None):
                found.append(layer)
        return tuple(dict.fromkeys(found))

    def beyond(self, spelled: str) -> bool:
        """Whether a spelling is of a text block behind the last one that is run.

        Stable Diffusion 2 leaves out the last block of its text encoder, and so do we.
        """
        parts, rest = _prefix(spelled)
        block = _BLOCK.search(rest.replace(".", "_"))
        depths = [self.depths[part] for part in parts if part in self.depths]
        return block is not None and bool(depths) and int(block[1]) >= max(depths)

    def at(self, part: str, path: str) -> Layer | None:
        """The layer at one of our paths; None if the part has none there."""
        found = self.tables.get(part, {}).get(_flat(path))
        return found if found is not None and found.path == path else None

    def of(self, part: str) -> Iterator[Layer]:
        """The layers of one part, each once, in the module's order."""
        seen = set()
        for layer in self.tables.get(part, {}).values():
            if layer.path not in seen:
                seen.add(layer.path)
                yield layer


def layers_of(family: Family) -> Layers:
    """The layers of a family's U-Net and text encoders.

    The only encoder of a family is its `text_encoder`, also the refiner's, whose files call it the
    second.
    """
    texts = tuple(role.encoder for role in family.text.roles)
    return _layers(family.backbone, texts, family.text.vector == "refiner")


@lru_cache(maxsize=16)
def _layers(unet: UNetConfig, texts: tuple[ClipTextConfig, ...], second: bool) -> Layers:
    found = list(_weights(UNET, shapes_of(unet)))
    links = KeyMap(unet_rows(unet)).links([f"{layer.path}.weight" for layer in found])
    original = {
        layer.path: link.theirs.removesuffix(".weight")
        for layer, link in zip(found, links, strict=True)
    }
    table = {_flat(layer.path): layer for layer in found}
    table |= {_flat(original[layer.path]): layer for layer in found}
    tables = {UNET: table}
    for part, config in by_text_part(texts).items():
        layers = list(_weights(part, shapes_of(config)))
        tables[part] = {_flat(layer.path): layer for layer in layers}
        # Transformers leaves out `text_model` since version 5, as the files of 2022 did.
        tables[part] |= {_flat(layer.path).removeprefix("text_model_"): layer for layer in layers}
    if second:
        tables[TEXT_PARTS[1]] = tables[TEXT_PARTS[0]]
    depths = {part: config.layers for part, config in by_text_part(texts).items()}
    return Layers(MappingProxyType(tables), MappingProxyType(original), MappingProxyType(depths))


def _weights(part: str, shapes: Mapping[str, Shape]) -> Iterator[Layer]:
    """Linear layers, convolutions and norms; tables of embeddings are no layers to change."""
    for name, shape in shapes.items():
        path, _, leaf = name.rpartition(".")
        if leaf == "weight" and path and not path.endswith(("_embedding", "class_embedding")):
            yield Layer(part, path, shape, f"{path}.bias" in shapes)


def _prefix(spelled: str) -> tuple[tuple[str, ...], str]:
    prefix = next(p for p in _BY_LENGTH if spelled.startswith(p))
    return PREFIXES[prefix], spelled.removeprefix(prefix)


def _forms(rest: str, *, text: bool) -> Iterator[str]:
    """The underscored form of a spelling without its prefix, and what older files wrote for it."""
    plain = _flat(rest.replace(".processor.", "."))
    yield plain
    yield f"{plain}_0"  # `to_out`, whose Linear stands first in a list
    if text:  # the first files called a text encoder's projections as the U-Net's are called
        yield f"{plain.replace('_self_attn_to_', '_self_attn_')}_proj"


def _flat(path: str) -> str:
    return path.replace(".", "_")
