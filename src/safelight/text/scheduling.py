"""Prompts that change while a picture is drawn: `[from:to:when]` and `[a|b|c]` (A1111's syntax).

Steps are counted in calls of the model, from 1: a sampler that calls it twice a step counts twice.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from safelight.errors import RequestError
from safelight.text.span import MAX_DEPTH, checked, too_deep

# What looks like a schedule or alternation; bounded, so that no text makes the search slow.
SCHEDULED = r"\[[^\[\]]{0,400}(?:\|[^\[\]]{0,400}|:\s{0,9}[+-]?[.\d]{1,20}\s{0,9})\]"
MAX_STEPS = 100_000  # an alternation makes one switch a step

_SIGNS = re.compile(r"(?P<text>(?:[^\\()\[\]:|]|\\.)+)|(?P<sign>[()\[\]:|])")
_WHEN = re.compile(r"\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Switch:
    """One stretch of a schedule: `text` is the prompt up to and including step `last`."""

    last: int
    text: str


@dataclass(frozen=True, slots=True)
class Clock:
    """What the numbers of `[a:b:when]` count.

    steps: calls of the model in this pass.
    earlier: calls of the pass before, if this is the hires pass; fractions then count from 1.0 and
        whole numbers go on from there. None in the first pass.
    """

    steps: int
    earlier: int | None = None

    def switch(self, when: str) -> int:
        """The last step of the first text: a number with a point is a fraction, else a step."""
        fraction = float(when)
        if "." in when:
            fraction = (fraction - (0.0 if self.earlier is None else 1.0)) * self.steps
        else:
            fraction -= self.earlier or 0
        return int(max(-1.0, min(fraction, float(self.steps))))


@dataclass(frozen=True, slots=True)
class _Change:
    """`[before:after:when]`."""

    before: "_Nodes"
    after: "_Nodes"
    last: int


@dataclass(frozen=True, slots=True)
class _Alternation:
    options: tuple["_Nodes", ...]


_Node = str | _Change | _Alternation
_Nodes = tuple[_Node, ...]


def schedule(text: str, clock: Clock) -> tuple[Switch, ...]:
    """The texts of a prompt over the steps; one switch if nothing is scheduled.

    As A1111 does, a `|` that belongs to no alternation, or a backslash at the end of a line, makes
    the whole text literal. Raises PromptError beyond the limits, RequestError for a bad step count.
    """
    if not 1 <= clock.steps <= MAX_STEPS:
        raise RequestError(f"steps must be between 1 and {MAX_STEPS:,}; got {clock.steps}.")
    nodes = _parsed(checked(text), clock)
    if nodes is None:
        return (Switch(clock.steps, text),)
    ends = {clock.steps}
    for node in _changing(nodes):
        if isinstance(node, _Alternation):
            ends.update(range(1, clock.steps + 1))
        elif node.last >= 1:
            ends.add(node.last)
    return tuple(Switch(step, "".join(_at(nodes, step))) for step in sorted(ends))


def switched_off(text: str) -> bool:
    """Whether a stray `|` or backslash makes a schedule or alternation of the text literal."""
    if _parsed(text, Clock(1)) is not None:
        return False
    return re.search(SCHEDULED, text) is not None


@dataclass(slots=True)
class _Open:
    """A bracket that is not closed yet: its parts between `:` and `|`, and where it stands."""

    bracket: str
    parts: list[list[_Node]]
    seen: list[str]  # the separators so far


def _parsed(text: str, clock: Clock) -> _Nodes | None:
    """The tree of a prompt, or None if the language does not have this text.

    Brackets that do not pair, or that pair around something that is no schedule, are text; so is
    everything that was waiting for them to become part of a schedule.
    """
    found: list[_Node] = []  # outside all brackets, where colons and stray brackets are text
    waiting: list[_Open] = []
    end = 0
    for match in _SIGNS.finditer(text):
        if match.start() != end:
            return None  # a backslash with nothing to escape
        end = match.end()
        sign = match.group()
        if match["text"]:
            (waiting[-1].parts[-1] if waiting else found).append(sign)
        elif sign in "([":
            waiting.append(_Open(sign, [[]], []))
            if len(waiting) > MAX_DEPTH:
                raise too_deep()
        elif sign in ":|":
            if not waiting and sign == "|":
                return None
            if waiting:
                waiting[-1].parts.append([])
                waiting[-1].seen.append(sign)
            else:
                found.append(sign)
        else:
            closed = _closed(waiting[-1], sign, clock) if waiting else None
            if closed is not None:
                waiting.pop()
                (waiting[-1].parts[-1] if waiting else found).extend(closed)
            elif not _surrender(waiting, found):
                return None
            else:
                found.append(sign)
    if end != len(text) or not _surrender(waiting, found):
        return None
    return tuple(found)


def _closed(group: _Open, sign: str, clock: Clock) -> list[_Node] | None:
    """What a bracket becomes when `sign` closes it, or None if it is no part of the language."""
    parts, seen = group.parts, group.seen
    if group.bracket + sign == "()":
        if "|" in seen or len(seen) > 1:
            return None
        inner: list[_Node] = [*parts[0], *([":", *parts[1]] if seen else [])]
        return ["(", *inner, ")"]
    if group.bracket + sign != "[]":
        return None
    if not seen:
        return ["[", *parts[0], "]"]
    if set(seen) == {"|"}:
        return [_Alternation(tuple(tuple(part) for part in parts))]
    if "|" in seen or len(seen) > 2:
        return None
    when = _WHEN.fullmatch("".join(map(str, parts[-1]))) if _literal(parts[-1]) else None
    if when is None:
        return None
    before = tuple(parts[0]) if len(seen) == 2 else ()
    return [_Change(before, tuple(parts[-2]), clock.switch(when["number"]))]


def _literal(nodes: list[_Node]) -> bool:
    return all(isinstance(node, str) for node in nodes)


def _surrender(waiting: list[_Open], found: list[_Node]) -> bool:
    """Turn the brackets that wait into text; False if a `|` among them belongs nowhere."""
    for group in waiting:
        if "|" in group.seen:
            return False
        found.append(group.bracket)
        for at, part in enumerate(group.parts):
            found.extend([":", *part] if at else part)
    waiting.clear()
    return True


def _changing(nodes: _Nodes) -> Iterator[_Change | _Alternation]:
    for node in nodes:
        if isinstance(node, _Change):
            yield node
            yield from _changing(node.before)
            yield from _changing(node.after)
        elif isinstance(node, _Alternation):
            yield node
            for option in node.options:
                yield from _changing(option)


def _at(nodes: _Nodes, step: int) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, _Change):
            yield from _at(node.before if step <= node.last else node.after, step)
        else:
            yield from _at(node.options[(step - 1) % len(node.options)], step)
