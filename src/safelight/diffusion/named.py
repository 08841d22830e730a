"""From a name and numbers, as a config file holds them, to the thing of that name."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import TypeVar

from safelight.errors import RequestError

T = TypeVar("T")


def named(
    what: str, table: Mapping[str, Callable[..., T]], name: str, options: Mapping[str, object]
) -> T:
    """The entry of a table, made with these options.

    Raises RequestError that lists the names, or the options that the entry has.
    """
    make = table.get(name)
    if make is None:
        near = get_close_matches(name, table, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise RequestError(f"unknown {what} {name!r}; choose one of {', '.join(table)}.{guess}")
    allowed = signature(make).parameters
    for option in options:
        if option not in allowed:
            raise RequestError(
                f"the {what} {name!r} has no option {option!r}; "
                f"its options: {', '.join(allowed) or 'none'}."
            )
    return make(**options)
