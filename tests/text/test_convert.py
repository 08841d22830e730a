"""Converted prompts mean the same as far as the other dialect can say it; notes say the rest."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from safelight.errors import PromptError
from safelight.text.bpe import Tokenizer
from safelight.text.convert import convert
from safelight.text.layout import Reading, laid_out
from safelight.text.prompt import parse_prompt

TOKENIZER = Tokenizer()


def tokens(text: str, dialect) -> list[tuple[int, float]]:
    """Token ids and weights of the first text."""
    prompt = parse_prompt(text, steps=20, dialect=dialect)
    layout = laid_out(prompt.texts[0], TOKENIZER, Reading(dialect))
    return [
        (token, t.weight)
        for term in layout.terms
        for choice in term.choices
        for chunk in choice.chunks
        for t in chunk.tokens
        for token in t.piece.ids
    ]


@pytest.mark.parametrize(
    ("text", "source", "target", "expected"),
    [
        ("a (cat:1.2)", "a1111", "comfy", "a (cat:1.2)"),
        ("a ((cat:1.2)) [dog]", "a1111", "comfy", "a (cat:1.32) (dog:0.909091)"),
        ("((cat:1.2)) [dog]", "comfy", "a1111", r"(cat:1.2) \[dog\]"),
        ("a (red cat:1.2) sat", "a1111", "compel", "a (red cat)1.2 sat"),
        ("a (red cat)1.2 sat--", "compel", "a1111", "a (red cat:1.2) (sat:0.81)"),
        ("a BREAK b", "a1111", "compel", '("a", "b").and()'),
        ('("a", "b").and()', "compel", "a1111", "a BREAK b"),
        ("a AND b:0.5", "a1111", "compel", '("a", "b").and(1, 0.5)'),
        ('("a", "b").blend(3, 1)', "compel", "a1111", "a :0.75 AND b :0.25"),
        ("(a:1.2) b", "a1111", "plain", "a b"),
        ("(a) [b] c:2", "plain", "a1111", r"\(a\) \[b\] c:\2"),
        ("a AND b BREAK <lora:x:1>", "plain", "a1111", r"a A\ND b B\REAK <\lora:x:1>"),
        ("a <lora:x:0.5> b", "a1111", "compel", "a  b withLora(x, 0.5)"),
        ("a withLora(x, 0.5)", "compel", "a1111", "a <lora:x:0.5>"),
        (r"\(a\) (b:1.1)", "a1111", "comfy", r"\(a\) (b:1.1)"),
        ("(cat:1.2)", "a1111", "a1111", "(cat:1.2)"),
    ],
)
def test_table(text: str, source, target, expected: str) -> None:
    written = convert(text, source, target)[0]
    assert re.sub(r"\s+", " ", written) == re.sub(r"\s+", " ", expected)


@pytest.mark.parametrize(
    ("text", "source", "target", "said"),
    [
        ("[a:b:5]", "a1111", "comfy", "over the steps"),
        ("a AND b", "a1111", "comfy", "AND"),
        ("a BREAK b", "a1111", "comfy", "separate chunks"),
        ("a <lora:x:1>", "a1111", "comfy", "<lora:x:1>"),
        ("a # b", "a1111", "plain", "comment"),
        ("(a:1.2)", "a1111", "comfy", "weights act differently"),
        ("(a:1.2)", "a1111", "plain", "no weights"),
        ("(a:-1)", "a1111", "compel", "below 0"),
        ("a #1", "plain", "a1111", "comment"),
        ("c++ code", "plain", "compel", "for syntax"),
        ('("a", "b").blend(1, 1)', "compel", "comfy", "blend"),
    ],
)
def test_what_is_lost_is_said(text: str, source, target, said: str) -> None:
    assert any(said in note for note in convert(text, source, target)[1])


@pytest.mark.parametrize("text", ["a cat", "red, green", "it's 5 o'clock"])
@pytest.mark.parametrize("source", ["a1111", "comfy", "compel", "plain"])
@pytest.mark.parametrize("target", ["a1111", "comfy", "compel", "plain"])
def test_plain_words_need_no_notes(text: str, source, target) -> None:
    written, notes = convert(text, source, target)
    assert notes == () and tokens(written, target) == tokens(text, "plain")


@given(st.text(alphabet="ab 1.:,()[]<>\\|ANDBREK{}+-_", max_size=40))
def test_comfy_and_plain_prompts_keep_every_token_and_weight_in_a1111(text: str) -> None:
    for source in ("comfy", "plain"):
        try:
            expected = tokens(text, source)
        except PromptError:
            assume(False)
        found = tokens(convert(text, source, "a1111")[0], "a1111")
        assert [t for t, _ in found] == [t for t, _ in expected]
        assert [w for _, w in found] == pytest.approx([w for _, w in expected], rel=1e-5)


@example(text="\\\\[1")
@given(st.text(alphabet="ab 1.:,()[]<>\\", max_size=40))
def test_a1111_prompts_of_one_text_keep_every_token_and_weight_in_comfy(text: str) -> None:
    prompt = parse_prompt(text, steps=20)
    assume(len(prompt.texts) == 1 and prompt.parts[0].weight == 1 and not prompt.networks)
    found = tokens(convert(text, "a1111", "comfy")[0], "comfy")
    expected = tokens(text, "a1111")
    assert [t for t, _ in found] == [t for t, _ in expected]
    assert [w for _, w in found] == pytest.approx([w for _, w in expected], rel=1e-5)
