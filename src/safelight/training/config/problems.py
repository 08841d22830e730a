"""What is wrong with a config, in words: the key, what was given, and what may stand there."""

import types
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from safelight.printable import shown

MOST = 10  # mistakes that one message tells

_TYPES: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "a text in quotation marks",
    "bool_type": "true or false",
    "tuple_type": "a list in brackets",
    "dict_type": "a table of names and values",
    "model_type": "a table: a section [NAME] of its own, or {key = value}",
    "model_attributes_type": "a table: a section [NAME] of its own, or {key = value}",
    "finite_number": "a finite number",
}
_LIMITS: Mapping[str, str] = {
    "greater_than_equal": "{ge} or more",
    "greater_than": "greater than {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
    "string_too_short": "a text that is not empty",
    "string_too_long": "a text of at most {max_length} characters",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of at most {max_length}",
}


def told(errors: Sequence[ErrorDetails], model: type[BaseModel]) -> list[str]:
    """One line for each key with a mistake: `training.steps must be 1 or more; got 0`."""
    by_key: dict[str, list[tuple[ErrorDetails, _Place]]] = {}
    for error in errors:
        place = _located(error, model)
        by_key.setdefault(place.key, []).append((error, place))
    # of a union, what was wrong within one member says more than that it was no other member
    inner = {key.rpartition(".")[0] for key in by_key if "." in key}
    return [_line(key, found) for key, found in by_key.items() if key not in inner]


def joined(name: str, lines: Sequence[str]) -> str:
    """The mistakes of a file on one line, the first ten of them."""
    if len(lines) == 1:
        return f"{shown(name)}: {lines[0]}"
    numbered = "; ".join(f"({i}) {line}" for i, line in enumerate(lines[:MOST], start=1))
    more = f"; and {len(lines) - MOST} more" if len(lines) > MOST else ""
    return f"{shown(name)} has {len(lines)} mistakes: {numbered}{more}"


def unknown(key: str, known: Sequence[str]) -> str:
    """What to say of a name that is none of those known."""
    near = get_close_matches(key, known, n=1)
    if near:
        return f"is no key here; did you mean {near[0]}?"
    return f"is no key here; there are {', '.join(known)}"


class _Place:
    """Where an error is: its dotted key, the models around it, and the field itself."""

    def __init__(self, key: str, models: list[type[BaseModel]], field: FieldInfo | None) -> None:
        self.key, self.models, self.field = key, models, field


def _located(error: ErrorDetails, model: type[BaseModel]) -> _Place:
    """Walk a location; parts that only say which member of a union was tried are left out."""
    parts: list[str] = []
    models: list[type[BaseModel]] = [model]
    around, field = models, None
    loc = error["loc"]
    for number, part in enumerate(loc):
        owners = [m for m in models if part in m.model_fields]
        if owners:
            around, field = owners, owners[0].model_fields[str(part)]
            parts.append(str(part))
            models = [m for owner in owners for m in _models(owner.model_fields[str(part)])]
        elif named := [m for m in models if _tag(m) == part]:
            models = named
        elif error["type"] == "extra_forbidden" and number == len(loc) - 1:
            around, field = models, None
            parts.append(shown(str(part), 60))
        elif isinstance(part, int) or (_is_table(field) and not _is_tried(part)):
            parts.append(shown(str(part), 60))
    return _Place(".".join(parts), around, field)


def _models(field: FieldInfo) -> list[type[BaseModel]]:
    return [a for a in _flat(field.annotation) if isinstance(a, type) and issubclass(a, BaseModel)]


def _flat(annotation: Any) -> Iterator[Any]:
    """The members of a union, without what is annotated on them."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _flat(member)
    elif hasattr(annotation, "__metadata__"):
        yield from _flat(annotation.__origin__)
    else:
        yield annotation


def _tag(model: type[BaseModel]) -> str | None:
    """What a discriminated union calls a model: the only value of its field `kind`."""
    kind = model.model_fields.get("kind")
    values = get_args(kind.annotation) if kind is not None else ()
    return values[0] if len(values) == 1 else None


def _is_table(field: FieldInfo | None) -> bool:
    return field is not None and any(get_origin(a) is dict for a in _flat(field.annotation))


def _is_tried(part: str | int) -> bool:
    """Whether a part is pydantic's name of a type that it tried."""
    names = ("int", "float", "str", "bool", "constrained-", "literal[", "tuple[", "dict[", "[key]")
    return isinstance(part, str) and (part in names[:4] or part.startswith(names[4:]))


def _line(key: str, found: Sequence[tuple[ErrorDetails, _Place]]) -> str:
    error, place = found[0]
    if error["type"] == "extra_forbidden":
        known = list(dict.fromkeys(n for m in place.models for n in m.model_fields))
        return f"{key} {unknown(key.rpartition('.')[2], known)}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":
        said = str(error["ctx"]["error"])  # of the whole config, it names its keys itself
        return f"{key}: {said}" if key else said
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        tags = context["expected_tags"]
        return f"{key}.kind must be one of {tags}; got {_given(context['tag'])}"
    wanted = list(dict.fromkeys(_wanted(e, p.field) for e, p in found))
    return f"{key} must be {' or '.join(wanted)}; got {_given(error['input'])}"


def _wanted(error: ErrorDetails, field: FieldInfo | None) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in ("greater_than_equal", "less_than_equal", "greater_than", "less_than"):
        both = _range(field)
        if both is not None:
            return both
    if kind in _LIMITS:
        return _LIMITS[kind].format_map({k: _plain(v) for k, v in context.items()})
    if kind in _TYPES:
        return _TYPES[kind]
    if kind == "literal_error":
        return f"one of {context.get('expected', '')}".replace(" or ", ", ")
    said = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return said[:1].lower() + said[1:]


def _range(field: FieldInfo | None) -> str | None:
    """Both limits of a number, where the field has two."""
    low = high = None
    for limit in field.metadata if field is not None else ():
        if isinstance(limit, Ge | Gt):
            low = limit
        elif isinstance(limit, Le | Lt):
            high = limit
    if low is None or high is None:
        return None
    least = f"{low.ge} or more" if isinstance(low, Ge) else f"greater than {low.gt}"
    most = f"{high.le} or less" if isinstance(high, Le) else f"less than {high.lt}"
    if isinstance(low, Ge) and isinstance(high, Le):
        return f"from {low.ge} to {high.le}"
    return f"{least} and {most}"


def _plain(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def _given(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{shown(value, 60)}"'
    return shown(value, 60)
