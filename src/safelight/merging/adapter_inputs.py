"""The adapters that go into a merge: told from models, loaded for a family, with strengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from safelight.adapters.adapter import UNET, Adapter, by_text_part
from safelight.adapters.blocks import block_weights
from safelight.adapters.strengths import Strengths
from safelight.checkpoints.adapter_family import origin_of
from safelight.checkpoints.adapter_file import STEMS, SUFFIXES, open_adapter
from safelight.checkpoints.adapter_keys import sort
from safelight.checkpoints.adapter_load import LoadedAdapter, load_adapter
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.kinds import kind_of
from safelight.checkpoints.load import open_checkpoint
from safelight.checkpoints.made_by import Ingredient, ingredient
from safelight.checkpoints.parts import built
from safelight.errors import RequestError
from safelight.families import Family
from safelight.merging.plan import Taken
from safelight.merging.weights import Weights, items_of, number
from safelight.printable import shown


@dataclass(frozen=True)
class Given:
    """An adapter, how strongly it acts, and where it came from."""

    taken: Taken
    loaded: LoadedAdapter
    strengths: Strengths

    @property
    def adapter(self) -> Adapter:
        return self.loaded.adapter

    @property
    def notes(self) -> tuple[str, ...]:
        """What matched, and what else a user should see."""
        name = self.taken.path.name
        return (self.loaded.summary, *(f"{shown(name)}: {note}" for note in self.loaded.notes))

    def ingredient(self) -> Ingredient:
        """For a recipe."""
        metadata = self.adapter.about.metadata
        return ingredient(self.taken.path, "adapter", self.taken.weights.to_json(), metadata)


def is_adapter(path: Path) -> bool:
    """Whether a file or folder holds changes of layers and no model. Raises FileError."""
    if path.is_dir():
        names = [f"{stem}{suffix}" for stem in STEMS for suffix in SUFFIXES]
        return not (path / "model_index.json").is_file() and any(
            (path / name).is_file() for name in names
        )
    with open_weights(path) as file:
        kind = kind_of({name: info.shape for name, info in file.header.items()}).kind
        return kind == "lora" or (kind == "unknown" and bool(sort(file.header).groups))


def family_for(paths: Sequence[Path], model: Path | None = None) -> Family:
    """The family of a model; without one, that whose layers the adapters change.

    Raises RequestError if no published family has layers of these names and shapes, or two
    adapters are for different ones.
    """
    if model is not None:
        with open_checkpoint(model, use="convert") as checkpoint:
            return checkpoint.family
    found: dict[str, tuple[Path, Family]] = {}
    for path in paths:
        with open_adapter(path) as opened:
            origin = origin_of(opened)
        if origin is None or origin.fit.misfits or not origin.fit.changes:
            raise RequestError(
                f"{shown(path)} is for no published family of models; name a model that it is for "
                "with --model"
            )
        found.setdefault(origin.family.name, (path, origin.family))
    (first, family), *others = found.values()
    if others:
        other, another = others[0]
        raise RequestError(
            f"{shown(other)} is for {another.label}, but {shown(first)} is for {family.label}; "
            "only adapters of one family can be merged"
        )
    return family


def given(taken: Sequence[Taken], family: Family) -> list[Given]:
    """The adapters, loaded for a family. Raises what loading raises, and for odd weights."""
    modules = _modules(family) if any(each.weights.blocks for each in taken) else {}
    return [
        Given(each, load_adapter(each.path, family), strengths_of(each.weights, modules))
        for each in taken
    ]


def strengths_of(weights: Weights, modules: Mapping[str, nn.Module]) -> Strengths:
    """Weights as an adapter acts by them: 1 where none is said, and blocks as further factors.

    Raises RequestError for a weight of the autoencoder, which no adapter changes.
    """
    if weights.vae is not None:
        raise RequestError("vae= is for models; adapters do not change the autoencoder")
    usual = 1.0 if weights.weight is None else weights.weight
    unet = usual if weights.unet is None else weights.unet
    text = usual if weights.text is None else weights.text
    if not weights.blocks:
        return Strengths(unet, text)
    items = items_of(weights.blocks)
    if all(":" in item for item in items):
        named = [item.rpartition(":") for item in items]
        blocks = block_weights(modules, {name: number(told, name) for name, _, told in named})
    else:
        blocks = block_weights(modules, [number(item, "blocks") for item in items])
    return Strengths(unet, text, blocks)


def _modules(family: Family) -> dict[str, nn.Module]:
    """The networks of a family without memory, for the names of their layers."""
    with torch.device("meta"):
        texts = [built(role.encoder) for role in family.text.roles]
        return {UNET: built(family.backbone), **by_text_part(texts)}
