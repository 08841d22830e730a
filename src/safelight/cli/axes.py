"""The axes of a grid: `steps=10,20,30`, `cfg=3-9(+2)`, `prompt=cat,dog`."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from safelight.cli.options import SETTINGS, Setting, request_mapping
from safelight.errors import RequestError
from safelight.tasks.complaint import nearest
from safelight.tasks.recipe import bare_name

_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(
    rf"\s*(?P<low>{_NUMBER})\s*-\s*(?P<high>{_NUMBER})\s*"
    r"(?:\(\s*(?P<step>[+-]?\d+(?:\.\d+)?)\s*\)|\[\s*(?P<count>\d{1,6})\s*\])?\s*"
)
REPLACE = ("prompt", "negative-prompt")  # search and replace, as A1111's "Prompt S/R"
ONE_A_CELL = ("count", "batch")
NAMES: Mapping[str, Setting] = {
    flag.lstrip("-").partition("/")[0]: setting
    for setting in SETTINGS
    for flag in setting.flags
    if flag.startswith("--") and setting.field not in ONE_A_CELL
}
FILES = ("model", "vae")
OF_SEVERAL = {"freeu": "1.5,1.6,0.9,0.2", "crop": "0,64"}  # settings of several numbers
VALUE_LIMIT = 1000


@dataclass(frozen=True)
class Axis:
    """One setting and the values it takes."""

    name: str
    values: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands beside the pictures of each value."""
        if self.name in REPLACE:
            return self.values
        if self.name in FILES:
            return tuple(bare_name(value) for value in self.values)
        return tuple(f"{self.name} {value}" for value in self.values)

    def applied(self, settings: Mapping[str, object], value: str) -> dict[str, object]:
        """The settings of a request with this axis at `value`.

        A prompt axis replaces its first value by each. Raises RequestError if that is not in the
        prompt.
        """
        if self.name in REPLACE:
            field = self.name.replace("-", "_")
            text = str(settings.get(field, ""))
            if self.values[0] not in text:
                raise RequestError(
                    f"the axis {self.name} replaces {self.values[0]!r}, which is not in the text "
                    f"{text!r}; write {self.name}=WORDS OF THE TEXT,OTHER WORDS,..."
                )
            return {**settings, field: text.replace(self.values[0], value)}
        setting = NAMES[self.name]
        given = [value] if setting.kind == list[str] else value
        return laid_on(settings, request_mapping({setting.parameter: given}))


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

    Values hold commas if quoted. Numbers may be ranges: `1-9` counts up by 1, `1-9(+2)` by 2, and
    `1-9[5]` takes 5 values from 1 to 9. Raises RequestError for an unknown name, or without values.
    """
    name, sign, values = text.partition("=")
    name = name.strip().lstrip("-").replace("_", "-")
    if not sign:
        raise RequestError(f"an axis is NAME=VALUE,VALUE,..., such as steps=10,20; got {text!r}.")
    if name not in NAMES and name not in REPLACE:
        raise RequestError(_unknown(name))
    kind = NAMES[name].kind if name in NAMES else str
    expanded = [value for part in _parts(values) for value in _values(part, kind)]
    if not any(value.strip() for value in expanded):
        raise RequestError(f"the axis {name} has no values; write {name}=VALUE,VALUE,...")
    if name in OF_SEVERAL and not any("," in value for value in expanded):
        example = OF_SEVERAL[name]
        raise RequestError(
            f"each value of the axis {name} holds commas itself, so quote it: "
            f"'{name}=\"{example}\"'; got {text!r}."
        )
    return Axis(name, tuple(expanded))


def _unknown(name: str) -> str:
    if name in ONE_A_CELL:
        return f"a grid cannot vary {name}: every cell is one picture. Vary seed instead."
    known = [*REPLACE, *NAMES]
    near = nearest(name, known)
    hint = f"Did you mean {near}?" if near else f"Known are {', '.join(known)}."
    return f"there is no setting {name!r} to vary. {hint}"


def _parts(values: str) -> list[str]:
    try:
        return next(csv.reader([values], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise RequestError(
            f"the values {values!r} cannot be read: {error}. Put commas between them, and "
            'quotation marks around one that holds a comma: cat,"dog, small".'
        ) from None


def _values(part: str, kind: object) -> Iterator[str]:
    """The text itself, or the numbers of a range."""
    match = _RANGE.fullmatch(part) if kind in (int, float) else None
    if match is None:
        yield part.strip()
        return
    low, high, step = (Decimal(match[name] or 1) for name in ("low", "high", "step"))
    if match["count"] is not None:
        count = int(match["count"])
        step = (high - low) / (count - 1) if count > 1 else Decimal(0)
    else:
        span = (high - low) / step if step else Decimal(-1)
        count = int(span) + 1 if span >= 0 else 0
    if not 1 <= count <= VALUE_LIMIT:
        raise RequestError(f"the range {part.strip()!r} has no values, or more than {VALUE_LIMIT}.")
    for k in range(count):
        number = low + k * step
        yield str(round(number)) if kind is int else f"{float(number):.6g}"
