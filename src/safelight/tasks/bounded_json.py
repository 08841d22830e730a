"""JSON that somebody else wrote: read with bounds, and never with another exception than ours."""

import json
from collections import Counter

from safelight.errors import FileError

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


def parse_json(text: str, *, what: str, limit: int, strict: bool = False) -> Json:
    """The value of a JSON text of at most `limit` characters.

    `strict` also refuses NaN, infinities and an object that names a key twice.
    Raises FileError naming `what` if the text is too long, too deep or not JSON.
    """
    if len(text) > limit:
        raise FileError(f"{what} has {len(text)} characters; at most {limit} are read.")
    try:
        if strict:
            value: Json = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
        else:
            value = json.loads(text)
    except RecursionError:
        raise FileError(f"{what} is nested too deeply to be read.") from None
    except ValueError as error:  # also a number of too many digits
        raise FileError(f"{what} is not valid JSON: {error}.") from None
    return value


def as_object(value: Json, *, what: str) -> dict[str, Json]:
    """The value as an object. Raises FileError naming `what` if it is anything else."""
    if not isinstance(value, dict):
        raise FileError(f"{what} must be a JSON object; got {type(value).__name__}.")
    return value


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not a number of JSON")


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    values = dict(pairs)
    if len(values) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice[:60]!r} is given twice")
    return values
