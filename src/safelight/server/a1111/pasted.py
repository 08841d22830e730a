"""A picture's `parameters` text in the field `infotext`: it fills what the request leaves open.

As A1111 pastes it: a field that the client sent wins, and null is none that was sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from safelight.server.refusals import NotAllowed
from safelight.tasks.metadata.infotext import parse_infotext
from safelight.tasks.metadata.infotext_request import read_fields
from safelight.tasks.named_files import named_files

LONGEST = 100_000  # characters
# Ours, by the name of A1111's field of the same meaning and numbers
SAME_FIELDS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "steps": "steps",
    "cfg_scale": "cfg_scale",
    "width": "width",
    "height": "height",
    "seed": "seed",
    "subseed": "subseed",
    "subseed_strength": "subseed_strength",
    "sampler": "sampler_name",
    "schedule": "scheduler",
}
# The same of the second pass
HIRES_FIELDS = {
    "scale": "hr_scale",
    "steps": "hr_second_pass_steps",
    "upscaler": "hr_upscaler",
    "strength": "denoising_strength",
    "prompt": "hr_prompt",
    "negative_prompt": "hr_negative_prompt",
    "sampler": "hr_sampler_name",
    "schedule": "hr_scheduler",
}
STRENGTH = "denoising strength"


@dataclass(frozen=True)
class Pasted:
    """A request after its text was read.

    given: A1111's fields, those of the text added. settings: ours that A1111 has no field for, of
        the second pass under "hires"; the request's own win over them. notes: what of the text
        was not read.
    """

    given: Mapping[str, Any]
    settings: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def pasted(given: Mapping[str, Any], *, on_picture: bool) -> Pasted:
    """A request with what its `infotext` adds. on_picture: of img2img, which has no second pass
    and takes the text's denoising strength. Raises NotAllowed."""
    text = given.get("infotext")
    if text is None or text == "":
        return Pasted(given)
    if not isinstance(text, str) or len(text) > LONGEST:
        raise NotAllowed(f"infotext must be a text of at most {LONGEST} characters.")
    sent = {name: value for name, value in given.items() if value is not None}
    parts = parse_infotext(text)
    added: dict[str, object] = {}
    if on_picture:
        strengths = {k: v for k, v in parts.fields.items() if k.strip().casefold() == STRENGTH}
        for value in strengths.values():
            added["denoising_strength"] = _number(value)
        others = {k: v for k, v in parts.fields.items() if k not in strengths}
        parts = replace(parts, fields=others)
    reading = read_fields(parts)
    if reading.request is None:
        raise NotAllowed(f"infotext describes no picture: {' '.join(reading.notes)[:300]}")
    found = reading.request.model_dump(exclude_unset=True, mode="json")
    notes = list(reading.notes)
    for name in dict.fromkeys(
        file.place.partition(".")[0] for file in named_files(reading.request) if file.is_picture
    ):
        found.pop(name, None)
        notes.append(f"{name} needs a picture, which a text cannot carry; it was left out.")
    if "sampler_name" in sent or "sampler_index" in sent:
        for name in ("sampler", "schedule", "sampler_options", "schedule_options"):
            found.pop(name, None)
    if "scheduler" in sent:
        found.pop("schedule_options", None)
    hires = found.pop("hires", None)
    if hires is not None and not on_picture:
        added |= {"enable_hr": True, **_moved(hires, HIRES_FIELDS)}
        size = hires.pop("size", None)
        if size is not None and "hr_scale" not in sent:
            added["hr_resize_x"], added["hr_resize_y"] = size
        found["hires"] = hires
    if "tiling" in sent:
        found.pop("seamless", None)
    added |= _moved(found, SAME_FIELDS)
    if "resize_from" in found:
        added["seed_resize_from_w"], added["seed_resize_from_h"] = found.pop("resize_from")
    return Pasted(added | sent, found, tuple(f"infotext: {note}" for note in notes))


def _moved(settings: dict[str, object], fields: Mapping[str, str]) -> dict[str, object]:
    """Settings under A1111's names, taken out of ours."""
    return {theirs: settings.pop(ours) for ours, theirs in fields.items() if ours in settings}


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise NotAllowed("infotext: its denoising strength must be a number.") from None
