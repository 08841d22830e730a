"""How a file of weights was made of others: the remark `safelight.recipe` that it carries.

    {"safelight": "0.1.0", "made_by": "merge", "settings": {"method": "sum", ...},
     "inputs": [{"role": "model", "name": "a.safetensors", "size": 2132625894, "sha256": "...",
                 "settings": {"weight": 0.7}}, ...],
     "notes": [...]}

The SHA-256 is that of the file, or of a folder's weights and settings (`folder_sha256`). An input
that was made of others itself has its own recipe inside, as "recipe". Nothing depends on the day or
the place, so the same inputs and settings make the same file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safelight.checkpoints.digest import model_digest
from safelight.checkpoints.json_object import JsonObject
from safelight.errors import CheckpointError, FileError
from safelight.printable import shown
from safelight.version import __version__

KEY = "safelight.recipe"
MERGED_FROM = "modelspec.merged_from"
TITLE = "modelspec.title"
MAX_TEXT = 2**20


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A file or folder that went in. role: "model", "base", "adapter", "vae"."""

    role: str
    name: str  # without its folder
    size: int  # bytes of its files
    sha256: str
    settings: Mapping[str, object] = field(default_factory=dict)
    recipe: Mapping[str, object] | None = None  # its own, in the form in the file


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What made a file of weights: the verb, its settings, and what went in, in order."""

    verb: str
    settings: Mapping[str, object]
    inputs: Sequence[Ingredient]
    notes: Sequence[str] = ()
    safelight: str = __version__

    def remarks(self, title: str | None = None) -> dict[str, str]:
        """The metadata of a safetensors file that was made so, with Stability's model spec's."""
        models = [each.name for each in self.inputs if each.role in ("model", "adapter")]
        spec = {MERGED_FROM: ", ".join(models)} if len(models) > 1 else {}
        if title is not None:
            spec[TITLE] = title
        return {KEY: json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False), **spec}

    def to_json(self) -> dict[str, object]:
        """The form in the file."""
        return {
            "safelight": self.safelight,
            "made_by": self.verb,
            "settings": dict(self.settings),
            "inputs": [_plain(each) for each in self.inputs],
            "notes": list(self.notes),
        }


def ingredient(
    path: Path,
    role: str,
    settings: Mapping[str, object] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Ingredient:
    """What went in from a file or folder, with its hash; `metadata` are its own remarks.

    Raises FileError if it cannot be read.
    """
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    known = made_by(metadata or {})
    recipe = None if known is None else known.to_json()
    name = path.resolve().name
    return Ingredient(role, name, size, model_digest(path), settings or {}, recipe)


def made_by(metadata: Mapping[str, str]) -> MadeBy | None:
    """The recipe among a file's remarks; None if there is none, or none that can be read."""
    text = metadata.get(KEY)
    if text is None or len(text) > MAX_TEXT:
        return None
    try:
        return _from_json(JsonObject(json.loads(text), KEY))
    except (ValueError, RecursionError, AttributeError, CheckpointError, FileError):
        return None


def _from_json(json: JsonObject) -> MadeBy:
    inputs = json.values.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(each, dict) for each in inputs):
        raise CheckpointError(f"{KEY}: inputs must be a list of objects")
    return MadeBy(
        verb=json.text("made_by"),
        settings=_settings(json),
        inputs=[_ingredient(JsonObject(each, KEY)) for each in inputs],
        notes=[shown(note) for note in _list(json.values.get("notes"))],
        safelight=json.text("safelight"),
    )


def _ingredient(json: JsonObject) -> Ingredient:
    recipe = json.values.get("recipe")
    return Ingredient(
        json.text("role"),
        json.text("name"),
        json.whole("size", most=2**63 - 1),
        json.text("sha256"),
        _settings(json),
        recipe if isinstance(recipe, dict) else None,
    )


def _plain(each: Ingredient) -> dict[str, object]:
    values: dict[str, object] = {
        "role": each.role,
        "name": each.name,
        "size": each.size,
        "sha256": each.sha256,
        "settings": dict(each.settings),
    }
    return values if each.recipe is None else values | {"recipe": dict(each.recipe)}


def _settings(json: JsonObject) -> Mapping[str, object]:
    found = json.values.get("settings")
    return found if isinstance(found, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
