"""A1111's `parameters` text: written as A1111 writes it, and taken apart as it does, and better.

    a cat, two lines
    are allowed
    Negative prompt: blurry
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x512

Taking apart is linear in the text's length: the line of settings is scanned by hand, because the
regular expression for it is quadratic on a long line without colons.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from safelight.errors import FileError
from safelight.tasks.large import DOUBLE, Hires, is_plain
from safelight.tasks.metadata.infotext_addons import hash_fields, in_tags
from safelight.tasks.recipe import Recipe, UsedFile, bare_name
from safelight.tasks.request import Request

TEXT_LIMIT = 1_000_000  # characters
PAIRS_OF_SETTINGS = 3  # a line with fewer `key: value` pairs belongs to the prompt
JSON_ATTEMPTS = 16  # unquoted JSON values looked for in one line
NEGATIVE = "Negative prompt:"
SETTINGS_KEY = "Safelight settings"  # ours, for what A1111 has no key for

EMPHASIS = {"no norm": "No norm", "ignore": "Ignore", "none": "None"}
# Told by a key of A1111's, or about how and not what was drawn: not repeated under SETTINGS_KEY.
TOLD_ELSEWHERE = frozenset(
    {
        *("prompt", "negative_prompt", "steps", "sampler", "schedule", "cfg_scale", "seed"),
        *("width", "height", "model", "vae", "subseed", "subseed_strength", "resize_from"),
        *("clip_skip", "ensd", "noise_source", "count", "batch", "exact", "device", "hires"),
        "look_up",
    }
)
ESRGAN_FILES = {  # A1111's names for the files that it fetches
    "R-ESRGAN 4x+": "RealESRGAN_x4plus",
    "R-ESRGAN 4x+ Anime6B": "RealESRGAN_x4plus_anime_6B",
    "R-ESRGAN 2x+": "RealESRGAN_x2plus",
    "R-ESRGAN General 4xV3": "realesr-general-x4v3",
    "R-ESRGAN General WDN 4xV3": "realesr-general-wdn-x4v3",
    "R-ESRGAN AnimeVideo": "realesr-animevideov3",
}
SAMPLER_KEYS = {
    "eta": "Eta",
    "s_churn": "Sigma churn",
    "s_tmin": "Sigma tmin",
    "s_tmax": "Sigma tmax",
    "s_noise": "Sigma noise",
}
SCHEDULE_KEYS = {
    "sigma_min": "Schedule min sigma",
    "sigma_max": "Schedule max sigma",
    "rho": "Schedule rho",
}


@dataclass(frozen=True)
class Infotext:
    """The parts of a `parameters` text."""

    prompt: str
    negative_prompt: str
    fields: Mapping[str, str]  # in the order of the text, unquoted; of a repeated key the last
    rest: tuple[str, ...] = ()  # lines after the settings, which some extensions add


# --- writing ----------------------------------------------------------------------------------


def infotext(recipe: Recipe) -> str:
    """The text that A1111 would store for this picture; keys in its order, values quoted alike.

    What A1111 has no key for follows as JSON under "Safelight settings", which its readers skip.
    """
    request = in_tags(recipe.request)
    negative = f"\n{NEGATIVE} {request.negative_prompt}" if request.negative_prompt else ""
    fields = ", ".join(f"{key}: {quoted(value)}" for key, value in _fields(recipe))
    return f"{request.prompt}{negative}\n{fields}".strip()


def quoted(value: str) -> str:
    """A value as it stands in the line of settings: as a JSON string where it would be misread."""
    plain = not any(c in value for c in ',:\n"') and value == value.strip() and value
    return value if plain else json.dumps(value, ensure_ascii=False)


def _fields(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.request.needs_model:
        yield from _drawn_fields(recipe)
    else:
        yield from _enlarged_fields(recipe)
    yield from hash_fields(recipe)
    others = _other_settings(in_tags(recipe.request))
    if others:
        yield SETTINGS_KEY, json.dumps(others, separators=(",", ":"))
    yield "Version", f"safelight {recipe.software.safelight}"


def _enlarged_fields(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What A1111's "Extras" store of a picture that was only made larger."""
    source, size = recipe.request.source, recipe.result.size
    assert source is not None and size is not None
    if source.scale is not None:
        yield "Postprocess upscale by", _number(source.scale)
    else:
        yield "Postprocess upscale to", "{}x{}".format(*size)
    yield "Postprocess upscaler", upscaler_name(source.upscaler or "Lanczos")


