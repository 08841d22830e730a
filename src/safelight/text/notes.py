"""What a user should know about a prompt: syntax that does nothing here, or not what it seems."""

import re
from collections.abc import Sequence

from safelight.text.scheduling import SCHEDULED, Clock, schedule, switched_off
from safelight.text.span import Dialect
from safelight.text.weights import a1111_spans

# Bounded repeats keep every search linear, on text made to be slow too.
TAG = r"<(?:lora|lyco|hypernet):[^>]{1,400}>"
_WEIGHT = r"\([^()]{0,400}:\s{0,9}[+-]?[.\d]{1,20}\s{0,9}\)"
_WORD_SIGNS = r"\w(?:\+\+|--)(?![\w+-])|[)\"](?:\+{1,20}|-{1,20})(?=[\s,.]|\Z)"

# (what to look for, what it is, the dialects in which it is only text)
_SIGHTS: tuple[tuple[str, str, tuple[Dialect, ...]], ...] = (
    (_WEIGHT, "a weight of A1111 or ComfyUI, as (word:1.2)", ("compel", "plain")),
    (TAG, "an A1111 tag for an extra network", ("comfy", "compel", "plain")),
    (SCHEDULED, "A1111's scheduling or alternation", ("comfy", "compel", "plain")),
    (r"\b(?:AND|BREAK)\b", "A1111's AND or BREAK", ("comfy", "compel", "plain")),
    (r"\bembedding:\w", "ComfyUI's name of an embedding", ("a1111", "compel", "plain")),
    (_WORD_SIGNS, "compel's word++ or (phrase)-", ("a1111", "comfy", "plain")),
    (r"[)\"]\d+\.\d", "compel's (phrase)1.3", ("a1111", "comfy", "plain")),
    (r"[)\"]\s?\.(?:and|blend|swap)\(", "compel's .and() or .blend()", ("a1111", "comfy", "plain")),
)
_NAMES = {"a1111": "A1111", "comfy": "ComfyUI", "compel": "compel", "plain": "plain"}
_NEVER = re.compile(r"(?<!\\)\[([^\[\]:|]{1,400}):\s*(1\.\d+)\s*\]")


def foreign_syntax(text: str, dialect: Dialect) -> tuple[str, ...]:
    """Notes about syntax of other dialects, which this one reads as plain text."""
    notes = []
    for pattern, what, dialects in _SIGHTS:
        if dialect in dialects and (found := re.search(pattern, text)):
            quoted = found.group().strip()[:40]
            notes.append(
                f"{quoted!r} looks like {what}; the {_NAMES[dialect]} dialect reads it as text."
            )
    return tuple(notes)


def a1111_notes(
    text: str,
    *,
    comments: int,
    parts: Sequence[tuple[str, float]],
    clock: Clock,
    negative: bool,
) -> tuple[str, ...]:
    """Notes about rules of A1111's language that surprise."""
    notes = []
    if comments:
        notes.append(
            f"{comments} comment{'s'[: comments > 1]} (from # to the end of the line) left out."
        )
    if negative and re.search(TAG, text):
        notes.append(
            "tags for extra networks act in the prompt only; in the negative they are text."
        )
    if negative and re.search(r"\bAND\b", text):
        notes.append("AND does not split a negative prompt; it is encoded as a word.")
    if len(parts) == 1 and not negative and parts[0][1] != 1.0:
        notes.append(
            f"the number at the end is a weight: the prompt is guided {parts[0][1]:g} times."
        )
    if any(switched_off(part) for part, _ in parts):
        notes.append(
            "a | outside [a|b], or a \\ at the end of a line, makes all scheduling of this prompt"
            " plain text, as in A1111."
        )
    if re.search(r"\bBREAK\b", text) and _breaks_lost(parts, clock):
        notes.append(
            "BREAK inside a weighted bracket is encoded as a word and breaks nothing, as in A1111."
            " Close the bracket before it: (a:1.2) BREAK (b:1.2)."
        )
    never = _NEVER.search(text)
    if never and clock.earlier is None:
        notes.append(
            f"[{never[1]}:{never[2]}] is a schedule that starts after the last step, not a weight."
            f" Write ({never[1]}:{never[2]})."
        )
    return tuple(notes)


def _breaks_lost(parts: Sequence[tuple[str, float]], clock: Clock) -> bool:
    """Whether a BREAK has another weight than that by which A1111 knows it: it is a word then."""
    texts = {switch.text for part, _ in parts for switch in schedule(part, clock)}
    spans = (span for text in texts for span in a1111_spans(text))
    return any(not s.breaks and s.text == "BREAK" and s.weight < 0 for s in spans)
