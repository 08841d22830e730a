"""What a prompt says to somebody who reads plain words: a CLIP that judges pictures."""

import re
from collections import Counter

from safelight.text.layout import spans_of
from safelight.text.prompt import Part, parse_prompt
from safelight.text.span import Dialect

_BLANKS = re.compile(r"\s+")
_COMMAS = re.compile(r"\s*,(\s*,)*\s*")
_EMBEDDING = re.compile(r"(?<!\S)embedding:[^\s<\[,]+")


def plain_words(prompt: str, *, dialect: Dialect = "a1111", steps: int = 20) -> str:
    """The prompt without emphasis, tags of extra networks, comments, schedules and breaks.

    Of texts that follow each other over the steps the one that rules longest counts, of equals the
    later. Prompts joined by AND stand one after the other; those of negative weight are left out.
    Raises PromptError as `parse_prompt`.
    """
    parts = parse_prompt(prompt, steps=steps, dialect=dialect).parts
    texts = [_bare(_ruling(part), dialect) for part in parts if part.weight > 0]
    return ", ".join(text for text in texts if text)


def _ruling(part: Part) -> str:
    calls: Counter[str] = Counter()
    before = 0
    for switch in part.switches:
        calls[switch.text] += switch.last - before
        before = switch.last
    return max(reversed(calls), key=calls.__getitem__)


def _bare(text: str, dialect: Dialect) -> str:
    between = " " if dialect == "compel" else ""  # whose spans are words without their blanks
    words = between.join(", " if span.breaks else span.text for span in spans_of(text, dialect))
    if dialect == "comfy":
        words = _EMBEDDING.sub("", words)
    return _COMMAS.sub(", ", _BLANKS.sub(" ", words)).strip(" ,")