def _drawn_fields(recipe: Recipe) -> Iterator[tuple[str, str]]:
    request = recipe.request
    yield "Steps", str(request.steps)
    yield "Sampler", request.sampler
    yield "Schedule type", "Automatic" if request.is_automatic else request.schedule
    yield "CFG scale", _number(request.cfg_scale)
    yield "Seed", str(request.seed)
    yield "Size", f"{request.width}x{request.height}"
    yield from _model_fields(recipe.file("model"), request.model)
    yield from _vae_fields(recipe.file("vae"), request.vae)
    if request.subseed_strength:
        yield "Variation seed", str(request.subseed)
        yield "Variation seed strength", _number(request.subseed_strength)
    if request.resize_from is not None:
        yield "Seed resize from", "{}x{}".format(*request.resize_from)
    if request.source is not None:
        yield "Denoising strength", _number(request.source.strength)
    if request.hires is not None:
        yield "Denoising strength", _number(request.hires.strength)
    if request.clip_skip is not None and request.clip_skip > 1:
        yield "Clip skip", str(request.clip_skip)
    if request.ensd:
        yield "ENSD", str(request.ensd)
    yield "RNG", request.noise_source.upper()  # always: the text's default would be the GPU
    for key, value in (
        *((SAMPLER_KEYS.get(name), value) for name, value in request.sampler_options),
        *((SCHEDULE_KEYS.get(name), value) for name, value in request.schedule_options),
    ):
        if key is not None and value is not None:
            yield key, _number(value)
    if request.emphasis in EMPHASIS:
        yield "Emphasis", EMPHASIS[request.emphasis]
    if request.seamless == "both":
        yield "Tiling", "True"
    if request.hires is not None:
        yield from _hires_fields(request.hires)


def _hires_fields(hires: Hires) -> Iterator[tuple[str, str]]:
    for key, words in (
        ("Hires prompt", hires.prompt),
        ("Hires negative prompt", hires.negative_prompt),
        ("Hires sampler", hires.sampler),
        ("Hires schedule type", hires.schedule),
    ):
        if words is not None:
            yield key, words
    if hires.cfg_scale is not None:
        yield "Hires CFG Scale", _number(hires.cfg_scale)  # Forge's
    if hires.size is not None:
        yield "Hires resize", "{}x{}".format(*hires.size)
    else:
        yield "Hires upscale", _number(hires.scale or DOUBLE)
    if hires.steps:
        yield "Hires steps", str(hires.steps)
    yield "Hires upscaler", upscaler_name(hires.upscaler)


def upscaler_name(name: str) -> str:
    """An upscaler as A1111 names it: a file without its suffix, or as it calls that file."""
    if is_plain(name):
        return name
    stem = PurePath(bare_name(name)).stem
    return next((known for known, file in ESRGAN_FILES.items() if file == stem), stem)


def _model_fields(file: UsedFile | None, name: str | None) -> Iterator[tuple[str, str]]:
    if file is not None:
        yield "Model hash", file.sha256[:10]
    known = file.name if file is not None else name
    if known:
        # A1111 takes these two signs out of a model's name instead of quoting it
        stem = PurePath(bare_name(known)).stem.replace(",", "").replace(":", "")
        if stem:
            yield "Model", stem


def _vae_fields(file: UsedFile | None, name: str | None) -> Iterator[tuple[str, str]]:
    if file is not None:
        yield "VAE hash", file.sha256[:10]
    known = file.name if file is not None else name
    if known:
        yield "VAE", bare_name(known)


def _other_settings(request: Request) -> dict[str, object]:
    skipped: dict[str, bool | set[str]] = dict.fromkeys(TOLD_ELSEWHERE, True)
    skipped["sampler_options"] = set(SAMPLER_KEYS)
    skipped["schedule_options"] = set(SCHEDULE_KEYS)
    if request.emphasis in EMPHASIS:
        skipped["emphasis"] = True
    if request.seamless == "both":
        skipped["seamless"] = True
    if request.clip_skip == 1:  # A1111's default, left out of its text, but not ours
        del skipped["clip_skip"]
    others = request.model_dump(mode="json", exclude_defaults=True, exclude=skipped)
    return {name: value for name, value in others.items() if value != {}}


