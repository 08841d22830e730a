"""From NovelAI's settings to a request: the chunks `Description` and `Comment`.

NovelAI weights by {braces} (times 1.05 each) and [brackets] (divided by 1.05 each). Both become
A1111's (text:weight) here, with the product written out.
"""

import re
from types import MappingProxyType

from safelight.tasks.bounded_json import as_object, parse_json
from safelight.tasks.metadata.reading import Notes, Reading, settled

JSON_LIMIT = 1_000_000  # characters
STEP = 1.05
DEPTH_LIMIT = 60
ENSD = 31337  # NovelAI's noise after the first; A1111 borrowed the option for it
SPECIAL = re.compile(r"[{}\[\]()\\]")

DIRECT = MappingProxyType(
    {
        "seed": "seed",
        "steps": "steps",
        "scale": "cfg_scale",
        "width": "width",
        "height": "height",
    }
)
SCHEDULES = MappingProxyType({"native": None, "karras": "karras", "exponential": "exponential"})
TOLD_BY_OTHERS = frozenset(
    {*("prompt", "uc", "sampler", "noise_schedule", "cfg_rescale"), "signed_hash", "request_type"}
)


def read_novelai(description: str, comment: str) -> Reading:
    """The request of NovelAI's two chunks. Raises FileError if the comment is not its JSON."""
    what = "NovelAI's comment"
    given = as_object(parse_json(comment, what=what, limit=JSON_LIMIT), what=what)
    notes = Notes()
    prompt, negative = given.get("prompt"), given.get("uc")
    settings: dict[str, object] = {ours: given.get(theirs) for theirs, ours in DIRECT.items()}
    settings["prompt"] = in_a1111(prompt if isinstance(prompt, str) else description, notes)
    settings["negative_prompt"] = in_a1111(negative if isinstance(negative, str) else "", notes)
    settings.update(sampler=given.get("sampler"), clip_skip=2, ensd=ENSD)
    schedule = given.get("noise_schedule")
    if isinstance(schedule, str):
        settings["schedule"] = SCHEDULES.get(schedule, schedule)
    if given.get("cfg_rescale"):
        settings["guidance"] = {"rescale": given["cfg_rescale"]}
    for key, value in given.items():
        told = key in DIRECT or key in TOLD_BY_OTHERS
        if not told and value not in (None, False, 0, 1, "", [], {}):
            notes.left_out(key, value)
    return Reading("NovelAI", settled(settings, notes), notes.told())


def in_a1111(prompt: str, notes: Notes) -> str:
    """A NovelAI prompt in A1111's syntax; unchanged where its brackets do not pair.

    Linear in the text's length. Round brackets have no meaning there and are escaped here.
    """
    if not SPECIAL.search(prompt):
        return prompt
    parts: list[str] = []
    closing: list[str] = []
    run: list[str] = []

    def flush() -> None:
        text = "".join(run)
        run.clear()
        level = closing.count("}") - closing.count("]")
        parts.append(f"({text}:{STEP**level:.4g})" if level and text.strip() else text)

    for character in prompt:
        if character in "{[":
            flush()
            closing.append("}" if character == "{" else "]")
        elif character in "}]":
            flush()
            if not closing or closing.pop() != character:
                closing.append("unpaired")
                break
        else:
            run.append(f"\\{character}" if character in "()\\" else character)
        if len(closing) > DEPTH_LIMIT:
            break
    if closing:
        notes.add("the prompt's brackets do not pair; it is read as it stands.")
        return prompt
    flush()
    if "{" in prompt or "[" in prompt:
        notes.add("NovelAI's {braces} and [brackets] were written as (text:weight).")
    return "".join(parts)
