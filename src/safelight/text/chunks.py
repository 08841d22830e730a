"""Tokens in chunks of 75: CLIP was trained with 77 positions, start and end included.

Three rules to cut a long text, one for each dialect; none of them drops a token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from safelight.errors import PromptError
from safelight.text.bpe import Piece, Tokenizer
from safelight.text.spec import CHUNK
from safelight.text.vocabulary import Vocabulary

COMMA = 267  # a comma that ends a word: a single byte, so the same in every vocabulary
BACKTRACK = 20
WORD = 8  # ComfyUI: a span of fewer tokens is not cut


@dataclass(frozen=True, slots=True)
class Weighted:
    """A piece of text, its weight, and the number of the span it comes from."""

    piece: Piece
    weight: float
    span: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Up to 75 tokens that are encoded together."""

    tokens: tuple[Weighted, ...] = ()

    def __len__(self) -> int:
        return sum(len(token.piece.ids) for token in self.tokens)

    def ids(self, vocabulary: Vocabulary, pad: int | None = None) -> tuple[int, ...]:
        """77 ids: start, tokens, end, and `pad` (None: the end again) for what is left."""
        own = [token for weighted in self.tokens for token in weighted.piece.ids]
        return _framed(own, vocabulary, pad)

    def weights(self) -> tuple[float, ...]:
        """The weight of each of the 77 rows; 1 for start, end and padding."""
        own = [t.weight for t in self.tokens for _ in t.piece.ids]
        return (1.0, *own, *[1.0] * (CHUNK + 1 - len(own)))

    def rows(self, span: int) -> tuple[int, ...]:
        """The rows that hold tokens of one span."""
        numbers = [t.span for t in self.tokens for _ in t.piece.ids]
        return tuple(row for row, number in enumerate(numbers, start=1) if number == span)


EMPTY = Chunk()
Tokens = Sequence[Weighted | None]  # None: the chunk ends here (BREAK)


def at_commas(tokens: Tokens, backtrack: int = BACKTRACK) -> tuple[Chunk, ...]:
    """A1111's rule: a chunk that is full ends after its last comma, if that is near enough.

    backtrack: how many tokens from the end that comma may be, 0 to 74; 0 cuts where it is full.
    """
    chunks: list[Chunk] = []
    held: list[Weighted] = []
    size = 0
    comma = -1  # token count up to which a comma was seen in this chunk; held index beside it
    comma_held = -1

    def end() -> None:
        nonlocal held, size, comma
        chunks.append(Chunk(tuple(held)))
        held, size, comma = [], 0, -1

    for token in tokens:
        if token is None:
            end()
            continue
        length = _length(token)
        if token.piece.ids == (COMMA,):
            comma, comma_held = size, len(held)
        elif backtrack and size == CHUNK and comma != -1 and size - comma <= backtrack:
            moved = held[comma_held + 1 :]
            held = held[: comma_held + 1]
            end()
            held = moved
            size = sum(len(t.piece.ids) for t in held)
        if size == CHUNK or size + length > CHUNK:
            end()
        held.append(token)
        size += length
    if held or not chunks:
        end()
    return tuple(chunks)


def at_spans(tokens: Tokens) -> tuple[Chunk, ...]:
    """ComfyUI's rule: a span of fewer than 8 tokens goes to the next chunk whole."""
    filling: list[list[Weighted]] = [[]]
    size = 0
    for group in _by_span(tokens):
        whole = sum(map(_length, group)) < WORD
        if whole and size + sum(map(_length, group)) > CHUNK:
            filling.append([])
            size = 0
        for token in group:
            if size + _length(token) > CHUNK:
                filling.append([])
                size = 0
            filling[-1].append(token)
            size += _length(token)
    return tuple(Chunk(tuple(held)) for held in filling)


def at_sentences(tokens: Tokens) -> tuple[Chunk, ...]:
    """compel's rule: after the last full stop that fits, else the last sign, else the last word."""
    rest = [token for token in tokens if token is not None]
    chunks: list[Chunk] = []
    start = 0
    while True:
        end = _fitting(rest, start)
        if end == len(rest):
            return (*chunks, Chunk(tuple(rest[start:end])))
        end = next(
            (at + 1 for ends in _ENDS for at in range(end - 1, start - 1, -1) if ends(rest[at])),
            end,
        )
        chunks.append(Chunk(tuple(rest[start:end])))
        start = end


def first_chunk(tokens: Tokens) -> tuple[tuple[Chunk, ...], tuple[Weighted, ...]]:
    """Diffusers' rule: the first 75 tokens, and those that this drops."""
    rest = [token for token in tokens if token is not None]
    end = _fitting(rest, 0)
    return (Chunk(tuple(rest[:end])),), tuple(rest[end:])


def caption_ids(text: str, tokenizer: Tokenizer, pad: int | None = None) -> tuple[int, ...]:
    """The 77 ids of a plain text as encoders are trained on it: what is beyond 75 is dropped.

    pad: see `TextRole`. The ids of `Conditioner.condition` with the dialect plain, truncated.
    """
    return _framed(tokenizer.encode(text)[:CHUNK], tokenizer.vocabulary, pad)


def _framed(own: Sequence[int], vocabulary: Vocabulary, pad: int | None) -> tuple[int, ...]:
    eos = vocabulary.eos
    return (vocabulary.bos, *own, eos, *[eos if pad is None else pad] * (CHUNK - len(own)))


_ENDS = (
    lambda token: token.piece.text == ".</w>",
    lambda token: token.piece.text in (".</w>", ",</w>", ";</w>", ":</w>"),
    lambda token: token.piece.text.endswith("</w>"),
)


def _fitting(tokens: Sequence[Weighted], start: int) -> int:
    """Where a chunk that begins at `start` is full."""
    size = 0
    for at in range(start, len(tokens)):
        size += _length(tokens[at])
        if size > CHUNK:
            return at
    return len(tokens)


def _by_span(tokens: Tokens) -> Iterable[list[Weighted]]:
    group: list[Weighted] = []
    for token in tokens:
        if token is None:
            continue
        if group and group[-1].span != token.span:
            yield group
            group = []
        group.append(token)
    if group:
        yield group


def _length(token: Weighted) -> int:
    length = len(token.piece.ids)
    if length > CHUNK:
        raise PromptError(
            f"the embedding {token.piece.text!r} has {length} vectors; a chunk holds {CHUNK}."
        )
    return length
