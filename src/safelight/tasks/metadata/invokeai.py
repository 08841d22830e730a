"""From InvokeAI's settings to a request: its JSON of three generations, and its `Dream` texts."""

import shlex
from collections.abc import Mapping
from types import MappingProxyType

from safelight.errors import FileError
from safelight.tasks.bounded_json import Json, as_object, parse_json
from safelight.tasks.metadata.reading import Notes, Reading, settled

JSON_LIMIT = 4_000_000  # characters; canvases carry all their layers
DREAM_LIMIT = 50_000
DRAWS_FROM_TEXT = ("", "txt2img", "sdxl_txt2img")

# Keys that become ours as they are.
DIRECT = MappingProxyType(
    {
        "positive_prompt": "prompt",
        "negative_prompt": "negative_prompt",
        "width": "width",
        "height": "height",
        "seed": "seed",
        "steps": "steps",
        "cfg_scale": "cfg_scale",
        "scheduler": "sampler",
    }
)
# About the program, or read below.
SILENT = frozenset(
    {
        *("app_version", "generation_mode", "model", "vae", "clip_skip", "rand_device"),
        *("cfg_rescale_multiplier", "strength", "init_image", "positive_style_prompt"),
        *(
            "loras",
            "negative_style_prompt",
            "type",
            "id",
            "is_intermediate",
            "use_cache",
            "workflow",
        ),
    }
)
DREAM_OPTIONS = MappingProxyType(
    {
        "-s": "steps",
        "--steps": "steps",
        "-S": "seed",
        "--seed": "seed",
        "-W": "width",
        "--width": "width",
        "-H": "height",
        "--height": "height",
        "-C": "cfg_scale",
        "--cfg_scale": "cfg_scale",
        "-A": "sampler",
        "--sampler": "sampler",
    }
)

Settings = dict[str, object]


def read_invokeai(text: str) -> Reading:
    """The request of the chunk `invokeai_metadata`. Raises FileError if it is not its JSON."""
    given = as_object(
        parse_json(text, what="InvokeAI's metadata", limit=JSON_LIMIT), what="InvokeAI's metadata"
    )
    notes = Notes()
    settings: Settings = {ours: given.get(theirs) for theirs, ours in DIRECT.items()}
    settings.update(dialect="compel", start="diffusers", model=_name(given.get("model")))
    settings["vae"] = _name(given.get("vae"))
    settings["noise_source"] = "cpu" if given.get("rand_device", "cpu") == "cpu" else "nv"
    rescale, skip = given.get("cfg_rescale_multiplier"), given.get("clip_skip")
    if rescale:
        settings["guidance"] = {"rescale": rescale}
    if isinstance(skip, int) and skip > 0:
        settings["clip_skip"] = skip + 1  # counted from 0 there
    _check_mode(given, notes)
    _style_prompts(given, notes)
    settings["loras"] = _loras(given.get("loras"), notes)
    for key, value in given.items():
        if key not in DIRECT and key not in SILENT and value not in (None, False, [], {}, ""):
            notes.left_out(key, value)
    return _reading(settings, notes, _hash(given.get("model")))


def _check_mode(given: Mapping[str, Json], notes: Notes) -> None:
    mode = given.get("generation_mode", "")
    if mode not in DRAWS_FROM_TEXT:
        notes.left_out("generation_mode", mode)
    if given.get("init_image") is not None:
        notes.add("another picture was the start; only the drawing from text was read.")


def _loras(given: Json, notes: Notes) -> list[dict[str, object]]:
    """The LoRAs of a list of {"model" or "lora": ..., "weight": ...}, by age of the program."""
    groups: list[dict[str, object]] = []
    for lora in given[:50] if isinstance(given, list) else []:
        name = _name(lora.get("model", lora.get("lora"))) if isinstance(lora, dict) else None
        if name is None or not isinstance(lora, dict):
            notes.left_out("loras", lora)
        else:
            groups.append({"file": name, "weight": lora.get("weight", 1.0)})
    return groups


def _style_prompts(given: Mapping[str, Json], notes: Notes) -> None:
    """SDXL's second text: InvokeAI's default is to repeat the first or leave it empty."""
    for side in ("positive", "negative"):
        style = given.get(f"{side}_style_prompt")
        if style and style != given.get(f"{side}_prompt"):
            notes.left_out(f"{side}_style_prompt", style)


