"""One text, laid out for the encoder: which tokens stand in which chunk, with which weight.

The text is what `prompt` leaves for one step: weights and breaks, but no schedules or tags.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from safelight.errors import RequestError
from safelight.text.bpe import Piece, Tokenizer
from safelight.text.chunks import (
    BACKTRACK,
    EMPTY,
    Chunk,
    Weighted,
    at_commas,
    at_sentences,
    at_spans,
    first_chunk,
)
from safelight.text.compel import Mixture, read_compel
from safelight.text.span import DIALECTS, EMPHASES, Dialect, Emphasis, Span, checked, unweighted
from safelight.text.spec import CHUNK
from safelight.text.weights import a1111_spans, comfy_spans

Way = Literal["original", "no norm", "ignore", "comfy", "compel"]

_EMBEDDING = re.compile(r"(?:(?<=\s)|\A)embedding:([^\s<\[]+)")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a text is read.

    dialect: the prompt language.
    emphasis: how weights act. "original" is the dialect's own way (A1111's keeps the mean of each
        chunk); "no norm" only multiplies; "ignore" drops the weights but reads the syntax; "none"
        takes the syntax for text; "comfy" and "compel" are those tools' ways in any dialect.
    backtrack: a1111 and plain: how far from the end of a full chunk a comma may be to end it.
    truncate: keep only the first 75 tokens, as Diffusers does; what is dropped is reported.

    Raises RequestError for a value that is none of these.
    """

    dialect: Dialect = "a1111"
    emphasis: Emphasis = "original"
    backtrack: int = BACKTRACK
    truncate: bool = False

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise RequestError(f"dialect must be one of {_listed(DIALECTS)}; got {self.dialect!r}.")
        if self.emphasis not in EMPHASES:
            raise RequestError(
                f"emphasis must be one of {_listed(EMPHASES)}; got {self.emphasis!r}."
            )
        if not 0 <= self.backtrack < CHUNK:
            raise RequestError(
                f"comma backtracking must be 0 to {CHUNK - 1}; got {self.backtrack}."
            )

    @property
    def way(self) -> Way:
        """How weights act in the end."""
        if self.emphasis == "none":
            return "ignore"
        if self.emphasis == "original" and self.dialect in ("comfy", "compel"):
            return "comfy" if self.dialect == "comfy" else "compel"
        return self.emphasis


DEFAULT = Reading()


@dataclass(frozen=True, slots=True)
class Choice:
    """Chunks of one text, its share in a blend, and the weight of each of its spans."""

    chunks: tuple[Chunk, ...]
    spans: tuple[Span, ...]
    share: float = 1.0

    def padded(self, count: int) -> tuple[Chunk, ...]:
        """The chunks, and empty ones up to `count`."""
        return (*self.chunks, *[EMPTY] * (count - len(self.chunks)))


@dataclass(frozen=True, slots=True)
class Term:
    """Texts that are blended into one encoding; only compel's `.blend()` has more than one."""

    choices: tuple[Choice, ...]
    weight: float = 1.0

    @property
    def length(self) -> int:
        """Chunks of the longest text."""
        return max(len(choice.chunks) for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Layout:
    """Terms whose encodings stand one after the other, and the tokens that were dropped."""

    terms: tuple[Term, ...]
    cut: tuple[Weighted, ...] = ()

    @property
    def length(self) -> int:
        """Chunks in all."""
        return sum(term.length for term in self.terms)


def spans_of(text: str, dialect: Dialect) -> tuple[Span, ...]:
    """The weighted spans of a text; of compel's blends, the spans of all texts in a row."""
    if dialect == "a1111":
        return a1111_spans(text)
    if dialect == "comfy":
        return comfy_spans(text)
    if dialect == "compel":
        return tuple(s for term in read_compel(text).terms for spans in term.texts for s in spans)
    return (Span(checked(text)),)


def named_embeddings(text: str) -> tuple[str, ...]:
    """What ComfyUI's dialect calls by `embedding:name`, in order, without commas at its end."""
    spans = comfy_spans(text)
    return tuple(m[1].strip(",") for span in spans for m in _EMBEDDING.finditer(span.text))


def laid_out(text: str, tokenizer: Tokenizer, reading: Reading = DEFAULT) -> Layout:
    """The chunks of a text.

    Raises PromptError beyond the limits of `span`, for an embedding of more than 75 vectors, and
    for what compel refuses.
    """
    if reading.dialect == "compel" and reading.emphasis != "none":
        mixtures = read_compel(text).terms
    else:
        dialect = "plain" if reading.emphasis == "none" else reading.dialect
        mixtures = (Mixture((spans_of(text, dialect),)),)
    cut: list[Weighted] = []
    terms = tuple(
        Term(
            tuple(
                _choice(spans, share, tokenizer, reading, cut)
                for spans, share in zip(mixture.texts, mixture.shares, strict=True)
            ),
            mixture.weight,
        )
        for mixture in mixtures
    )
    return Layout(terms, tuple(cut))


def _choice(
    spans: Sequence[Span], share: float, tokenizer: Tokenizer, reading: Reading, cut: list[Weighted]
) -> Choice:
    if reading.way == "ignore":
        spans = unweighted(spans)
    if reading.dialect == "comfy" and reading.emphasis != "none":
        spans = tuple(_apart(spans, tokenizer))
        bare = tokenizer.without_triggers()
    else:
        bare = tokenizer
    tokens: list[Weighted | None] = []
    for number, span in enumerate(spans):
        if span.breaks:
            tokens.append(None)
            continue
        named = _EMBEDDING.fullmatch(span.text) if bare is not tokenizer else None
        trigger = _trigger(named[1], tokenizer) if named else None
        pieces = [trigger] if trigger else bare.pieces(span.text)
        tokens += (Weighted(piece, span.weight, number) for piece in pieces)
    if reading.truncate:
        chunks, dropped = first_chunk(tokens)
        cut += dropped
    elif reading.dialect == "comfy":
        chunks = at_spans(tokens)
    elif reading.dialect == "compel":
        chunks = at_sentences(tokens)
    else:
        chunks = at_commas(tokens, reading.backtrack)
    return Choice(chunks, tuple(spans), share)


def _apart(spans: Sequence[Span], tokenizer: Tokenizer) -> Iterator[Span]:
    """ComfyUI's `embedding:name`, where the name is known, in spans of their own."""
    for span in spans:
        end = 0
        for match in _EMBEDDING.finditer(span.text):
            name = match[1] if _trigger(match[1], tokenizer) else match[1].strip(",")
            if _trigger(name, tokenizer) is None:
                continue
            if match.start() > end:
                yield Span(span.text[end : match.start()], span.weight)
            yield Span(f"embedding:{name}", span.weight)
            end = match.start(1) + len(name)
        if end < len(span.text) or not span.text:
            yield Span(span.text[end:], span.weight)


def _trigger(name: str, tokenizer: Tokenizer) -> Piece | None:
    ids = tokenizer.triggers.get(name)
    return None if ids is None else Piece(name, ids, 0, len(name), trigger=True)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
