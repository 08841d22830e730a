"""From A1111's settings to a request; what has no counterpart is noted, never silently dropped."""

import re
from collections.abc import Callable, Mapping

from safelight.errors import FileError, RequestError
from safelight.tasks.bounded_json import Json, parse_json
from safelight.tasks.large import is_plain
from safelight.tasks.metadata.infotext import (
    EMPHASIS,
    ESRGAN_FILES,
    SAMPLER_KEYS,
    SCHEDULE_KEYS,
    SETTINGS_KEY,
    TOLD_ELSEWHERE,
    Infotext,
    parse_infotext,
)
from safelight.tasks.metadata.reading import Notes, Reading, settled, stated_hashes
from safelight.tasks.recipe import bare_name
from safelight.tasks.request import AUTOMATIC, Request

# Told by other fields or about the file, not about the drawing.
SILENT = frozenset(
    {
        *("version", "model hash", "vae hash", "batch size", "batch pos", "user", "created date"),
        *("civitai metadata", "hashes", "metadata scheme"),
        # read before
        *("ti hashes", "lora hashes", "model", "vae", "rng"),
        *("sampler", "schedule type", "scheduler"),
    }
)
SIZE = re.compile(r"(\d{1,6})\s?[xX×]\s?(\d{1,6})")
A1111_VERSION = re.compile(r"(?:f\d+\.\d+\.\d+(?:\.\d+)?)?v?1\.(\d{1,3})(?:\.|$)")
UNIFORM_BEFORE = 9  # A1111 1.9 gave the schedule a key of its own
# What SETTINGS_KEY may set; a clip skip of 1 is A1111's default, so its text leaves that out.
OWN_NAMES = (
    Request.model_fields.keys()
    - (TOLD_ELSEWHERE - {"clip_skip"})
    - {"sampler_options", "schedule_options"}
)

Settings = dict[str, object]


def read_infotext(text: str) -> Reading:
    """The request that a `parameters` text describes. Raises FileError if it is too long."""
    return read_fields(parse_infotext(text))


def read_fields(parts: Infotext) -> Reading:
    """The request that the parts of a `parameters` text describe."""
    notes = Notes()
    fields = {key.strip().casefold(): value for key, value in parts.fields.items()}
    source = _source(fields)
    settings: Settings = {
        "dialect": "comfy" if source in ("ComfyUI", "Fooocus") else None,
        "prompt": parts.prompt,
        "negative_prompt": parts.negative_prompt,
        "model": _named(fields.get("model")),
        "vae": _named(fields.get("vae")),
        "sampler": fields.get("sampler"),
        "schedule": _schedule(fields, notes),
        "noise_source": _noise_source(fields, notes),
    }
    for key, value in parts.fields.items():
        _take(settings, key.strip(), value, notes)
    hires = hires_of(fields, notes)
    if hires is not None:
        settings["hires"] = hires
    elif "denoising strength" in fields:
        _denoising(fields["denoising strength"], notes)
    for line in parts.rest:
        if line.strip():
            notes.add("a line after the settings was left out.")
    return Reading(
        source,
        settled(settings, notes),
        notes.told(),
        fields.get("model hash"),
        (
            *stated_hashes("lora", fields.get("lora hashes", "")),
            *stated_hashes("embedding", fields.get("ti hashes", "")),
        ),
    )


def _take(settings: Settings, key: str, value: str, notes: Notes) -> None:
    name = key.casefold()
    if name in DIRECT:
        settings[DIRECT[name]] = value
    elif name in OPTIONS:
        group, option = OPTIONS[name]
        options = settings.setdefault(group, {})
        assert isinstance(options, dict)
        options[option] = value
    elif name in SPECIAL:
        SPECIAL[name](settings, value, notes)
    elif name not in SILENT | HIRES.keys() and value.casefold() not in ("false", "none", ""):
        notes.left_out(key, value)


def _size(settings: Settings, value: str, notes: Notes) -> None:
    size = SIZE.fullmatch(value)
    if size is None:
        notes.left_out("Size", value)
    else:
        settings["width"], settings["height"] = int(size[1]), int(size[2])


def _resize_from(settings: Settings, value: str, notes: Notes) -> None:
    size = SIZE.fullmatch(value)
    if size is None:
        notes.left_out("Seed resize from", value)
    elif (int(size[1]), int(size[2])) != (0, 0):
        settings["resize_from"] = (int(size[1]), int(size[2]))


def _emphasis(settings: Settings, value: str, notes: Notes) -> None:
    known = {label.casefold(): name for name, label in EMPHASIS.items()} | {"original": "original"}
    if value.casefold() in known:
        settings["emphasis"] = known[value.casefold()]
    else:
        notes.left_out("Emphasis", value)


def _noise_schedule(settings: Settings, value: str, notes: Notes) -> None:
    if value.casefold() == "zero terminal snr":
        settings["zero_terminal_snr"] = True
    elif value.casefold() != "default":
        notes.left_out("Noise Schedule", value)


def _denoising(value: str, notes: Notes) -> None:
    notes.add(
        f"a denoising strength of {value[:20]!r} tells of another picture as the start; only the "
        "drawing from text was read."
    )


def _tiling(settings: Settings, value: str, notes: Notes) -> None:
    if value.casefold() == "true":
        settings["seamless"] = "both"
    elif value.casefold() != "false":
        notes.left_out("Tiling", value)


