"""A config from its file, with changes from the command line, checked as a whole."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safelight.errors import FileError, InputError, RequestError
from safelight.printable import shown
from safelight.training.config.configs import ADAPTERS, RECIPES, Config
from safelight.training.config.problems import joined, told

MOST_BYTES = 1 << 20


class ConfigError(InputError):
    """A config says what cannot be; the message names file, key, and what may stand there."""


def read_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """The config of a TOML file, with `key=value` changes put in first.

    A change's key is dotted, and its value is TOML or else taken as a text. Raises FileError for a
    file that cannot be read, ConfigError that names every key with a mistake.
    """
    values = _read(path)
    for change in changes:
        _changed(values, change)
    return checked(values, str(path))


def checked(values: Mapping[str, Any], name: str) -> Config:
    """The config that these values make. Raises ConfigError; `name` is the file's."""
    recipe = values.get("recipe")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        near = get_close_matches(str(recipe), RECIPES, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        given = "nothing" if recipe is None else shown(recipe, 60)
        raise ConfigError(
            f"{shown(name)}: recipe must be one of {', '.join(RECIPES)}; got {given}{guess}"
        )
    try:
        # as JSON, so that nothing but lists for tuples is taken for another type
        config = ADAPTERS[recipe].validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(joined(name, told(error.errors(), RECIPES[recipe]))) from None
    try:
        config.training.settings()
    except RequestError as error:
        raise ConfigError(f"{shown(name)}: training.{error}") from None
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FileError(f"{shown(path)} is too large for a config; at most 1 MiB is read")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"cannot read the config {shown(path)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{shown(path)} is not text in UTF-8; expected a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{shown(path)} is not TOML: {shown(str(error), 160)}") from None


def _changed(values: dict[str, Any], change: str) -> None:
    """Put one change in; tables on the way are made."""
    key, equals, text = change.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"--set must be KEY=VALUE, as training.steps=100; got {shown(change)!r}")
    table = values
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {shown(key)}: {shown(part)} is a value, not a section")
        table = inner
    table[parts[-1]] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if list(parsed) == ["value"] else text
