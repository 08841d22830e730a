"""The axes of a grid: `steps=10,20,30`, `cfg=3-9(+2)`, `prompt=cat,dog`."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from safelight.cli.options import SETTINGS, request_mapping
from safelight.errors import RequestError

_RANGE = re.compile(
    r"\s*(?P<low>-?\d+(?:\.\d+)?)\s*-\s*(?P<high>-?\d+(?:\.\d+)?)\s*"
    r"(?:\(\s*(?P<step>[+-]?\d+(?:\.\d+)?)\s*\)|\[\s*(?P<count>\d+)\s*\])\s*"
)
NAMES = {
    flag.lstrip("-").partition("/")[0]: s for s in SETTINGS for flag in s.flags if flag[:2] == "--"
}
REPLACE = ("prompt", "negative-prompt")  # search and replace, as A1111's "Prompt S/R"
VALUE_LIMIT = 1000


@dataclass(frozen=True)
class Axis:
    """One setting and the values it takes."""

    name: str
    values: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        if self.name in REPLACE:
            return self.values
        return tuple(f"{self.name} {value}" for value in self.values)

    def applied(self, settings: Mapping[str, object], value: str) -> dict[str, object]:
        """The settings of a request with this axis at `value`.

        A prompt axis replaces its first value by each. Raises RequestError if that is not in the
        prompt, or for a value that is none of this setting's.
        """
        if self.name in REPLACE:
            field = self.name.replace("-", "_")
            text = str(settings.get(field, ""))
            if self.values[0] not in text:
                raise RequestError(
                    f"the axis {self.name} replaces {self.values[0]!r}, which is not in the text "
                    f"{text!r}."
                )
            return {**settings, field: text.replace(self.values[0], value)}
        return laid_on(settings, request_mapping({NAMES[self.name].parameter: value}))


def laid_on(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """`over` laid on `base`, group by group."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[name] = laid_on(below, value) if both else value  # type: ignore[arg-type]
    return merged


def axis(text: str) -> Axis:
    """The axis of a text `name=value,value,...`.

    Values hold commas if quoted. `1-9(+2)` counts up by 2, `1-9[5]` takes 5 values from 1 to 9.
    Raises RequestError for an unknown name, or without values.
    """
    name, sign, values = text.partition("=")
    name = name.strip().lstrip("-").replace("_", "-")
    if not sign or (name not in NAMES and name not in REPLACE):
        known = ", ".join([*REPLACE, *NAMES])
        raise RequestError(f"an axis is NAME=VALUE,VALUE,...; got {text!r}. Names: {known}.")
    found = next(csv.reader([values], skipinitialspace=True), [])
    expanded = [value for part in found for value in _values(part)]
    if not any(value.strip() for value in expanded):
        raise RequestError(f"the axis {name} has no values; write {name}=VALUE,VALUE,...")
    return Axis(name, tuple(expanded))


def _values(part: str) -> Iterator[str]:
    match = _RANGE.fullmatch(part)
    if match is None:
        yield part.strip()
        return
    low, high = float(match["low"]), float(match["high"])
    if match["count"] is not None:
        count = int(match["count"])
        step = (high - low) / (count - 1) if count > 1 else 0.0
    else:
        step = float(match["step"])
        count = int((high - low) / step + 1e-9) + 1 if step and (high - low) / step >= 0 else 0
    if not 1 <= count <= VALUE_LIMIT:
        raise RequestError(f"the range {part.strip()!r} has no values, or more than {VALUE_LIMIT}.")
    whole = all(number.is_integer() for number in (low, step))
    for k in range(count):
        number = low + k * step
        yield str(int(number)) if whole else f"{number:.6g}"
