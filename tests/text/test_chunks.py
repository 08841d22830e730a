"""Chunks are cut as A1111, ComfyUI, compel and Diffusers cut them, and nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.text.bpe import Piece, Tokenizer
from safelight.text.chunks import (
    COMMA,
    Chunk,
    Weighted,
    at_commas,
    at_sentences,
    at_spans,
    first_chunk,
)
from safelight.text.layout import Reading, laid_out
from safelight.text.vocabulary import CLIP_VOCABULARY

TOKENIZER = Tokenizer()
CLIP = CLIP_VOCABULARY
BOS, EOS = 49406, 49407  # as published
WORD = Weighted(Piece("a</w>", (320,), 0, 1), 1.0, 0)
SIGN = Weighted(Piece(",</w>", (COMMA,), 0, 1), 1.0, 0)


def row(pattern: str) -> list[Weighted | None]:
    """`a` a word, `,` a comma, `|` a break, `3` an embedding of three vectors."""
    kinds = {"a": WORD, ",": SIGN, "|": None}
    return [
        kinds[c]
        if c in kinds
        else Weighted(Piece(f"<{c}>", tuple(range(49408, 49408 + int(c))), 0, 1, True), 1.0, 0)
        for c in pattern
    ]


def sizes(chunks: tuple[Chunk, ...]) -> list[int]:
    return [len(chunk) for chunk in chunks]


@pytest.mark.parametrize(
    ("pattern", "backtrack", "expected"),
    [
        ("", 20, [0]),
        ("a" * 75, 20, [75]),
        ("a" * 76, 20, [75, 1]),
        ("a" * 60 + "," + "a" * 20, 20, [61, 20]),
        ("a" * 60 + "," + "a" * 20, 0, [75, 6]),
        ("a" * 55 + "," + "a" * 20, 20, [56, 20]),
        ("a" * 54 + "," + "a" * 21, 20, [75, 1]),
        ("a" * 54 + "," + "a" * 21, 21, [55, 21]),
        ("a" * 10 + "," + "a" * 65, 74, [11, 65]),
        ("a" * 74 + "," + "a", 20, [75, 1]),
        ("a" * 75 + ",a", 20, [75, 2]),
        ("a|b".replace("b", "a"), 20, [1, 1]),
        ("a||a", 20, [1, 0, 1]),
        ("a|", 20, [1]),
        ("|a", 20, [0, 1]),
        ("a" * 74 + "3", 20, [74, 3]),
        ("a" * 72 + "3", 20, [75]),
        ("a" * 70 + "," + "3" + "3", 20, [74, 3]),
        ("a" * 70 + "," + "aaaa" + "3", 20, [71, 7]),
    ],
)  # fmt: skip
def test_commas_table(pattern: str, backtrack: int, expected: list[int]) -> None:
    assert sizes(at_commas(row(pattern), backtrack)) == expected


def test_ids_and_weights_fill_77_rows() -> None:
    heavy = Weighted(WORD.piece, 1.5, 3)
    chunk = Chunk((WORD, heavy))
    assert chunk.ids(CLIP, 0) == (BOS, 320, 320, EOS, *[0] * 73)
    assert chunk.ids(CLIP) == chunk.ids(CLIP, EOS) == (BOS, 320, 320, *[EOS] * 74)
    assert chunk.weights() == (1.0, 1.0, 1.5, *[1.0] * 74)
    assert chunk.rows(3) == (2,) and chunk.rows(1) == ()
    full = Chunk((WORD,) * 75)
    assert full.ids(CLIP, 0)[-1] == EOS and len(full.ids(CLIP, 0)) == len(full.weights()) == 77


tokens = st.text(alphabet="aaaaaaaaaa,|359", max_size=200)


@given(tokens, st.integers(0, 74))
def test_no_rule_loses_reorders_or_overfills(pattern: str, backtrack: int) -> None:
    given_row = row(pattern)
    words = [t for t in given_row if t is not None]
    kept, cut = first_chunk(given_row)
    rules = [at_commas(given_row, backtrack), at_spans(given_row), at_sentences(given_row)]
    for chunks in rules:
        assert [t for chunk in chunks for t in chunk.tokens] == words
        assert all(len(chunk) <= 75 for chunk in chunks)
    assert [*kept[0].tokens, *cut] == words and len(kept) == 1


def test_comfy_moves_a_short_span_whole_and_cuts_a_long_one() -> None:
    def spans(*lengths: int) -> list[Weighted | None]:
        return [Weighted(WORD.piece, 1.0, n) for n, size in enumerate(lengths) for _ in range(size)]

    assert sizes(at_spans(spans(70, 7))) == [70, 7]
    assert sizes(at_spans(spans(70, 8))) == [75, 3]
    assert sizes(at_spans(spans(80))) == [75, 5]
    assert sizes(at_spans(spans())) == [0]


def test_compel_cuts_after_the_last_sentence_then_sign_then_word() -> None:
    def cut(text: str) -> list[int]:
        return sizes(laid_out(text, TOKENIZER, Reading("compel")).terms[0].choices[0].chunks)

    assert cut("a " * 50 + ". " + "a " * 10 + ", " + "a " * 20) == [51, 31]
    assert cut("a " * 50 + ", " + "a " * 30) == [51, 30]
    assert cut("a " * 80) == [75, 5]


def test_truncation_reports_what_it_drops_and_nothing_else_drops() -> None:
    text = "word " * 80
    layout = laid_out(text, TOKENIZER, Reading("plain", truncate=True))
    assert (layout.length, len(layout.cut)) == (1, 5)
    assert laid_out(text, TOKENIZER, Reading("plain")).cut == ()
    assert laid_out(text, TOKENIZER, Reading("plain")).length == 2


def test_spans_are_tokenized_apart_but_equal_neighbours_together() -> None:
    def ids(text: str) -> list[int]:
        chunk = laid_out(text, TOKENIZER).terms[0].choices[0].chunks[0]
        return [token for t in chunk.tokens for token in t.piece.ids]

    assert ids("(a)(b)") == TOKENIZER.encode("ab")
    assert ids("(a)b") == TOKENIZER.encode("a b")
