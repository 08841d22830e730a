"""From Fooocus' settings to a request: its own JSON; its A1111 scheme is read as A1111's text."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from safelight.tasks.bounded_json import Json, as_object, parse_json
from safelight.tasks.metadata.reading import Notes, Reading, StatedHash, settled, stated_hashes
from safelight.tasks.recipe import bare_name

JSON_LIMIT = 1_000_000  # characters
PAIR = re.compile(r"\(?\s{0,4}(\d{1,6})\s{0,4}[,x×*]\s{0,4}(\d{1,6})\s{0,4}\)?")

DIRECT = MappingProxyType(
    {
        "prompt": "prompt",
        "negative_prompt": "negative_prompt",
        "seed": "seed",
        "steps": "steps",
        "guidance_scale": "cfg_scale",
        "sampler": "sampler",
        "scheduler": "schedule",
        "clip_skip": "clip_skip",
        "base_model": "model",
    }
)
# About the program, told by other keys, or read below.
SILENT = frozenset(
    {
        *("metadata_scheme", "version", "created_by", "base_model_hash", "performance", "vae"),
        *("full_prompt", "full_negative_prompt", "prompt_expansion", "resolution", "loras"),
        *("refiner_switch", "refiner_model", "refiner_model_hash", "styles"),
    }
)


def is_fooocus(text: str) -> bool:
    """Whether a `parameters` text is Fooocus' JSON rather than A1111's lines."""
    return text.lstrip()[:1] == "{" and ('"base_model"' in text or '"Base Model"' in text)


def read_fooocus(text: str) -> Reading:
    """The request of Fooocus' JSON. Raises FileError if the text is not that.

    What Fooocus really encoded are its `full_prompt` texts, with styles and expansion; the first
    is read, for it carries the style.
    """
    what = "Fooocus' metadata"
    raw = as_object(parse_json(text, what=what, limit=JSON_LIMIT), what=what)
    given = {key.casefold().replace(" ", "_"): value for key, value in raw.items()}
    notes = Notes()
    settings: dict[str, object] = {ours: given.get(theirs) for theirs, ours in DIRECT.items()}
    settings.update(dialect="comfy", noise_source="cpu", start="unit")
    settings["prompt"] = _encoded(given, "prompt", notes)
    settings["negative_prompt"] = _encoded(given, "negative_prompt", notes)
    settings.update(_size(given.get("resolution"), notes))
    settings["loras"], hashes = _loras(given.get("loras"), notes)
    vae = given.get("vae")
    settings["vae"] = vae if isinstance(vae, str) and not vae.startswith("Default") else None
    _note_the_rest(given, notes)
    known = given.get("base_model_hash")
    return Reading(
        "Fooocus",
        settled(settings, notes),
        notes.told(),
        known if isinstance(known, str) else None,
        hashes,
    )


def _loras(given: Json, notes: Notes) -> tuple[list[dict[str, object]], tuple[StatedHash, ...]]:
    """The LoRAs of a list of [file, weight, hash], and their hashes."""
    groups: list[dict[str, object]] = []
    hashes: list[StatedHash] = []
    for lora in given[:50] if isinstance(given, list) else []:
        if not isinstance(lora, list) or not lora or not isinstance(lora[0], str):
            notes.left_out("LoRA", lora)
            continue
        name = lora[0]
        groups.append({"file": name, "weight": lora[1] if len(lora) > 1 else 1.0})
        if len(lora) > 2 and isinstance(lora[2], str):
            hashes += stated_hashes("lora", f"{bare_name(name)}:{lora[2]}")
    return groups, tuple(hashes)


def _encoded(given: Mapping[str, Json], name: str, notes: Notes) -> str:
    full, typed = given.get(f"full_{name}"), given.get(name)
    plain = typed if isinstance(typed, str) else ""
    texts = [text for text in full if isinstance(text, str)] if isinstance(full, list) else []
    if not texts:
        return plain
    if len(texts) > 1:
        notes.add(f"Fooocus encoded {len(texts)} texts as one {name}; only the first is read.")
    return texts[0]


def _size(resolution: Json, notes: Notes) -> dict[str, object]:
    if resolution is None:
        return {}
    pair = PAIR.fullmatch(resolution.strip()) if isinstance(resolution, str) else None
    if pair is None:
        notes.left_out("resolution", resolution)
        return {}
    return {"width": int(pair[1]), "height": int(pair[2])}


def _note_the_rest(given: Mapping[str, Json], notes: Notes) -> None:
    """Sharpness and ADM guidance change every Fooocus picture, so they are always told."""
    refiner = given.get("refiner_model")
    if isinstance(refiner, str) and refiner not in ("", "None"):
        notes.left_out("refiner_model", refiner)
    for key, value in given.items():
        repeated = key.startswith("lora_combined")
        if key not in DIRECT and key not in SILENT and not repeated and value not in (None, ""):
            notes.left_out(key, value)
