"""Settings with a name: what they change of a drawing, and what that was seen to cost."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from safelight.errors import RequestError
from safelight.printable import shown

if TYPE_CHECKING:
    from safelight.families import SamplerHint

PresetName = Literal["fast"]

# UniPC comes near in half the calls to what the usual sampler draws in 20 steps: scripts/drift.py.
PRESETS: Mapping[PresetName, Mapping[str, object]] = MappingProxyType(
    {"fast": MappingProxyType({"sampler": "uni_pc", "schedule": "automatic", "steps": 10})}
)


def preset_settings(name: str | None) -> Mapping[str, object]:
    """The settings of a preset; none for None. Raises RequestError for an unknown name."""
    if name is None:
        return {}
    for known, settings in PRESETS.items():
        if name == known:
            return settings
    raise RequestError(f"there is no preset {shown(name)}; there is {', '.join(PRESETS)}.")


def check_preset(name: str, hint: "SamplerHint") -> None:
    """Raise RequestError for a preset that takes as many steps as a model asks for, or more."""
    steps = preset_settings(name)["steps"]
    assert isinstance(steps, int)
    if hint.stated and hint.steps <= steps:
        raise RequestError(
            f"preset {name} draws in {steps} steps, and this model was made for {hint.steps} of "
            f"its own; leave --preset out."
        )
