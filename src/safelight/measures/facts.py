"""What a caption says of its picture, in terms that can be checked."""

from dataclasses import dataclass

KINDS = ("single", "placed", "count", "relation", "recolour")
PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below", "next to", "and")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the caption says of the picture; None or empty where it does not say.

    `hexcodes` and `names` are those of the concepts in the order in which the caption names them.
    """

    kind: str
    hexcodes: tuple[str, ...]
    names: tuple[str, ...]
    style: str | None = None  # of the cut-outs' styles, such as `fluent-3d`
    background: str | None = None  # of colours.NAMES
    count: int = 1
    relation: str | None = None  # of RELATIONS: the first is so to the second
    place: str | None = None  # of PLACES
    size: str | None = None  # of SIZES
    recolour: str | None = None  # of colours.RECOLOUR_NAMES
