"""compel's language; the tables are measured with compel 2.5.1."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.errors import PromptError
from safelight.text.compel import read_compel


def spans(text: str) -> list[tuple[str, float]]:
    terms = read_compel(text).terms
    assert len(terms) == 1 and terms[0].shares == (1.0,) and terms[0].weight == 1
    return [(s.text, pytest.approx(s.weight)) for s in terms[0].texts[0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("a cat++ sat-", [("a", 1), ("cat", 1.21), ("sat", 0.9)]),
        ("(red cat)1.3", [("red cat", 1.3)]),
        ("(red cat)+ on (a mat)0.5", [("red cat", 1.1), ("on", 1), ("a mat", 0.5)]),
        ("((red)+ cat)1.5", [("red", 1.1 * 1.5), ("cat", 1.5)]),
        ('"red cat"++', [("red cat", 1.21)]),
        ("(red cat)", [("red cat", 1)]),
        ("cat.attend(1.4)", [("cat", 1.4)]),
        ("(x)2", [("x", 2)]),
        ("(x)-1.5", [("x", 0.9), ("1.5", 1)]),
        ("well-known c+ +", [("well-known", 1), ("c", 1.1), ("+", 1)]),
        ("a,b", [("a, b", 1)]),
        ("cat++, dog", [("cat", 1.21), (", dog", 1)]),
        ("hello(world)1.5", [("hello(world)1.5", 1)]),
        ("(unclosed cat", [("(unclosed cat", 1)]),
        ("(a + b)", [("(a + b)", 1)]),
        ("(a=b)1.2", [("(a=b)1.2", 1)]),
        (r"\(a\)++ \"b\"", [("(a)", 1.21), ('"b"', 1)]),
        ("", [("", 1)]),
    ],
)
def test_table_of_weights(text: str, expected: list[tuple[str, float]]) -> None:
    assert spans(text) == expected


def test_blends_are_normalised_unless_told_otherwise() -> None:
    (term,) = read_compel('("a cat", "a dog+", bird).blend(1, 2, 1)').terms
    assert term.shares == (0.25, 0.5, 0.25)
    assert [[(s.text, s.weight) for s in text] for text in term.texts] == [
        [("a cat", 1)], [("a", 1), ("dog", 1.1)], [("bird", 1)],
    ]  # fmt: skip
    assert read_compel('("a", "b").blend(1, -2, no_normalize)').terms[0].shares == (1.0, -2.0)
    assert read_compel('("a", "b").blend()').terms[0].shares == (0.5, 0.5)


def test_and_gives_terms_with_weights() -> None:
    terms = read_compel('("a cat", "b").and(1, 0.5)').terms
    assert [term.weight for term in terms] == [1.0, 0.5]
    assert [term.weight for term in read_compel('("a", "b").and()').terms] == [1.0, 1.0]


def test_loras_are_handed_on() -> None:
    reading = read_compel("a cat withLora(style, 0.5) useLora(other)")
    assert [(n.name, n.unet_weight) for n in reading.networks] == [("style", 0.5), ("other", 1.0)]
    assert [s.text for s in reading.terms[0].texts[0]] == ["a cat"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('("a", "b").blend(1)', "2 texts"),
        ('("a", "b").and(x, y)', "numbers"),
        ('("a", "b").blend(1, -1)', "add up to 0"),
        ('("a", "b").and() and more', "and more"),
        ("cat.swap(dog)", "swap"),
        ("(" * 3000, "deep"),
        ("a" + "+" * 5000, "weight"),
    ],
)
def test_what_cannot_be_is_an_error(text: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        read_compel(text)


@pytest.mark.parametrize(
    "text",
    ["(a " * 100 + "= " + ")" * 100, "(a = " * 20_000, '"' * 50_000, "(a)1.2 " * 14_000,
     "(" + "word " * 19_000, '("a"' * 100, '("a", ' * 15_000, "a+" * 50_000],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    started = time.perf_counter()
    try:
        read_compel(text)
    except PromptError:
        assert "(" in text
    assert time.perf_counter() - started < 5


@given(st.text(alphabet='ab ()"+-.,=\\12', max_size=60))
def test_letters_are_never_lost(text: str) -> None:
    try:
        reading = read_compel(text)
    except PromptError:
        return
    written = "".join(s.text for term in reading.terms for t in term.texts for s in t)
    assert [c for c in written if c in "ab"] == [c for c in text if c in "ab"]
