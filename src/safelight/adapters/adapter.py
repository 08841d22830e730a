"""A loaded adapter: changes of layers of the parts of a model, and what its file says of itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from safelight.models.deltas import Delta

UNET = "unet"
TEXT_ENCODER = "text_encoder"
TEXT_ENCODER_2 = "text_encoder_2"
TEXT_PARTS = (TEXT_ENCODER, TEXT_ENCODER_2)
PARTS = (UNET, *TEXT_PARTS)

T = TypeVar("T")


def by_text_part(encoders: Sequence[T]) -> dict[str, T]:
    """Text encoders, or what belongs to each, by the names of their parts.

    Raises ValueError for more of them than there are names.
    """
    return dict(zip(TEXT_PARTS[: len(encoders)], encoders, strict=True))


@dataclass(frozen=True)
class AdapterFacts:
    """What is known of an adapter besides its weights.

    kinds: words such as "LoRA", "LoHa", "DoRA". base: the family it was made for, if that is known.
    triggers: words of the prompt that call for it. metadata: what the file says, unread.
    """

    kinds: tuple[str, ...] = ()
    base: str | None = None
    triggers: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, eq=False)
class Adapter:
    """Deltas by part ("unet", "text_encoder", "text_encoder_2") and by the path of their layer.

    Paths are those of `named_modules()`, which are Diffusers' and Transformers' own.
    """

    name: str
    deltas: Mapping[str, Mapping[str, Delta]]
    about: AdapterFacts = AdapterFacts()

    def __iter__(self) -> Iterator[tuple[str, str, Delta]]:
        """Every (part, path, delta)."""
        for part, layers in self.deltas.items():
            for path, delta in layers.items():
                yield part, path, delta

    def __len__(self) -> int:
        """How many layers it changes."""
        return sum(len(layers) for layers in self.deltas.values())

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(p.numel() for _, _, delta in self for p in delta.parameters())
