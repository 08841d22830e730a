"""Configs as TOML, the way a person would write them."""

import json
from collections.abc import Mapping
from typing import Any


def to_toml(values: Mapping[str, Any], remarks: tuple[str, ...] = ()) -> str:
    """The TOML of nested tables of numbers, texts, booleans and lists, under some remarks.

    Tables in tables are written inline; None is left out, as TOML has none.
    """
    lines = [f"# {remark}" for remark in remarks]
    plain = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
    lines += [f"{key} = {_value(value)}" for key, value in plain.items() if value is not None]
    for name, table in values.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{_key(name)}]"]
            lines += [f"{_key(k)} = {_value(v)}" for k, v in table.items() if v is not None]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    bare = name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    return name if bare else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inner} }}" if inner else "{}"
    return repr(value)


def _text(text: str) -> str:
    """A basic string: JSON's escapes are TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
