"""A prompt is read in A1111's order: comments, styles, tags, AND, schedules."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.errors import PromptError
from safelight.text.inspection import inspect_prompt
from safelight.text.networks import take_networks
from safelight.text.prompt import parse_prompt, split_and, without_comments
from safelight.text.span import DIALECTS
from safelight.text.styles import Style


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a AND b", [("a", 1.0), (" b", 1.0)]),
        ("a :1.2 AND b:0.8 AND c:-0.5", [("a", 1.2), (" b", 0.8), (" c", -0.5)]),
        ("a:b AND c", [("a:b", 1.0), (" c", 1.0)]),
        ("a aAND b", [("a aAND b", 1.0)]),
        ("a and b", [("a and b", 1.0)]),
        ("a cat:0.5", [("a cat", 0.5)]),
        ("(a:1.2)", [("(a:1.2)", 1.0)]),
        ("a:1. AND b:.5 AND c:+2", [("a", 1.0), (" b", 0.5), (" c", 2.0)]),
        ("d:1e3", [("d:1e3", 1.0)]),
        ("a:1:2", [("a:1", 2.0)]),
        ("", [("", 1.0)]),
    ],
)  # fmt: skip
def test_and_table(text: str, expected: list[tuple[str, float]]) -> None:
    assert split_and(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a # b", "a \n"),
        ("# a\nb", "\nb"),
        ("a\n# b\nc", "a\nc"),
        ("a # b\nc", "a \nc"),
        ("no comment", "no comment"),
    ],
)
def test_comments_leave_a_line_break(text: str, expected: str) -> None:
    assert without_comments(text)[0] == expected


@pytest.mark.parametrize(
    ("tag", "name", "te", "unet", "dyn"),
    [
        ("<lora:file:0.8>", "file", 0.8, 0.8, None),
        ("<lora:file>", "file", 1.0, 1.0, None),
        ("<lora:file:0.5:0.9>", "file", 0.5, 0.9, None),
        ("<lora:file:te=0.5:unet=0.9:dyn=8>", "file", 0.5, 0.9, 8),
        ("<lora:file:0.5:unet=0.9>", "file", 0.5, 0.9, None),
        ("<lora:a b.c:-1>", "a b.c", -1.0, -1.0, None),
    ],
)
def test_lora_tags_are_cut_out_and_read(tag: str, name: str, te, unet, dyn) -> None:
    text, networks = take_networks(f"a {tag} b")
    assert text == "a  b" and str(networks[0]) == tag
    own = networks[0]
    assert (own.kind, own.name, own.text_weight, own.unet_weight, own.dyn) == (
        "lora", name, te, unet, dyn,
    )  # fmt: skip


def test_tags_keep_their_order_and_what_is_none_stays() -> None:
    text, networks = take_networks("<a b> <lora:x:1><hypernet:y:0.5> <z:> a < b > c <lora:open")
    assert text == "<a b>  <z:> a < b > c <lora:open"
    assert [(n.kind, n.name) for n in networks] == [("lora", "x"), ("hypernet", "y")]
    assert take_networks("<lora:" * 30_000)[1] == ()


def test_a_weight_that_is_none_is_an_error_naming_the_tag() -> None:
    with pytest.raises(PromptError, match="<lora:x:high>"):
        _ = take_networks("<lora:x:high>")[1][0].text_weight


def test_the_order_of_evaluation() -> None:
    styles = [Style("s", "art of {prompt}, <lora:s:1>"), Style("t", "4k AND sky:0.5")]
    prompt = parse_prompt("[cat:dog:2] # AND <lora:no>", steps=4, styles=styles)
    assert [n.name for n in prompt.networks] == ["s"]
    assert [part.weight for part in prompt.parts] == [1.0, 0.5]
    assert [(s.last, s.text) for s in prompt.parts[0].switches] == [
        (2, "art of cat \n, , 4k"), (4, "art of dog \n, , 4k"),
    ]  # fmt: skip
    assert prompt.parts[1].switches[0].text == " sky"
    assert any("comment" in note for note in prompt.notes)


def test_the_negative_prompt_is_not_split_and_keeps_tags_as_text() -> None:
    prompt = parse_prompt("a AND b <lora:x:1> [c:d:1]:0.5", steps=2, negative=True)
    assert len(prompt.parts) == 1 and prompt.networks == () and prompt.parts[0].weight == 1
    assert prompt.texts == ("a AND b <lora:x:1> c:0.5", "a AND b <lora:x:1> d:0.5")
    assert len(prompt.notes) == 2


def test_two_calls_a_step_double_the_count() -> None:
    prompt = parse_prompt("[a:b:0.5] [c:d:5]", steps=10, calls_per_step=2)
    assert [(s.last, s.text) for s in prompt.parts[0].switches] == [
        (5, "a c"), (10, "a d"), (20, "b d"),
    ]  # fmt: skip
    hires = parse_prompt("[a:b:1.5] [c:d:50]", steps=10, calls_per_step=2, earlier_steps=20)
    assert [(s.last, s.text) for s in hires.parts[0].switches] == [(10, "a c"), (20, "b d")]
    assert [hires.parts[0].at(call) for call in (1, 10, 11, 20, 99)] == [
        "a c", "a c", "b d", "b d", "b d",
    ]  # fmt: skip


@pytest.mark.parametrize("dialect", ["comfy", "compel", "plain"])
def test_other_dialects_know_no_a1111_syntax_but_take_styles(dialect) -> None:
    text = "a AND b <lora:x:1> [c:d:5] # e"
    prompt = parse_prompt(text, steps=9, dialect=dialect, styles=[Style("s", "4k")])
    assert prompt.texts == (f"{text}, 4k",) and prompt.networks == ()
    assert any("looks like" in note for note in prompt.notes)


@pytest.mark.parametrize(
    ("text", "dialect", "said"),
    [
        ("a cat++", "a1111", "compel"),
        ("(a cat)1.3", "a1111", "compel"),
        ('("a", "b").blend(1, 1)', "a1111", "compel"),
        ("embedding:glow", "a1111", "ComfyUI"),
        ("(a:1.2)", "plain", "weight"),
        ("(a:1.2)", "compel", "weight"),
        ("a BREAK b", "comfy", "BREAK"),
        ("[x:1.2]", "a1111", "after the last step"),
        ("a:1.2", "a1111", "weight"),
        ("a|b [c:d:5]", "a1111", "plain text"),
    ],
)
def test_what_surprises_is_said(text: str, dialect, said: str) -> None:
    assert any(said in note for note in parse_prompt(text, steps=20, dialect=dialect).notes)


@pytest.mark.parametrize(
    "text", ["a cat", "(a:1.2), [b], [c:d:5], e BREAK f", "rock'n'roll", "well-known"]
)
def test_ordinary_prompts_are_met_in_silence(text: str) -> None:
    assert parse_prompt(text, steps=20).notes == ()


def test_an_inspection_tells_tokens_timeline_networks_and_what_diffusers_would_drop() -> None:
    found = inspect_prompt(
        "(cat:1.5) [a:b:0.25] <lora:x:0.7> AND " + "tree " * 80 + ":0.5", steps=8
    )
    assert found.calls == 8 and [part.weight for part in found.parts] == [1.0, 0.5]
    first = found.parts[0].timeline
    assert [(s.first, s.last) for s in first] == [(1, 2), (3, 8)]
    assert [(t.text, t.weight) for t in first[0].report.chunks[0].tokens] == [
        ("cat</w>", 1.5), ("a</w>", 1.0),
    ]  # fmt: skip
    assert found.parts[1].timeline[0].report.tokens == 80
    assert any("drop 5 tokens" in note for note in found.notes)
    data = found.to_json()
    assert json.loads(json.dumps(data)) == data
    assert data["networks"] == [{"kind": "lora", "name": "x", "arguments": ["x", "0.7"]}]
    assert len(data["texts"]) == 3


@pytest.mark.parametrize("dialect", DIALECTS)
@given(
    text=st.text(alphabet='ab ANDBREK()[]{}|:,.<>+-"\\#\n01lora=_', max_size=80)
    | st.lists(
        st.sampled_from(
            ["(", ")", "[", "]", ":", "|", "a", " ", "1.2", "AND", "BREAK", "<lora:x:1>", "\\",
             '"', ").and(", ").blend(1,2)", "++", "-", "#", "\n", ".swap(", "embedding:a"]
        ),
        max_size=25,
    ).map("".join)
    | st.text(max_size=50),
)  # fmt: skip
def test_no_text_raises_anything_but_prompt_errors(dialect, text: str) -> None:
    with suppress(PromptError):
        inspect_prompt(text, steps=3, dialect=dialect).to_json()