def read_sd_metadata(text: str) -> Reading:
    """The request of the chunk `sd-metadata` (InvokeAI 2). Raises FileError if it is not that."""
    what = "InvokeAI's sd-metadata"
    given = as_object(parse_json(text, what=what, limit=JSON_LIMIT), what=what)
    image = as_object(given.get("image"), what=f"{what}: image")
    notes = Notes()
    settings: Settings = {
        name: image.get(name) for name in ("width", "height", "seed", "steps", "cfg_scale")
    }
    settings.update(_split(_old_prompt(image.get("prompt"), notes)))
    settings["sampler"] = image.get("sampler")
    weights = given.get("model_weights")
    settings.update(dialect="compel", model=weights if isinstance(weights, str) else None)
    if image.get("type", "txt2img") != "txt2img":
        notes.left_out("type", image.get("type"))
    for key in ("threshold", "perlin", "variations", "postprocessing", "seamless", "hires_fix"):
        if image.get(key):
            notes.left_out(key, image[key])
    known = given.get("model_hash")
    return _reading(settings, notes, known if isinstance(known, str) else None)


def read_dream(text: str) -> Reading:
    """The request of a `Dream` text: `"a cat" -s 50 -S 123 -W 512 -H 512 -C 7.5 -A k_lms`.

    Raises FileError if the text is too long or its quotes do not close.
    """
    if len(text) > DREAM_LIMIT:
        raise FileError(f"the Dream text has {len(text)} characters; {DREAM_LIMIT} are read.")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise FileError(f"the Dream text cannot be read: {error}.") from None
    notes = Notes()
    settings: Settings = {}
    prompt: list[str] = []
    at = 0
    while at < len(words):
        option, value = words[at], words[at + 1] if at + 1 < len(words) else ""
        attached = DREAM_OPTIONS.get(option[:2]) if len(option) > 2 else None
        if option in DREAM_OPTIONS:
            settings[DREAM_OPTIONS[option]] = value
            at += 1
        elif attached is not None:  # -s50
            settings[attached] = option[2:]
        elif option.startswith("-") and option[1:2].isalpha():
            notes.left_out(option, value)
        elif not settings:
            prompt.append(option)
        else:
            notes.left_out("text behind the options", option)
        at += 1
    settings.update(_split(" ".join(prompt)))
    settings["dialect"] = "compel"
    return _reading(settings, notes, None)


def _reading(settings: Settings, notes: Notes, model_hash: str | None) -> Reading:
    return Reading("InvokeAI", settled(settings, notes), notes.told(), model_hash)


def _old_prompt(prompt: Json, notes: Notes) -> str:
    """A text, or a list of weighted texts of which only one can be read."""
    if isinstance(prompt, str):
        return prompt
    parts = [part for part in prompt if isinstance(part, dict)] if isinstance(prompt, list) else []
    if len(parts) > 1:
        notes.add(f"{len(parts)} weighted prompts were blended; only the first is read.")
    text = parts[0].get("prompt") if parts else ""
    return text if isinstance(text, str) else ""


def _split(prompt: str) -> Settings:
    """InvokeAI 2 wrote the negative prompt into the prompt, in [square brackets]."""
    head, *parts = prompt.split("[")
    positive, negative = [head], []
    for part in parts:
        inside, bracket, after = part.partition("]")
        if bracket:
            negative.append(inside)
            positive.append(after)
        else:
            positive.append(f"[{part}")
    joined = " ".join(part.strip() for part in positive if part.strip())
    return {"prompt": joined, "negative_prompt": ", ".join(negative)}


def _name(model: Json) -> str | None:
    """A model's name: a text, or under one of three keys, by age of the program."""
    if isinstance(model, str):
        return model or None
    if isinstance(model, dict):
        for key in ("name", "model_name"):
            name = model.get(key)
            if isinstance(name, str) and name:
                return name
        return _name(model.get("vae")) or _name(model.get("model"))
    return None


def _hash(model: Json) -> str | None:
    known = model.get("hash") if isinstance(model, dict) else None
    return known[:128] if isinstance(known, str) else None
