"""The prompt language of compel: `word++`, `(phrase)1.3`, `("a", "b").blend(0.7, 0.3)`, `.and()`.

Read as compel 2.5 does, in linear time. What is no syntax is text: brackets that do not close, or
that hold a lone `=`, stay in the prompt.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from safelight.errors import PromptError
from safelight.text.networks import ExtraNetwork
from safelight.text.span import MAX_DEPTH, Span, checked, checked_weight, too_deep

PLUS = 1.1
MINUS = 0.9

_WORD = re.compile(r'(?:\\[()",.+\-=]|[+-](?![\s()",.+\-=]|\Z)|[^\s()",.+\-=])+')
_FREE_WORD = re.compile(r"\S+")
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_NUMBER = r"[+-]?(?:\d+\.\d*|\.\d+)|-?\d+"
_SIGNS = re.compile(r"\++|-+")
_OPERATOR = re.compile(rf"\++|-+|{_NUMBER}")
_ATTEND = re.compile(rf"\.attend\(\s*(\++|-+|{_NUMBER})\s*\)")
_LORA = re.compile(rf"(?:with|use)Lora\(\s*([\w-]+)\s*(?:,\s*({_NUMBER})\s*)?\)")
_JOINED = re.compile(r"\s*\.(and|add|blend)\s*\(([^()]*)\)\s*")
_BLANK = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Mixture:
    """One term of `.and()`: texts whose encodings are added with their shares (`.blend()`)."""

    texts: tuple[tuple[Span, ...], ...]
    shares: tuple[float, ...] = (1.0,)
    weight: float = 1.0  # towards the encoding of the empty text


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt of compel: terms whose encodings stand one after the other."""

    terms: tuple[Mixture, ...]
    networks: tuple[ExtraNetwork, ...] = ()


def read_compel(text: str) -> Reading:
    """Read a prompt of compel.

    Raises PromptError for `.swap()`, for weights that do not fit their texts, for text after
    `.and()` or `.blend()`, and beyond the limits of `span`.
    """
    text = re.sub(r",(\S)", r", \1", checked(text))
    reader = _Reader(text)
    joined = reader.joined()
    if joined is not None:
        return Reading(joined, tuple(reader.networks))
    reader = _Reader(text)
    spans = fused(reader.prompt())
    return Reading((Mixture((spans,)),), tuple(reader.networks))