def hires_of(fields: Mapping[str, str], notes: Notes) -> Settings | None:
    """The second pass that A1111's or Forge's fields tell of; None if they tell of none."""
    told = fields.keys() & HIRES.keys()
    if not told - {"denoising strength"}:
        return None
    hires: Settings = {HIRES[key]: fields[key] for key in told if HIRES[key]}
    size = SIZE.fullmatch(fields.get("hires resize", ""))
    if size is not None and (int(size[1]), int(size[2])) != (0, 0):
        hires["size"] = (int(size[1]), int(size[2]))
        hires.pop("scale", None)
    named = str(hires.get("upscaler", "Latent"))
    hires["upscaler"] = ESRGAN_FILES.get(named, bare_name(named[:4096]))
    for key in ("sampler", "schedule"):
        if str(hires.get(key, "")).casefold().startswith("use same"):
            del hires[key]
    if str(hires.get("schedule", "")).casefold() == "automatic":
        hires["schedule"] = AUTOMATIC
    for key in ("sampler", "schedule"):
        if key in hires and not _is_known(**{key: str(hires[key])}):
            notes.left_out(f"Hires {key}", hires.pop(key))
    if not is_plain(str(hires["upscaler"])):
        notes.add(f"the second pass was made larger by {named[:60]!r}, whose file is needed.")
    return hires


def _own_settings(settings: Settings, value: str, notes: Notes) -> None:
    """What Safelight wrote beside A1111's keys: taken over one by one, never over those."""
    try:
        others: Json = parse_json(value, what=SETTINGS_KEY, limit=100_000, strict=True)
    except FileError as error:
        notes.add(f"{error} It was left out.")
        return
    if not isinstance(others, dict):
        notes.left_out(SETTINGS_KEY, value)
        return
    for name, other in others.items():
        if name in ("sampler_options", "schedule_options") and isinstance(other, dict):
            group = settings.setdefault(name, {})
            assert isinstance(group, dict)
            group.update(other)
        elif name in OWN_NAMES:
            settings[name] = other
        else:
            notes.left_out(name, other)


DIRECT = {
    "steps": "steps",
    "cfg scale": "cfg_scale",
    "seed": "seed",
    "clip skip": "clip_skip",
    "ensd": "ensd",
    "variation seed": "subseed",
    "variation seed strength": "subseed_strength",
}
OPTIONS = {
    **{key.casefold(): ("sampler_options", name) for name, key in SAMPLER_KEYS.items()},
    **{key.casefold(): ("schedule_options", name) for name, key in SCHEDULE_KEYS.items()},
    "eta ddim": ("sampler_options", "eta"),
    "unipc order": ("sampler_options", "order"),
    "unipc variant": ("sampler_options", "solver_type"),
}
# Of a second pass: its settings, or "" for what is read elsewhere
HIRES = {
    "hires upscale": "scale",
    "hires resize": "",
    "hires steps": "steps",
    "hires upscaler": "upscaler",
    "hires prompt": "prompt",
    "hires negative prompt": "negative_prompt",
    "hires cfg scale": "cfg_scale",
    "hires sampler": "sampler",
    "hires schedule type": "schedule",
    "denoising strength": "strength",
}
SPECIAL: Mapping[str, Callable[[Settings, str, Notes], None]] = {
    "size": _size,
    "seed resize from": _resize_from,
    "emphasis": _emphasis,
    "noise schedule": _noise_schedule,
    "tiling": _tiling,
    SETTINGS_KEY.casefold(): _own_settings,
}


def _named(value: str | None) -> str | None:
    return None if value is None or value.casefold() in ("", "none", "automatic") else value


def _schedule(fields: Mapping[str, str], notes: Notes) -> str | None:
    """The schedule's name; for A1111 before 1.9, which wrote none, the one it used."""
    named = fields.get("schedule type", fields.get("scheduler"))
    if named:
        return AUTOMATIC if named.casefold() == "automatic" else named
    version = fields.get("version")
    release = A1111_VERSION.match(version) if version else None
    if version and (release is None or int(release[1]) >= UNIFORM_BEFORE):
        return None
    if not _prefers_another(fields.get("sampler", "")):
        return None
    notes.add("no schedule is named; A1111 before 1.9 used the uniform one then, and so was read.")
    return "Uniform"


def _is_known(sampler: str = "Euler", schedule: str = AUTOMATIC) -> bool:
    try:
        Request.parse({"prompt": "", "sampler": sampler, "schedule": schedule})
    except RequestError:
        return False
    return True


def _prefers_another(sampler: str) -> bool:
    """Whether "automatic" gives this sampler a schedule that A1111 before 1.9 did not use."""
    from safelight.diffusion.samplers import resolve_sampler_and_schedule

    try:
        info, carried = resolve_sampler_and_schedule(sampler[:64])
    except RequestError:
        return False
    return carried is None and info.default_schedule in ("karras", "exponential")


def _noise_source(fields: Mapping[str, str], notes: Notes) -> str | None:
    told = fields.get("rng", "").casefold()
    if told in ("cpu", "nv"):
        return told
    version = fields.get("version", "")
    another = bool(version) and A1111_VERSION.match(version) is None
    if told != "gpu" and (another or "civitai resources" in fields or not fields):
        return None  # other programs draw their noise on the CPU
    notes.add(
        "the noise was drawn on a graphics card; noise source nv, which imitates NVIDIA's, was "
        "read."
    )
    return "nv"


def _source(fields: Mapping[str, str]) -> str:
    version = fields.get("version", "").casefold()
    for word, program in (
        ("safelight", "Safelight"),
        ("fooocus", "Fooocus"),
        ("comfyui", "ComfyUI"),
        ("f0.", "Forge"),
        ("f1.", "Forge"),
        ("f2.", "Forge"),
    ):
        if version.startswith(word):
            return program
    return "Civitai" if "civitai resources" in fields else "A1111"
