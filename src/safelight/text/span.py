"""What every dialect is read into: stretches of text with a weight; and the limits of all."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from safelight.errors import PromptError

MAX_CHARACTERS = 100_000
MAX_DEPTH = 128  # far beyond any use, and within the depth at which Python stops
MAX_WEIGHT = 1e6  # far beyond any use; keeps products of nested weights finite

Dialect = Literal["a1111", "comfy", "compel", "plain"]
DIALECTS: tuple[Dialect, ...] = ("a1111", "comfy", "compel", "plain")

# How weights act on the encoding. The dialects comfy and compel have a way of their own, which
# "original" means there.
Emphasis = Literal["original", "no norm", "ignore", "none", "comfy", "compel"]
EMPHASES: tuple[Emphasis, ...] = ("original", "no norm", "ignore", "none", "comfy", "compel")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text and its weight; `breaks` marks the end of a chunk and has no text."""

    text: str
    weight: float = 1.0
    breaks: bool = False


BREAK = Span("", 1.0, breaks=True)


def checked(text: str) -> str:
    """The text, if it can be read in reasonable time and encoded. Raises PromptError."""
    if len(text) > MAX_CHARACTERS:
        raise PromptError(
            f"a prompt may have {MAX_CHARACTERS:,} characters; got {len(text):,}. Shorten it."
        )
    if _SURROGATE.search(text):
        raise PromptError("the prompt holds half of a surrogate pair, which is no character.")
    return text


def too_deep() -> PromptError:
    return PromptError(f"brackets may be nested {MAX_DEPTH} deep. Close some of them.")


def checked_weight(weight: float) -> float:
    """The weight, if it is a number one can multiply by. Raises PromptError."""
    if not abs(weight) <= MAX_WEIGHT:
        raise PromptError(
            f"a weight must be between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}; got {weight:g}."
        )
    return weight


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Neighbours of equal weight joined, and never nothing: an empty prompt is one empty span."""
    result: list[Span] = []
    texts: list[str] = []
    for span in spans:
        if (
            result
            and not span.breaks
            and not result[-1].breaks
            and result[-1].weight == span.weight
        ):
            texts.append(span.text)
            continue
        _settle(result, texts)
        result.append(span)
        texts = [span.text]
    _settle(result, texts)
    return tuple(result) or (Span(""),)


def unweighted(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The same spans, all of weight 1; still apart, so that they are tokenized as before."""
    return tuple(span if span.breaks else Span(span.text) for span in spans)


def _settle(result: list[Span], texts: list[str]) -> None:
    if len(texts) > 1:
        result[-1] = Span("".join(texts), result[-1].weight)


_SURROGATE = re.compile("[\ud800-\udfff]")
