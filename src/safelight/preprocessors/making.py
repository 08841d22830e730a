"""How a map is made: a preprocessor with its settings, as a value that can be written down.

A ControlNet that says how its maps were made in training can be shown such maps without asking.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from safelight.errors import CheckpointError, RequestError
from safelight.preprocessors.filters import Pixels
from safelight.preprocessors.maps import ControlMap, check_resolution, control_map
from safelight.preprocessors.maps import resolve_preprocessor as resolve
from safelight.printable import shown

_NO_OPTIONS: Mapping[str, object] = MappingProxyType({})
_KEYS = ("preprocessor", "options", "resolution")


@dataclass(frozen=True)
class Making:
    """A preprocessor with its options and resolution. Raises RequestError as `control_map`."""

    preprocessor: str = "none"
    options: Mapping[str, object] = field(default_factory=lambda: _NO_OPTIONS)
    resolution: int | None = None

    def __post_init__(self) -> None:
        how = resolve(self.preprocessor)
        how.checked(self.options)
        if self.resolution is not None:
            check_resolution(how, self.resolution)

    def map_of(self, pixels: Pixels, mask: NDArray[np.float32] | None = None) -> ControlMap:
        """The map of a picture; see `control_map`."""
        return control_map(
            self.preprocessor,
            pixels,
            mask=mask,
            resolution=self.resolution,
            options=self.options,
        )

    def to_json(self) -> dict[str, object]:
        """The same as a JSON object, every option stated."""
        how = resolve(self.preprocessor)
        made: dict[str, object] = {"preprocessor": how.name, "options": how.checked(self.options)}
        return made if self.resolution is None else {**made, "resolution": self.resolution}

    def __str__(self) -> str:
        how = resolve(self.preprocessor)
        parts = [f"{name} {value}" for name, value in how.checked(self.options).items()]
        at = [] if self.resolution is None else [f"at {self.resolution} pixels"]
        return ", ".join([how.name, *parts, *at])


def making_from_json(values: Mapping[str, object], source: str) -> Making:
    """What `Making.to_json` wrote. Raises CheckpointError naming `source` if it cannot be used."""
    name, options = values.get("preprocessor"), values.get("options", {})
    resolution = values.get("resolution")
    fits = isinstance(name, str) and isinstance(options, dict) and not set(values) - set(_KEYS)
    whole = resolution is None or (isinstance(resolution, int) and resolution is not True)
    if not fits or not whole:
        raise CheckpointError(
            f"{shown(source)}: a control's making is an object of {', '.join(_KEYS)}; "
            f"got {shown(values, 80)}"
        )
    try:
        return Making(str(name), dict(options), resolution)  # type: ignore[call-overload, arg-type]
    except RequestError as error:
        raise CheckpointError(f"{shown(source)}: {error}") from None
