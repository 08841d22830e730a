"""How much of each model goes where: one weight, or one by part, by block, by module.

Block weights are written as Merge Block Weighted does, 25 numbers (19 for XL) or one more with
BASE first; or by name, `IN04:0.3,M00:0.5`, where a name may also be a module's of ours, such as
`mid_block` or `up_blocks.1.attentions.0`. BASE is what lies outside the U-Net: text and VAE.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from safelight.checkpoints.parts import shapes_of
from safelight.checkpoints.unet_numbering import BASE, block_finder, block_names
from safelight.errors import RequestError
from safelight.models.unet import UNetConfig
from safelight.printable import shown

Where = Callable[[str, str], float | None]  # (part, name of a tensor) -> weight; None: the rest


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight of one model; what is more particular wins.

    weight: of all that nothing else is said of; None is for the method to decide.
    unet, text, vae: of a part. blocks: text as it was given, empty if it was not.
    """

    weight: float | None = None
    unet: float | None = None
    text: float | None = None
    vae: float | None = None
    blocks: str = ""

    def where(self, unet: UNetConfig) -> Where:
        """The weight by part and tensor, for this U-Net.

        Raises RequestError for blocks that it does not have.
        """
        parts = {"unet": self.unet, "text": self.text, "vae": self.vae}
        blocks = block_weights(self.blocks, unet)
        finder = block_finder(unet)

        def of(part: str, name: str) -> float | None:
            if part == "unet":
                for prefix in _prefixes(name):
                    if prefix in blocks.modules:
                        return blocks.modules[prefix]
                if blocks.numbered and (found := blocks.numbered.get(finder(name))) is not None:
                    return found
                return self.weight if self.unet is None else self.unet
            stated = parts["text" if part.startswith("text") else "vae"]
            if stated is not None:
                return stated
            return self.weight if blocks.base is None else blocks.base

        return of

    def to_json(self) -> dict[str, object]:
        """What was stated, for a recipe."""
        values = {name: getattr(self, name) for name in ("weight", "unet", "text", "vae")}
        told: dict[str, object] = {name: v for name, v in values.items() if v is not None}
        return told | ({"blocks": self.blocks} if self.blocks else {})


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """Weights by block and by module of one U-Net. base: of all other parts, if stated."""

    base: float | None = None
    numbered: Mapping[str, float] = field(default_factory=dict)
    modules: Mapping[str, float] = field(default_factory=dict)


def block_weights(text: str, unet: UNetConfig) -> BlockWeights:
    """The weights that a text states; none for an empty one.

    Raises RequestError for a wrong count, a name that this U-Net does not have, or no number.
    """
    items = items_of(text)
    if not items:
        return BlockWeights()
    if all(":" in item for item in items):
        return _by_name(items, unet)
    return _by_place(items, unet)


def items_of(text: str) -> list[str]:
    """The entries of a list that is parted by commas or blanks."""
    return [item for item in re.split(r"[,\s]+", text) if item]


def _by_place(items: list[str], unet: UNetConfig) -> BlockWeights:
    names = block_names(unet)
    numbers = [number(item, "blocks") for item in items]
    if len(numbers) not in (len(names), len(names) + 1):
        raise RequestError(
            f"blocks has {len(numbers)} numbers; this U-Net has {len(names)} blocks, {names[0]} to "
            f"{names[-1]}: give {len(names)} numbers, or {len(names) + 1} with {BASE} first"
        )
    base = numbers.pop(0) if len(numbers) > len(names) else None
    return BlockWeights(base, dict(zip(names, numbers, strict=True)))


def _by_name(items: list[str], unet: UNetConfig) -> BlockWeights:
    names, modules = block_names(unet), _modules(unet)
    base: float | None = None
    found: dict[str, dict[str, float]] = {"numbered": {}, "modules": {}}
    for item in items:
        name, _, told = item.rpartition(":")
        value = number(told, name)
        if name.upper() == BASE:
            base = value
        elif name.upper() in names:
            found["numbered"][name.upper()] = value
        elif name in modules:
            found["modules"][name] = value
        else:
            raise RequestError(
                f"blocks: this U-Net has no {shown(name)}; it has {BASE}, {names[0]} to "
                f"{names[-1]}, and modules such as {', '.join(sorted(_outer(modules)))}"
            )
    return BlockWeights(base, found["numbered"], found["modules"])


def _modules(unet: UNetConfig) -> frozenset[str]:
    """Every module's name in a U-Net, at any depth."""
    return frozenset(prefix for name in shapes_of(unet) for prefix in _prefixes(name)[1:])


def _outer(modules: frozenset[str]) -> set[str]:
    return {name for name in modules if name.count(".") == ("blocks" in name)}


def _prefixes(name: str) -> list[str]:
    """A name and all module names before it, the longest first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def number(text: str, what: str) -> float:
    """A finite number of a text. Raises RequestError naming `what` it is of."""
    try:
        value = float(text)
    except ValueError:
        raise RequestError(f"{shown(what)} must be a number; got {shown(text)!r}.") from None
    if not math.isfinite(value):
        raise RequestError(f"{shown(what)} must be a finite number; got {shown(text)!r}.")
    return value
