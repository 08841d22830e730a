"""The words of a prompt, where their tokens stand in a condition, and where they act in a picture.

Shapes: L rows of the condition (77 for each chunk), h w places.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safelight.errors import PromptError
from safelight.models.attention_recorder import COARSEST, AttentionRecorder
from safelight.printable import shown
from safelight.text.bpe import Tokenizer
from safelight.text.chunks import Weighted
from safelight.text.layout import DEFAULT, Choice, Reading, laid_out
from safelight.text.spec import CHUNK

ROWS = CHUNK + 2  # of a chunk: start and end included


@dataclass(frozen=True, slots=True)
class WordSpan:
    """A word or phrase, and the rows of the condition that hold its tokens."""

    word: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class WordMap:
    """Where a word acts.

    heat: (h, w) float32, how much each place attends to it, 0 to 1.
    share: the word's part of the attention that goes to all tokens of the text, 0 to 1; start, end
        and padding, which get most of it, do not count.
    """

    word: str
    heat: NDArray[np.float32]
    share: float


def words_of(text: str, tokenizer: Tokenizer, reading: Reading = DEFAULT) -> tuple[WordSpan, ...]:
    """The words of a text in order, each as often as it stands there; signs are no words.

    text: what is encoded, without schedules and tags; read as `Conditioner.condition` reads it.
    Raises PromptError as `laid_out` does.
    """
    return tuple(
        WordSpan(_word(group, spans_text), tuple(row for _, rows in group for row in rows))
        for group, spans_text in _grouped(text, tokenizer, reading)
        if any(c.isalnum() for c in _word(group, spans_text))
    )


def phrases_of(
    text: str, phrases: Iterable[str], tokenizer: Tokenizer, reading: Reading = DEFAULT
) -> tuple[WordSpan, ...]:
    """Chosen phrases of a text, each with the rows of all places where it stands.

    Raises PromptError for a phrase that does not stand in it as whole words, naming its words.
    """
    placed = [
        (ids, row)
        for group, _ in _grouped(text, tokenizer, reading)
        for token, rows in group
        for ids, row in zip(token.piece.ids, rows, strict=True)
    ]
    every = [token for token, _ in placed]
    found = []
    for phrase in phrases:
        wanted = tokenizer.encode(phrase)
        starts = [
            at
            for at in range(len(every) - len(wanted) + 1)
            if wanted and every[at : at + len(wanted)] == wanted
        ]
        if not starts:
            words = ", ".join(dict.fromkeys(w.word for w in words_of(text, tokenizer, reading)))
            raise PromptError(
                f"the prompt has no {shown(phrase)!r} in it; its words are {shown(words)}"
            )
        rows = dict.fromkeys(placed[at + i][1] for at in starts for i in range(len(wanted)))
        found.append(WordSpan(phrase, tuple(rows)))
    return tuple(found)


def token_rows(text: str, tokenizer: Tokenizer, reading: Reading = DEFAULT) -> tuple[int, ...]:
    """The rows of all tokens of a text, signs too, without start, end and padding."""
    groups = _grouped(text, tokenizer, reading)
    return tuple(dict.fromkeys(row for group, _ in groups for _, rows in group for row in rows))


def word_maps(
    recorder: AttentionRecorder,
    text: str,
    spans: Sequence[WordSpan],
    size: tuple[int, int],
    *,
    tokens: Sequence[int],
    picture: int = 0,
    coarsest: int = COARSEST,
) -> list[WordMap]:
    """Where each word acted while a picture was drawn, as maps of `size` (h, w).

    text: the key of `AttentionRecorder`. tokens: see `token_rows`.
    A word of several tokens has the sum of their maps, so that maps of all words and of the other
    tokens sum to 1 at every place. Raises RequestError as `AttentionRecorder.maps` does.
    """
    maps = recorder.maps(text, size, picture=picture, coarsest=coarsest).numpy()
    whole = float(maps[list(tokens)].mean(axis=(1, 2)).sum()) if tokens else 0.0
    heats = [maps[list(span.rows)].sum(axis=0) for span in spans]
    return [
        WordMap(span.word, heat, float(heat.mean()) / whole if whole else 0.0)
        for span, heat in zip(spans, heats, strict=True)
    ]


_Placed = tuple[Weighted, tuple[int, ...]]  # a token, and its rows
_Group = tuple[list[_Placed], str]  # the tokens of one word, and the cleaned text they lie in


def _grouped(text: str, tokenizer: Tokenizer, reading: Reading) -> list[_Group]:
    """The tokens of each word of a text, through all chunks; a sign is a word of its own."""
    groups: list[_Group] = []
    first = 0  # row of the term's first chunk
    for term in laid_out(text, tokenizer, reading).terms:
        for choice in term.choices:
            groups += _of_choice(choice, first, tokenizer)
        first += term.length * ROWS
    return groups


def _of_choice(choice: Choice, first: int, tokenizer: Tokenizer) -> list[_Group]:
    groups: list[_Group] = []
    cleaned = [tokenizer.clean(span.text) for span in choice.spans]
    held: list[_Placed] = []
    for number, chunk in enumerate(choice.chunks):
        row = first + number * ROWS + 1
        for token in chunk.tokens:
            if held and held[-1][0].span != token.span:
                groups.append((held, cleaned[held[-1][0].span]))
                held = []
            held.append((token, tuple(range(row, row + len(token.piece.ids)))))
            row += len(token.piece.ids)
            if token.piece.trigger or token.piece.text.endswith("</w>"):
                groups.append((held, cleaned[token.span]))
                held = []
    if held:
        groups.append((held, cleaned[held[-1][0].span]))
    return groups


def _word(group: list[_Placed], cleaned: str) -> str:
    first, last = group[0][0].piece, group[-1][0].piece
    return first.text if first.trigger else cleaned[first.start : last.end]
