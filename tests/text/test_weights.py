"""Weights are read as A1111 and ComfyUI read them; the tables are measured with their parsers."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.errors import PromptError
from safelight.text.span import BREAK, MAX_CHARACTERS, Span
from safelight.text.weights import a1111_spans, comfy_spans

R = 1.1
S = 1 / 1.1

# (prompt, A1111, ComfyUI)
TABLE = [
    ("(x)", [("x", R)], [("x", R)]),
    ("((x))", [("x", R * R)], [("x", R * R)]),
    ("[x]", [("x", S)], [("[x]", 1)]),
    ("[[x]]", [("x", S * S)], [("[[x]]", 1)]),
    ("(x:1.2)", [("x", 1.2)], [("x", 1.2)]),
    ("(x:.5)", [("x", 0.5)], [("x", 0.5)]),
    ("(x:-1)", [("x", -1)], [("x", -1)]),
    ("((x:1.2))", [("x", 1.2 * R)], [("x", 1.2)]),
    ("((x:1.2):1.5)", [("x", 1.2 * 1.5)], [("x", 1.2)]),
    (
        "(a (b:1.3) c:1.2)",
        [("a ", 1.2), ("b", 1.3 * 1.2), (" c", 1.2)],
        [("a ", 1.2), ("b", 1.3), (" c", 1.2)],
    ),
    ("[x:1.2]", [("x:1.2", S)], [("[x:1.2]", 1)]),
    ("( x : 1.2 )", [(" x ", 1.2)], [(" x ", 1.2)]),
    ("(x:abc)", [("x:abc", R)], [("x:abc", R)]),
    ("(x:1.2", [("x:1.2", R)], [("(x:1.2", 1)]),
    ("(x", [("x", R)], [("(x", 1)]),
    ("x)", [("x)", 1)], [("x)", 1)]),
    ("(:1.2)", [("", 1)], [(":1.2", R)]),
    ("()", [("", 1)], [("", 1)]),
    ("a BREAK b", [("a", 1), None, ("b", 1)], [("a BREAK b", 1)]),
    (
        "(a BREAK b:1.2)",
        [("a", 1.2), ("BREAK", -1.2), ("b", 1.2)],
        [("a BREAK b", 1.2)],
    ),
    ("aBREAKb", [("aBREAKb", 1)], [("aBREAKb", 1)]),
    ("a break b", [("a break b", 1)], [("a break b", 1)]),
    ("(a)(b)", [("ab", R)], [("a", R), ("b", R)]),
    ("", [("", 1)], [("", 1)]),
]
ONLY_A1111 = [
    (r"\(a\) \[b\] \\ \c", [(r"(a) [b] \ c", 1)]),
    ("(a:1.5.2)", [("a:1.5.2", R)]),  # the original raises here
    ("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).", [
        ("a ", 1), ("house", 1.3 * R * R), (" ", R), ("on", S * R), (" a ", R),
        ("hill", 0.5 * R), (", sun, ", R), ("sky", R * R * R * R), (".", R),
    ]),
    ("([a)b]", [("a", R * S), ("b", S)]),
    ("a BREAK BREAK b", [("a", 1), None, ("", 1), None, ("b", 1)]),
    ("((BREAK:-1):-1)", [("", 1), None, ("", 1)]),
    ("x:1.2)", [("x:1.2)", 1)]),
    ("(a:1) (b:1.0)", [("a b", 1)]),
]  # fmt: skip
ONLY_COMFY = [
    (r"\(a\) (b\):1.5)", [("(a) ", 1), ("b)", 1.5)]),
    ("(a (b)", [("a ", R), ("(b", R)]),
    (")( (a)", [(")( ", 1), ("a", R)]),
    ("foo ((((lol (cat:666) attack:100)))) baz",
     [("foo ", 1), ("lol ", 100), ("cat", 666), (" attack", 100), (" baz", 1)]),
    ("(a:inf)", [("a:inf", R)]),
]  # fmt: skip


def spans(rows: list[tuple[str, float] | None]) -> list[Span]:
    return [BREAK if row is None else Span(*row) for row in rows]


def close(found: tuple[Span, ...], expected: list[Span]) -> bool:
    return [(s.text, s.breaks) for s in found] == [(s.text, s.breaks) for s in expected] and [
        s.weight for s in found
    ] == pytest.approx([s.weight for s in expected], rel=1e-12)


@pytest.mark.parametrize(("text", "a1111", "comfy"), TABLE, ids=[row[0] or "-" for row in TABLE])
def test_table_of_both(text: str, a1111: list, comfy: list) -> None:
    if text in ("(:1.2)", "()"):
        assert "".join(s.text for s in a1111_spans(text)) == ""
    else:
        assert close(a1111_spans(text), spans(a1111))
    assert close(comfy_spans(text), spans(comfy))


@pytest.mark.parametrize(("text", "expected"), ONLY_A1111, ids=[row[0] for row in ONLY_A1111])
def test_table_of_a1111(text: str, expected: list) -> None:
    assert close(a1111_spans(text), spans(expected))


@pytest.mark.parametrize(("text", "expected"), ONLY_COMFY, ids=[row[0] for row in ONLY_COMFY])
def test_table_of_comfy(text: str, expected: list) -> None:
    assert close(comfy_spans(text), spans(expected))


SLOW = {
    "nested and wide": "(" * 120 + "(a:1)" * 15_000 + ")" * 120,
    "colons": ":" * MAX_CHARACTERS,
    "blanks": "a BREAK" + " " * 90_000,
    "backslashes": "\\" * MAX_CHARACTERS,
    "numbers": "(a:" + "1" * 90_000,
    "numbers and blanks": ":1 " * 33_000,
    "unclosed": ("(" * 100 + "a" * 800) * 1,
    "stray": ")" * 50_000 + "(a)" * 16_000,
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("read", [a1111_spans, comfy_spans])
def test_no_text_takes_long(name: str, read) -> None:
    started = time.perf_counter()
    try:
        read(SLOW[name])
    except PromptError:
        assert name == "nested and wide" or "numbers" in name or name == "unclosed"
    assert time.perf_counter() - started < 3


@given(st.text(alphabet="ab()[]:1.2-\\ BREAK,|<>#\n", max_size=60) | st.text(max_size=60))
def test_any_text_is_read_and_no_letter_is_lost(text: str) -> None:
    for read in (a1111_spans, comfy_spans):
        try:
            found = read(text)
        except PromptError:
            continue
        assert found and not any(s.breaks and s.text for s in found)
        written = "".join(s.text for s in found)
        kept = [c for c in text if c in "ab<>#"]
        assert [c for c in written if c in "ab<>#"] == kept


@pytest.mark.parametrize(
    "text", ["(" * 2000, "a" * (MAX_CHARACTERS + 1), "(x:99999999999)", "\ud800"]
)
def test_beyond_the_limits_is_one_line_of_error(text: str) -> None:
    with pytest.raises(PromptError) as caught:
        a1111_spans(text)
    assert "\n" not in str(caught.value)
