"""What a model says of itself: what it is called, and how it is best drawn with.

A folder says so in `safelight.json`, a single file in its metadata, in the same form:

    {"label": "...", "hint": {"sampler": ..., "schedule": ..., "steps": ..., "guidance_scale": ...}}

Published models have neither: their scheduler's config names a sampler, which other programs do not
follow, and nothing more.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.json_object import JsonObject, read_object
from safelight.checkpoints.stored_config import stored_configs
from safelight.diffusion.samplers import resolve_sampler
from safelight.diffusion.schedules import resolve_schedule
from safelight.errors import CheckpointError, RequestError
from safelight.families import Family, SamplerHint
from safelight.printable import shown

FILE = "safelight.json"
KEY = "about"  # among the configs of a single file
_FIELDS = ("sampler", "schedule", "steps", "guidance_scale")
_MOST_STEPS, _MOST_GUIDANCE, _LONGEST_LABEL = 1000, 100, 80


@dataclass(frozen=True, slots=True)
class About:
    """What was stated; None where nothing was. notes: what a user should see of it."""

    label: str | None = None
    hint: SamplerHint | None = None
    notes: tuple[str, ...] = ()

    def said_of(self, family: Family) -> Family:
        """The family, called and drawn with as its model says."""
        label = family.label if self.label is None else self.label
        return replace(family, label=label, hint=family.hint if self.hint is None else self.hint)


NOTHING = About()


def own_hint(path: Path) -> SamplerHint | None:
    """The settings that a model's folder or file states for itself; None if it states none.

    Reads no weights. Raises FileError or CheckpointError if what it states cannot be used.
    """
    if path.is_dir():
        return about_folder(path).hint
    with open_weights(path) as file:
        return about_file(stored_configs(file)).hint


def about_folder(folder: Path) -> About:
    """What a folder's `safelight.json` says; nothing if there is none."""
    path = folder / FILE
    return about_from_json(read_object(path)) if path.is_file() else NOTHING


def about_file(configs: Mapping[str, JsonObject]) -> About:
    """What a single file says among its configs."""
    return about_from_json(configs[KEY]) if KEY in configs else NOTHING


def about_from_json(json: JsonObject) -> About:
    """What is stated, with a note for settings that this version does not know.

    Raises CheckpointError for a sampler or schedule that we do not have, or a value out of range.
    """
    notes = _unknown(json, ("label", "hint"))
    label = json.text("label") if json.has("label") else None
    if label is not None and (not label.strip() or shown(label, _LONGEST_LABEL) != label):
        raise CheckpointError(
            f"{json.source}: label is {shown(label, 40)!r}; expected one line of 1 to "
            f"{_LONGEST_LABEL} characters"
        )
    if not json.has("hint"):
        return About(label, None, notes)
    inner = json.values["hint"]
    if not isinstance(inner, dict):
        raise CheckpointError(f"{json.source}: hint is {shown(inner)}; expected an object")
    stated = JsonObject(inner, f"{json.source}, hint")
    return About(label, _hint(stated), (*notes, *_unknown(stated, _FIELDS)))


def about_to_json(family: Family) -> dict[str, object] | None:
    """What `about_from_json` reads; None if the model states nothing of itself."""
    if not family.hint.stated:
        return None
    hint = {name: getattr(family.hint, name) for name in _FIELDS}
    return {"label": family.label, "hint": hint}


def _hint(json: JsonObject) -> SamplerHint:
    usual = SamplerHint()
    try:
        sampler = resolve_sampler(json.text("sampler", usual.sampler)).name
        named = json.text("schedule", "")
        schedule = resolve_schedule(named).name if named else None
    except RequestError as error:
        raise CheckpointError(f"{json.source}: {error}") from None
    steps = json.whole("steps", usual.steps)
    guidance = json.number("guidance_scale", usual.guidance_scale)
    if not 1 <= steps <= _MOST_STEPS:
        raise CheckpointError(f"{json.source}: steps is {steps}; expected 1 to {_MOST_STEPS}")
    if not (math.isfinite(guidance) and 0 <= guidance <= _MOST_GUIDANCE):
        raise CheckpointError(
            f"{json.source}: guidance_scale is {guidance}; expected 0 to {_MOST_GUIDANCE}"
        )
    return SamplerHint(sampler, schedule, steps, guidance, stated=True)


def _unknown(json: JsonObject, known: Collection[str]) -> tuple[str, ...]:
    others = [shown(name, 40) for name in json.values if name not in known]
    if not others:
        return ()
    return (
        f"{json.source} says {', '.join(others)}, which this version does not know; known are "
        f"{', '.join(known)}",
    )
