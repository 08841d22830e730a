"""What clients of OpenAI's images API send, and the settings of a request that it comes to.

Fields are those of the Python and JavaScript clients. What has no meaning here (`quality`, `style`,
`moderation`, ...) is taken and said; any setting of a native request (`seed`, `negative_prompt`,
`steps`, `guidance.rescale`, ...) is taken beside them, as clients send them in `extra_body`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from safelight.server.openai.errors import Wrong
from safelight.tasks.request import Request

Choice = TypeVar("Choice", bound=str)
OutputFormat = Literal["png", "jpeg", "webp"]
Task = Literal["generate", "edit", "vary"]
FORMATS: Mapping[OutputFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
# Sent by clients, and without a meaning here. Those in SILENT are in every call of some client, or
# concern nobody but the caller's own bookkeeping.
WITHOUT_MEANING = frozenset(
    {"quality", "style", "moderation", "input_fidelity", "complexity", "frame_count"}
    | {"frame_duration_ms", "svg"}
)
SILENT = frozenset({"user", "safety_identifier"})
OWN_NAMES = re.compile(r"(gpt-image|dall-e|chatgpt-image)[\w.-]*")  # OpenAI's; here: the server's
SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
MOST, PROMPT_LIMIT = 10, 32_000
NAME_LIMIT = 200
VARIED = 0.6  # strength of a variation: the picture's layout is kept, its details are not


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call asks for.

    settings: of a native request, but for the pictures. partials: how many pictures on the way are
    streamed. link: whether the answer names pictures by their address instead of holding them.
    """

    settings: dict[str, object]
    count: int
    stream: bool
    partials: int
    form: OutputFormat
    quality: int | None
    link: bool
    notes: tuple[str, ...]


def wanted(task: Task, given: Mapping[str, object]) -> Wanted:
    """What a call's fields ask for; None and empty texts count as not given.

    Raises Wrong that names the field.
    """
    fields = {name: v for name, v in given.items() if v is not None and v != ""}
    prompt = str(fields.pop("prompt", ""))
    if task != "vary" and not prompt:
        raise Wrong("prompt is missing; say what to draw.", "prompt")
    if len(prompt) > PROMPT_LIMIT:
        raise Wrong(f"prompt has {len(prompt)} characters; up to {PROMPT_LIMIT}.", "prompt")
    form: OutputFormat = _one_of(fields.pop("output_format", "png"), FORMATS, "output_format")
    compression = _whole(fields, "output_compression", 0, 100)
    if _one_of(fields.pop("background", "auto"), BACKGROUNDS, "background") == "transparent":
        raise Wrong("pictures here have no transparency; leave background out.", "background")
    count = _whole(fields, "n", 1, MOST) or 1
    stream = _truth(fields, "stream")
    partials = _whole(fields, "partial_images", 0, 3)
    if partials and not stream:
        raise Wrong("partial_images needs stream.", "partial_images")
    if stream and count > 1:
        raise Wrong("a stream carries one picture; leave n out.", "n")
    answer = _one_of(fields.pop("response_format", "b64_json"), ANSWERS, "response_format")
    settings: dict[str, object] = {"prompt": prompt, "count": count}
    settings |= _size(fields.pop("size", "auto"))
    model = str(fields.pop("model", ""))
    if model and not OWN_NAMES.fullmatch(model):
        settings["model"] = model
    idle = sorted(name for name in fields if name in WITHOUT_MEANING)
    notes = [f"{', '.join(idle)}: without a meaning here, left out."] if idle else []
    for name, value in fields.items():
        if name in WITHOUT_MEANING or name in SILENT:
            continue
        if len(name) > NAME_LIMIT:
            raise Wrong(f"a field's name has {len(name)} characters; up to {NAME_LIMIT}.")
        _lay(settings, name, value)
    return Wanted(
        settings,
        count,
        stream,
        partials or 0,
        form,
        _quality(form, compression),
        answer == "url",
        tuple(notes),
    )


BACKGROUNDS = ("auto", "opaque", "transparent")
ANSWERS = ("b64_json", "url")


def with_picture(task: Task, settings: Mapping[str, object], picture: str) -> dict[str, object]:
    """The settings of a call with a picture of this id to start from."""
    given = settings.get("source")
    source: dict[str, object] = {"picture": picture, "resize": "crop"}
    if task == "vary":
        source["strength"] = VARIED
    return {**settings, "source": source | (dict(given) if isinstance(given, Mapping) else {})}


def with_mask(settings: Mapping[str, object], mask: str) -> dict[str, object]:
    """The settings with a mask of this id, whose transparent places are painted."""
    given = settings.get("mask")
    made = {"picture": mask, "reading": "transparent"}
    return {**settings, "mask": made | (dict(given) if isinstance(given, Mapping) else {})}


def _size(value: object) -> dict[str, object]:
    if value == "auto":
        return {}
    match = SIZE.fullmatch(str(value))
    if match is None:
        raise Wrong('size must be "auto" or WIDTHxHEIGHT, such as 512x512.', "size")
    return {"width": int(match[1]), "height": int(match[2])}


def _lay(settings: dict[str, object], name: str, value: object) -> None:
    """A setting of a native request, by its dotted name; texts of a form are read as JSON."""
    if isinstance(value, str) and name.partition(".")[0] in Request.model_fields:
        value = _read(name, value)
    place = settings
    *groups, last = name.split(".")
    for group in groups:
        inner = place.get(group)
        place[group] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        place = inner
    place[last] = value


def _read(name: str, text: str) -> object:
    """A form's text as the group or list that it spells; numbers are read by the request."""
    if text[:1] not in "[{":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Wrong(f"{name} is no JSON.", name) from None


def _one_of(value: object, choices: Iterable[Choice], name: str) -> Choice:
    for choice in choices:
        if value == choice:
            return choice
    raise Wrong(f"{name} must be {', '.join(choices)}.", name)


def _whole(fields: dict[str, object], name: str, low: int, high: int) -> int | None:
    value = fields.pop(name, None)
    if value is None:
        return None
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise Wrong(f"{name} must be a whole number from {low} to {high}.", name)
    return number


def _truth(fields: dict[str, object], name: str) -> bool:
    value = fields.pop(name, False)
    if value in (True, "true", "True", "1"):
        return True
    if value in (False, "false", "False", "0"):
        return False
    raise Wrong(f"{name} must be true or false.", name)


def _quality(form: OutputFormat, compression: int | None) -> int | None:
    """Pillow's quality of a compression, which is 100 for the best picture; PNG loses nothing."""
    if compression is None or form == "png":
        return None
    return max(1, compression)
