"""What became of a text: its tokens, chunk by chunk, with weights, and what was dropped."""

from collections.abc import Iterable
from dataclasses import dataclass

from safelight.text.bpe import Tokenizer
from safelight.text.chunks import Weighted, first_chunk
from safelight.text.layout import DEFAULT, Reading, laid_out
from safelight.text.notes import foreign_syntax

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class TokenReport:
    """One token or embedding: its text, its ids and its weight."""

    text: str
    ids: tuple[int, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class ChunkReport:
    """The tokens that are encoded together.

    term, choice: which term of compel's `.and()`, and which text of its `.blend()`, it is part of.
    """

    tokens: tuple[TokenReport, ...]
    term: int = 0
    choice: int = 0

    @property
    def length(self) -> int:
        """Positions that are used, of 75."""
        return sum(len(token.ids) for token in self.tokens)


@dataclass(frozen=True, slots=True)
class TextReport:
    """How a text is read.

    cleaned: the text as it is tokenized, syntax included.
    cut: tokens that were dropped, which happens only where truncation was asked for.
    cut_by_diffusers: tokens that a Diffusers pipeline would drop from these.
    """

    cleaned: str
    chunks: tuple[ChunkReport, ...]
    cut: tuple[TokenReport, ...] = ()
    cut_by_diffusers: tuple[TokenReport, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """How many positions the text fills, without start, end and padding."""
        return sum(chunk.length for chunk in self.chunks)

    def to_json(self) -> Json:
        """The report as values that JSON has."""
        return {
            "cleaned": self.cleaned,
            "tokens": self.tokens,
            "chunks": [
                {"term": c.term, "choice": c.choice, "length": c.length, "tokens": _json(c.tokens)}
                for c in self.chunks
            ],
            "cut": _json(self.cut),
            "cut_by_diffusers": _json(self.cut_by_diffusers),
            "notes": list(self.notes),
        }


def reported(text: str, tokenizer: Tokenizer, reading: Reading = DEFAULT) -> TextReport:
    """How a text is laid out. Raises PromptError as `laid_out` does."""
    layout = laid_out(text, tokenizer, reading)
    placed = [
        (chunk, term, choice)
        for term, parts in enumerate(layout.terms)
        for choice, part in enumerate(parts.choices)
        for chunk in part.chunks
    ]
    kept = [token for chunk, _, _ in placed for token in chunk.tokens]
    beyond = first_chunk([*kept, *layout.cut])[1]
    notes = [] if reading.emphasis == "none" else list(foreign_syntax(text, reading.dialect))
    if layout.cut:
        notes.append(f"{_count(layout.cut)} tokens after the first 75 are dropped.")
    if any(tokenizer.vocabulary.eos in token.piece.ids for token in kept):
        notes.append("the text spells out the end of text, and is encoded so.")
    return TextReport(
        cleaned=tokenizer.clean(text),
        chunks=tuple(ChunkReport(_tokens(c.tokens), term, choice) for c, term, choice in placed),
        cut=_tokens(layout.cut),
        cut_by_diffusers=_tokens(beyond),
        notes=tuple(notes),
    )


def _tokens(tokens: Iterable[Weighted]) -> tuple[TokenReport, ...]:
    return tuple(TokenReport(t.piece.text, t.piece.ids, t.weight) for t in tokens)


def _count(tokens: Iterable[Weighted]) -> int:
    return sum(len(token.piece.ids) for token in tokens)


def _json(tokens: Iterable[TokenReport]) -> list[Json]:
    return [{"text": t.text, "ids": list(t.ids), "weight": t.weight} for t in tokens]
