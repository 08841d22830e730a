"""ControlNet units, as the extension's clients send them, as our controls.

A picture is base64, or an object with it, or a pair of picture and mask; never a path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from safelight.preprocessors.maps import resolve_preprocessor
from safelight.server.refusals import NotAllowed

MODES = {
    "balanced": "balanced",
    "my prompt is more important": "prompt",
    "controlnet is more important": "control",
    "0": "balanced",
    "1": "prompt",
    "2": "control",
}
RESIZES = {
    "just resize": "just",
    "crop and resize": "crop",
    "resize and fill": "fill",
    "0": "just",
    "1": "crop",
    "2": "fill",
    "scale to fit (inner fit)": "crop",
    "envelope (outer fit)": "fill",
    "inner fit (scale to fit)": "crop",
    "outer fit (shrink to fit)": "fill",
}


MOST_UNITS = 16  # of one call, those that are off included


@dataclass(frozen=True)
class Units:
    """Controls; pictures in them are places in `pictures`. maps: those whose map is wanted back."""

    controls: list[dict[str, object]] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)
    maps: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def controls_of(units: object, *, has_source: bool) -> Units:
    """The controls of a list of units; those that say `enabled: false` are left out.

    Raises NotAllowed for a unit that cannot be.
    """
    if not isinstance(units, list):
        raise NotAllowed("controlnet args must be a list of units.")
    if len(units) > MOST_UNITS:
        raise NotAllowed(f"{len(units)} ControlNet units are too many; up to {MOST_UNITS}.")
    controls: list[dict[str, object]] = []
    pictures: dict[str, str] = {}
    maps: list[int] = []
    notes: list[str] = []
    for number, unit in enumerate(units):
        if not isinstance(unit, Mapping) or unit.get("enabled") is False:
            continue
        model = str(unit.get("model") or "None").partition(" [")[0].strip()
        if model.lower() == "none":
            notes.append(f"ControlNet unit {number} names no model and does nothing.")
            continue
        control = _control(unit, number, model)
        place = f"control{len(controls)}"
        given = picture_of(unit.get("image", unit.get("input_image")))
        if given is not None:
            pictures[place] = given
            control["picture"] = place
        elif not has_source:
            raise NotAllowed(f"ControlNet unit {number} has no image.")
        if unit.get("save_detected_map", True) and control.get("preprocessor", "none") != "none":
            maps.append(len(controls))
        controls.append(control)
    return Units(controls, pictures, tuple(maps), tuple(notes))


def _control(unit: Mapping[str, object], number: int, model: str) -> dict[str, object]:
    start = _number(unit, "guidance_start", 0.0)
    end = _number(unit, "guidance_end" if "guidance_end" in unit else "guidance", 1.0)
    if start > end:
        raise NotAllowed(f"ControlNet unit {number}: guidance_start is after guidance_end.")
    control: dict[str, object] = {
        "net": model,
        "scale": _number(unit, "weight", 1.0),
        "start": start,
        "end": end,
        "mode": _named(unit, "control_mode", MODES, "balanced"),
        "resize": _named(unit, "resize_mode", RESIZES, "crop"),
        "preprocessor": module_of(unit.get("module")),
    }
    options = options_of(str(control["preprocessor"]), unit)
    if options:
        control["options"] = options
    resolution = _number(unit, "processor_res", -1)
    scaled = resolve_preprocessor(str(control["preprocessor"])).scaled
    if resolution > 0 and scaled and not unit.get("pixel_perfect"):
        control["resolution"] = int(resolution)
    return control


def module_of(name: object) -> str:
    """A preprocessor by the extension's name for it. Raises RequestError if there is none."""
    text = str(name or "none")
    return "none" if text.lower() == "none" else resolve_preprocessor(text).name


def options_of(preprocessor: str, unit: Mapping[str, object]) -> dict[str, object]:
    """The two thresholds of a unit as the first two number options of its preprocessor.

    What lies outside an option's range is the preprocessor's own default, as in the extension.
    """
    options: dict[str, object] = {}
    numbers = [
        option
        for option in resolve_preprocessor(preprocessor).options
        if isinstance(option.default, int | float) and not isinstance(option.default, bool)
    ]
    for option, name in zip(
        numbers[:2], ("threshold_a", "threshold_b")[: len(numbers)], strict=True
    ):
        value = _number(unit, name, -1)
        if value >= 0 and option.low <= value <= option.high:
            options[option.name] = int(value) if isinstance(option.default, int) else value
    return options


def picture_of(image: object) -> str | None:
    """The picture of a unit: base64, {"image": base64}, or [picture, mask]."""
    if isinstance(image, Mapping):
        image = image.get("image")
    if isinstance(image, list):
        image = image[0] if image else None
    if image is None or image == "":
        return None
    if not isinstance(image, str):
        raise NotAllowed("a ControlNet image must be base64.")
    return image


def _number(unit: Mapping[str, object], name: str, usual: float) -> float:
    value = unit.get(name)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotAllowed(f"ControlNet: {name} must be a number.")
    return value


def _named(unit: Mapping[str, object], name: str, known: Mapping[str, str], usual: str) -> str:
    value = unit.get(name)
    if value is None:
        return usual
    found = known.get(str(value).lower())
    if found is None:
        raise NotAllowed(f"ControlNet: {name} {str(value)[:60]!r} is unknown.")
    return found
