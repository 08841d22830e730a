"""A scene: objects on a background, its caption, and the facts by which a picture is judged."""

from collections.abc import Mapping
from dataclasses import dataclass

from safelight.measures.facts import KINDS, Facts

__all__ = ["KINDS", "LAYERS", "MIX", "Facts", "Layer", "Scene"]

LAYERS = 4  # the most objects in a scene
MIX: Mapping[str, float] = {
    "single": 0.58,
    "placed": 0.10,
    "count": 0.12,
    "relation": 0.14,
    "recolour": 0.06,
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One object: which cut-out, how large and where, and its new colour if it gets one.

    `size` is the longer side of the object's box, and x, y the box's middle, as shares of the
    picture's side. `recolour` is a name of colours.RECOLOURS.
    """

    cutout: int
    size: float
    x: float
    y: float
    recolour: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """Layers from back to front on a plain background, with the words for it."""

    layers: tuple[Layer, ...]
    background: tuple[int, int, int]  # sRGB
    background_name: str
    caption: str
    kind: str
    facts: Facts
