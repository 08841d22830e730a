"""Weights in the prompt: `(word:1.2)` as AUTOMATIC1111's web UI and as ComfyUI read it.

Both are read in time linear in the text (for a given depth), and neither refuses any text: what is
no syntax is text. Both raise PromptError only beyond the limits of `span`.
"""

import math
import re
from bisect import bisect_left
from dataclasses import dataclass, field

from safelight.text.span import MAX_DEPTH, Span, checked, checked_weight, merged, too_deep

ROUND = 1.1
SQUARE = 1 / 1.1

_SIGNS = re.compile(
    r"(?P<escape>\\[()\[\]\\]?)|(?P<weight>:\s*(?P<number>[+-]?[.\d]+)\s*\))"
    r"|(?P<bracket>[()\[\]])|(?P<text>[^\\()\[\]:]+|:)"
)
_BREAK = re.compile(r"\bBREAK\b")


@dataclass
class _Leaves:
    """Text between two brackets, with the product of the brackets around it so far."""

    factors: list[float] = field(default_factory=list)
    texts: list[list[tuple[str, float]]] = field(default_factory=list)  # (text, own weight)
    fresh: bool = True  # a bracket came since the last text

    def add(self, text: str, weight: float = 1.0) -> None:
        if self.fresh:
            self.factors.append(1.0)
            self.texts.append([])
            self.fresh = False
        self.texts[-1].append((text, weight))

    def multiply(self, start: int, factor: float) -> None:
        self.fresh = True
        for at in range(start, len(self.factors)):
            self.factors[at] *= factor


def a1111_spans(text: str) -> tuple[Span, ...]:
    r"""Spans of A1111's language: `(x)` 1.1, `[x]` 1/1.1, `(x:1.2)`, `\(` escapes, BREAK.

    Nested brackets multiply. An unclosed bracket acts to the end, a closing one without partner is
    text, and a number that is none (`(x:abc)`) is text within an ordinary bracket. BREAK inside a
    weighted bracket loses its meaning and becomes the word BREAK with the negated weight.
    """
    checked(text)
    leaves = _Leaves()
    rounds: list[int] = []
    squares: list[int] = []
    for match in _SIGNS.finditer(text):
        sign = match.group()
        if match["escape"]:
            leaves.add(sign[1:])
        elif sign in ("(", "["):
            opened = rounds if sign == "(" else squares
            opened.append(len(leaves.factors))
            leaves.fresh = True
            if len(rounds) + len(squares) > MAX_DEPTH:
                raise too_deep()
        elif match["weight"] and rounds:
            number = _number(match["number"])
            if number is None:
                leaves.add(sign[:-1])
            leaves.multiply(rounds.pop(), ROUND if number is None else number)
        elif sign == ")" and rounds:
            leaves.multiply(rounds.pop(), ROUND)
        elif sign == "]" and squares:
            leaves.multiply(squares.pop(), SQUARE)
        else:
            _add_with_breaks(leaves, sign)
    for start in rounds:
        leaves.multiply(start, ROUND)
    for start in squares:
        leaves.multiply(start, SQUARE)
    return _finished(leaves)


def _add_with_breaks(leaves: _Leaves, text: str) -> None:
    parts = _BREAK.split(text)
    for at, part in enumerate(parts):
        if at:
            leaves.add("BREAK", -1.0)
            part = part.lstrip()
        leaves.add(part.rstrip() if at < len(parts) - 1 else part)


def _finished(leaves: _Leaves) -> tuple[Span, ...]:
    spans = merged(
        Span(text, checked_weight(weight * factor))
        for factor, group in zip(leaves.factors, leaves.texts, strict=True)
        for text, weight in group
    )
    # The reference marks a break by the word BREAK of weight -1, and so do we until here: only
    # then does the word keep its other weight inside brackets.
    return tuple(
        Span("", 1.0, breaks=True) if s.text == "BREAK" and s.weight == -1 else s for s in spans
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def comfy_spans(text: str) -> tuple[Span, ...]:
    r"""Spans of ComfyUI's language: `(x)` 1.1, `(x:1.2)`; `\(` and `\)` are literal.

    Nested brackets without a number multiply; a number replaces what is around it. Brackets
    without partner are text. Spans stay apart even if their weights are equal.
    """
    return _Comfy(checked(text)).spans()


class _Comfy:
    """Reads a text by recursion, after its brackets were paired in one pass."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.found: list[Span] = []
        self.opening: list[int] = []  # brackets that may open a group, in order
        self.partner: dict[int, int] = {}  # opening bracket -> closing bracket
        waiting: list[int] = []
        surplus = 0  # each closing bracket without partner disarms an opening one that follows
        for match in re.finditer(r"(?<!\\)[()]", text):
            at = match.start()
            if match.group() == ")" and waiting:
                self.partner[waiting.pop()] = at
            elif match.group() == ")":
                surplus += 1
            elif surplus:
                surplus -= 1
            else:
                waiting.append(at)
                self.opening.append(at)

    def spans(self) -> tuple[Span, ...]:
        self.read(0, len(self.text), 1.0, 0)
        return tuple(self.found) or (Span(""),)

    def read(self, start: int, end: int, weight: float, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise too_deep()
        while True:
            which = bisect_left(self.opening, start)
            at = self.opening[which] if which < len(self.opening) else end
            self.add(start, min(at, end), weight)
            if at >= end:
                return
            close = self.partner.get(at, end)
            if close >= end:
                break
            self.group(at + 1, close, weight, depth)
            start = close + 1
        # Unclosed: text to the end, but a bracket that happens to close at the end counts as its.
        if end - at >= 2 and self.text[end - 1] == ")" and self.text[end - 2] != "\\":
            self.group(at + 1, end - 1, weight, depth)
        else:
            self.add(at, end, weight)

    def group(self, start: int, end: int, weight: float, depth: int) -> None:
        weight *= ROUND
        colon = self.text.rfind(":", start, end)
        if colon > start:
            number = _number(self.text[colon + 1 : end])
            if number is not None and math.isfinite(number):
                weight, end = number, colon
        self.read(start, end, weight, depth + 1)

    def add(self, start: int, end: int, weight: float) -> None:
        if start < end:
            text = self.text[start:end].replace("\\(", "(").replace("\\)", ")")
            self.found.append(Span(text, checked_weight(weight)))