def fused(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Neighbours of equal weight joined by a blank."""
    groups: list[tuple[float, list[str]]] = []
    for span in spans:
        if groups and groups[-1][0] == span.weight:
            groups[-1][1].append(span.text)
        else:
            groups.append((span.weight, [span.text]))
    return tuple(Span(" ".join(texts), checked_weight(w)) for w, texts in groups) or (Span(""),)


_Group = tuple[int, list[Span]] | None  # where it ended and what it held; None: no group


class _Reader:
    """Reads a text from left to right; every bracket is tried once and remembered."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.networks: list[ExtraNetwork] = []
        self.known: dict[int, _Group] = {}

    def prompt(self) -> list[Span]:
        """All of the text; what is no syntax is a word up to the next blank."""
        spans: list[Span] = []
        at = self.blank(0)
        while at < len(self.text):
            end, found = self.element(at, 0) or self.word(at, weighted=True) or self.free(at)
            spans += found
            at = self.blank(end)
        return spans

    def inner(self, at: int, depth: int) -> tuple[int, list[Span]]:
        """As much as follows the stricter rules of brackets and quotes."""
        spans: list[Span] = []
        while (at := self.blank(at)) < len(self.text):
            step = self.element(at, depth) or self.word(at, weighted=False)
            if step is None and self.text[at] in ",.":
                step = (at + 1, [Span(self.text[at])])
            if step is None:
                break
            spans += step[1]
            at = step[0]
        return at, spans

    def element(self, at: int, depth: int) -> _Group:
        """A network, or a bracket or quotation with the weight that may follow it."""
        lora = _LORA.match(self.text, at)
        if lora:
            arguments = (lora[1],) if lora[2] is None else (lora[1], lora[2])
            self.networks.append(ExtraNetwork("lora", arguments))
            return lora.end(), []
        group = self.group(at, depth)
        if group is None:
            return None
        end, spans = group
        operator = _ATTEND.match(self.text, end)
        sign = operator[1] if operator else None
        if operator is None:
            operator = _OPERATOR.match(self.text, end)
            sign = operator.group() if operator else None
        if operator is None or sign is None:
            self.no_swap(end)
            return end, spans
        factor = _factor(sign)
        return operator.end(), [Span(s.text, s.weight * factor) for s in spans]

    def group(self, at: int, depth: int) -> _Group:
        """A bracket or quotation; None if it does not close or breaks the rules."""
        if self.text[at] not in '("':
            return None
        if depth > MAX_DEPTH:
            raise too_deep()
        if at not in self.known:
            before = len(self.networks)
            read = self.bracket if self.text[at] == "(" else self.quotation
            self.known[at] = read(at, depth)
            if self.known[at] is None:
                del self.networks[before:]
        return self.known[at]

    def bracket(self, at: int, depth: int) -> _Group:
        end, spans = self.inner(at + 1, depth + 1)
        if end >= len(self.text) or self.text[end] != ")":
            return None
        return end + 1, spans

    def quotation(self, at: int, depth: int) -> _Group:
        quoted = _QUOTED.match(self.text, at)
        if quoted is None:
            return None
        inside = _Reader(quoted[1])
        end, spans = inside.inner(0, depth + 1)
        if end < len(quoted[1]):
            return None
        self.networks += inside.networks
        return quoted.end(), spans or [Span("")]

    def word(self, at: int, *, weighted: bool) -> _Group:
        """A word without syntax, and the signs that weigh it; `weighted` asks for the signs."""
        word = _WORD.match(self.text, at)
        if word is None:
            return None
        attend = _ATTEND.match(self.text, word.end())
        signs = attend or _SIGNS.match(self.text, word.end())
        if signs is None:
            self.no_swap(word.end())
            return None if weighted else (word.end(), [Span(_unescaped(word.group()))])
        factor = _factor(attend[1] if attend else signs.group())
        return signs.end(), [Span(_unescaped(word.group()), factor)]

    def free(self, at: int) -> tuple[int, list[Span]]:
        word = _FREE_WORD.match(self.text, at)
        assert word is not None
        return word.end(), [Span(_unescaped(word.group()))]

    def joined(self) -> tuple[Mixture, ...] | None:
        """The terms of `(a, b).and(...)` or `.blend(...)`, if the prompt is one of these."""
        at = self.blank(0)
        if self.text[at : at + 1] != "(":
            return None
        texts: list[tuple[Span, ...]] = []
        at += 1
        while True:
            at = self.blank(at)
            target = self.target(at) if at < len(self.text) else None
            if target is None:
                return None
            texts.append(fused(target[1]))
            at = self.blank(target[0])
            if self.text[at : at + 1] != ",":
                break
            at += 1
        operator = _JOINED.match(self.text, at + 1) if self.text[at : at + 1] == ")" else None
        if operator is None:
            return None
        if operator.end() < len(self.text):
            rest = self.text[operator.end() :][:40]
            raise PromptError(f".{operator[1]}() ends a prompt; got {rest!r} after it.")
        return _terms(tuple(texts), operator[1], operator[2])

    def target(self, at: int) -> _Group:
        """A text of a list; a quotation may hold what a whole prompt may."""
        found = self.group(at, 0)
        if found is None and (quoted := _QUOTED.match(self.text, at)):
            inside = _Reader(quoted[1])
            found = (quoted.end(), inside.prompt())
            self.networks += inside.networks
        if found is None and (word := _WORD.match(self.text, at)):
            found = (word.end(), [Span(_unescaped(word.group()))])
        return found

    def blank(self, at: int) -> int:
        match = _BLANK.match(self.text, at)
        assert match is not None
        return match.end()

    def no_swap(self, at: int) -> None:
        if self.text.startswith(".swap(", at):
            raise PromptError(
                "compel's .swap() needs cross-attention control, which is not offered."
                " Use [from:to:when] of the a1111 dialect."
            )


def _terms(texts: tuple[tuple[Span, ...], ...], operator: str, options: str) -> tuple[Mixture, ...]:
    given = [option.strip() for option in options.split(",")] if options.strip() else []
    normalised = not (operator == "blend" and given and given[-1] == "no_normalize")
    if not normalised:
        given.pop()
    try:
        weights = [checked_weight(float(number)) for number in given] or [1.0] * len(texts)
    except ValueError:
        raise PromptError(f".{operator}() takes numbers; got {options.strip()[:40]!r}.") from None
    if len(weights) != len(texts):
        raise PromptError(
            f".{operator}() needs a weight for each of {len(texts)} texts; got {len(weights)}."
        )
    if operator != "blend":
        return tuple(Mixture((t,), weight=w) for t, w in zip(texts, weights, strict=True))
    total = sum(weights) if normalised else 1.0
    if not total:
        raise PromptError(
            "the weights of .blend() add up to 0. Add no_normalize to use them as is."
        )
    return (Mixture(texts, tuple(weight / total for weight in weights)),)


def _factor(sign: str) -> float:
    if sign.strip("+-"):
        return checked_weight(float(sign))
    base = PLUS if sign[0] == "+" else MINUS
    return checked_weight(base ** min(len(sign), 1000))


def _unescaped(text: str) -> str:
    return text.replace("\\(", "(").replace("\\)", ")").replace('\\"', '"')
