"""What the types of the published union ControlNets are called.

xinsir/controlnet-union-sdxl-1.0 knows the first six; its ProMax version two more.
"""

from collections.abc import Mapping
from types import MappingProxyType

from safelight.errors import RequestError

UNION_TYPES: Mapping[str, int] = MappingProxyType(
    {
        "openpose": 0,
        "depth": 1,
        "softedge": 2,
        "hed": 2,
        "pidi": 2,
        "scribble": 2,
        "ted": 2,
        "canny": 3,
        "lineart": 3,
        "anime_lineart": 3,
        "mlsd": 3,
        "normal": 4,
        "segment": 5,
        "tile": 6,
        "repaint": 7,
        "inpaint": 7,
    }
)


def union_type(name: str, known: int) -> int:
    """The number of a type by its name, or by the number itself, for a union of so many types.

    Raises RequestError for a name that none has, or one that this union does not know.
    """
    number = int(name) if name.isdecimal() else UNION_TYPES.get(name.strip().lower(), known)
    if number < known:
        return number
    names = [each for each, at in UNION_TYPES.items() if at < known]
    raise RequestError(
        f"this union ControlNet has no type {name!r}; choose from {', '.join(names)}, or a number "
        f"from 0 to {known - 1}"
    )
