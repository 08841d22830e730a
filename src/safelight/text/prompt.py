"""A prompt as it is typed, read into what is encoded when.

In A1111's order: comments out, styles in, `<lora:...>` tags out, split at AND, schedules expanded.
What is left, one text for each part and step, is for `layout` and the conditioner.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from safelight.text.compel import read_compel
from safelight.text.networks import ExtraNetwork, take_networks
from safelight.text.notes import a1111_notes, foreign_syntax
from safelight.text.scheduling import Clock, Switch, schedule
from safelight.text.span import Dialect, checked, checked_weight
from safelight.text.styles import Style, styled

_WHOLE_LINE = re.compile(r"(^|\n)#[^\n]*(\n|$)")
_REST_OF_LINE = re.compile(r"#[^\n]*(\n|$)")
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Part:
    """One prompt of those joined by AND, with its share in the guidance.

    The guided prediction is uncond + Σ weight · scale · (cond − uncond).
    """

    weight: float
    switches: tuple[Switch, ...]

    def at(self, call: int) -> str:
        """The text at a call of the model, counted from 1."""
        return next((s.text for s in self.switches if call <= s.last), self.switches[-1].text)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, read: parts over time, networks that it asks for, and what a user should know."""

    parts: tuple[Part, ...]
    networks: tuple[ExtraNetwork, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text to encode, each once, in order of appearance."""
        return tuple(dict.fromkeys(s.text for part in self.parts for s in part.switches))


def parse_prompt(
    text: str,
    *,
    steps: int = 1,
    dialect: Dialect = "a1111",
    calls_per_step: int = 1,
    earlier_steps: int | None = None,
    styles: Sequence[Style] = (),
    negative: bool = False,
) -> Prompt:
    """Read a prompt in its dialect; only "a1111" knows comments, tags, AND and schedules.

    steps: sampling steps of this pass. Whole numbers in schedules count calls of the model, so a
        sampler with two calls a step (`calls_per_step`) counts both.
    earlier_steps: steps of the first pass, if this is the hires pass; see `Clock`.
    negative: negative prompts are not split at AND and keep their tags as text.

    Raises PromptError beyond the limits of `span`, RequestError for a bad step count.
    """
    earlier = None if earlier_steps is None else earlier_steps * calls_per_step
    clock = Clock(steps * calls_per_step, earlier)
    text = checked(text)
    notes = foreign_syntax(text, dialect)
    if dialect != "a1111":
        text = checked(styled(text, styles, negative=negative))
        networks = read_compel(text).networks if dialect == "compel" else ()
        return Prompt((Part(1.0, (Switch(clock.steps, text),)),), networks, notes)
    bare = without_comments(text)
    text = checked(styled(bare[0], styles, negative=negative))
    networks = ()
    if not negative:
        text, networks = take_networks(text)
    divided = [(text, 1.0)] if negative else split_and(text)
    parts = tuple(Part(weight, schedule(part, clock)) for part, weight in divided)
    notes += a1111_notes(text, comments=bare[1], parts=divided, clock=clock, negative=negative)
    return Prompt(parts, networks, notes)


def without_comments(text: str) -> tuple[str, int]:
    """The text without `#` comments, each of which leaves a line break, and how many there were."""
    text, lines = _WHOLE_LINE.subn("\n", text)
    text, ends = _REST_OF_LINE.subn("\n", text)
    return text, lines + ends


def split_and(text: str) -> list[tuple[str, float]]:
    """Texts between the words AND, each with the weight that may follow it after a colon.

    The weight counts for a text without AND, too: `a cat:0.5` is `a cat` at half guidance.
    """
    return [_weighted(part) for part in _AND.split(text)]


def _weighted(text: str) -> tuple[str, float]:
    start, colon, end = text.rpartition(":")
    number = _WEIGHT.fullmatch(end) if colon else None
    if number is None:
        return text.rstrip(), 1.0
    return start.rstrip(), checked_weight(float(number[1]))