def _number(value: float) -> str:
    """As short as possible: 7, not 7.0, as the page of A1111 gives it."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


# --- taking apart -----------------------------------------------------------------------------


def parse_infotext(text: str) -> Infotext:
    """The prompt, the negative prompt and the settings of a `parameters` text.

    The last line holds the settings if it has three `key: value` pairs; else the last line that
    begins with "Steps: " and has three, and what follows it is `rest`; else there are none.
    Raises FileError for a text of more than `TEXT_LIMIT` characters.
    """
    if len(text) > TEXT_LIMIT:
        raise FileError(f"the settings have {len(text)} characters; at most {TEXT_LIMIT} are read.")
    lines = text.strip().split("\n")
    at, fields = _settings_line(lines)
    prompt: list[str] = []
    negative: list[str] = []
    part = prompt
    for line in (line.strip() for line in lines[:at]):
        if line.startswith(NEGATIVE):
            part, line = negative, line.removeprefix(NEGATIVE).strip()
        part.append(line)
    return Infotext(
        "\n".join(prompt).strip(), "\n".join(negative).strip(), fields, tuple(lines[at + 1 :])
    )


def _settings_line(lines: list[str]) -> tuple[int, dict[str, str]]:
    """Where the settings stand, and they; past the end if nowhere."""
    fields = _several(lines[-1])
    if fields:
        return len(lines) - 1, fields
    for at in range(len(lines) - 2, -1, -1):
        if lines[at].lstrip().startswith("Steps: "):
            fields = _several(lines[at])
            if fields:
                return at, fields
    return len(lines), {}


def _several(line: str) -> dict[str, str]:
    found = list(pairs(line))
    return dict(found) if len(found) >= PAIRS_OF_SETTINGS else {}


def pairs(line: str) -> Iterator[tuple[str, str]]:
    """The `key: value` pairs of a line of settings, unquoted, in order.

    A key is a letter, digit or underscore and then at least one of these, a blank, "-" or "/".
    A value ends at a comma, unless it is a JSON string, or an array or object that somebody
    forgot to quote. What lies between pairs is skipped.
    """
    start, attempts = 0, JSON_ATTEMPTS
    while (colon := line.find(":", start)) >= 0:
        key = _key_before(line, start, colon)
        if key is None:
            start = colon + 1
            continue
        begin = colon + 1
        while begin < len(line) and line[begin].isspace():
            begin += 1
        end = _end_of_quoted(line, begin)
        if end is None and attempts and line[begin : begin + 1] in ("[", "{"):
            attempts -= 1
            end = _end_of_json(line, begin)
        if end is None:
            comma = line.find(",", begin)
            end = comma if comma >= 0 else len(line)
        yield key, _unquoted(line[begin:end])
        start = end + 1


def _key_before(line: str, start: int, colon: int) -> str | None:
    """The longest key that ends at the colon and does not reach before `start`."""
    first = colon
    for at in range(colon - 1, start - 1, -1):
        if _is_word(line[at]):
            first = at
        elif line[at] not in " -/":
            break
    return line[first:colon] if colon - first >= 2 else None


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _end_of_quoted(line: str, begin: int) -> int | None:
    """Behind the closing quote of a string that starts here and is followed by a comma or end."""
    if line[begin : begin + 1] != '"':
        return None
    at = begin + 1
    while at < len(line) and line[at] != '"':
        at += 2 if line[at] == "\\" else 1
    at += 1
    return at if at - begin > 2 and (at == len(line) or line[at : at + 1] == ",") else None


def _end_of_json(line: str, begin: int) -> int | None:
    try:
        _, end = json.JSONDecoder().raw_decode(line, begin)
    except (ValueError, RecursionError):
        return None
    return end if end == len(line) or line[end] == "," else None


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        text = json.loads(value)
    except ValueError:
        return value
    return text if isinstance(text, str) else value
