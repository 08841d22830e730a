"""Schedules and alternations as A1111 expands them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.errors import PromptError, RequestError
from safelight.text.scheduling import Clock, schedule, switched_off
from safelight.text.span import MAX_CHARACTERS


def at(text: str, steps: int = 20, earlier: int | None = None) -> list[tuple[int, str]]:
    return [(s.last, s.text) for s in schedule(text, Clock(steps, earlier))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", [(20, "plain")]),
        ("[a:b:0.5]", [(10, "a"), (20, "b")]),
        ("[a:b:5]", [(5, "a"), (20, "b")]),
        ("[b:5]", [(5, ""), (20, "b")]),
        ("[a::5]", [(5, "a"), (20, "")]),
        ("[a:b:1]", [(1, "a"), (20, "b")]),
        ("[a:b:1.0]", [(20, "a")]),
        ("[a:b:0]", [(20, "b")]),
        ("[a:b:0.0]", [(20, "b")]),
        ("[a:b:-1]", [(20, "b")]),
        ("[a:b:25]", [(20, "a")]),
        ("[a:[b:c:15]:5]", [(5, "a"), (15, "b"), (20, "c")]),
        ("[(a:1.2):b:10]", [(10, "(a:1.2)"), (20, "b")]),
        ("[a:b: 0.5 ]", [(10, "a"), (20, "b")]),
        ("[a:b]", [(20, "[a:b]")]),
        ("[x:1.2]", [(20, "")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (20, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (20, "ade")]),
        ("a [[[b]]:2]", [(2, "a "), (20, "a [[b]]")]),
        ("a [unbalanced", [(20, "a [unbalanced")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (20, "((a][:b:c d")]),
        (r"[a\:b:c\]d:5]", [(5, r"a\:b"), (20, r"c\]d")]),
        ("[a:b:1e1]", [(10, "a"), (20, "b")]),
        ("[a:(b:c:d):5]", [(20, "[a:(b:c:d):5]")]),
        ("a|b [c:d:5]", [(20, "a|b [c:d:5]")]),
        ("[c:d:5] \\", [(20, "[c:d:5] \\")]),
        ("[a|b:5]", [(20, "[a|b:5]")]),
    ],
)  # fmt: skip
def test_table_of_schedules(text: str, expected: list[tuple[int, str]]) -> None:
    assert at(text) == expected


def test_alternation_takes_turns_from_the_first() -> None:
    assert [text for _, text in at("[a|b|c]", 7)] == ["a", "b", "c", "a", "b", "c", "a"]
    assert at("[fe|]male", 3) == [(1, "female"), (2, "male"), (3, "female")]
    assert [t for _, t in at("[fe|||]male", 5)] == ["female", "male", "male", "male", "female"]
    assert [t for _, t in at("[[a|b]:c:2]", 4)] == ["a", "b", "c", "c"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a:b:1.5]", [(5, "a"), (10, "b")]),
        ("[a:b:25]", [(5, "a"), (10, "b")]),
        ("[a:b:0.5]", [(10, "b")]),
        ("[a:b:5]", [(10, "b")]),
        ("[a|b]", [(n, "ab"[(n - 1) % 2]) for n in range(1, 11)]),
    ],
)
def test_in_the_hires_pass_fractions_count_from_one_and_steps_go_on(text, expected) -> None:
    assert at(text, 10, earlier=20) == expected


@pytest.mark.parametrize("when", ["1" * 400, "-" + "9" * 400, "1" * 400 + ".0", "1e999"])
def test_absurd_numbers_are_beyond_the_last_step_or_before_the_first(when: str) -> None:
    assert at(f"[a:b:{when}]") == [(20, "b" if when[0] == "-" else "a")]


@pytest.mark.parametrize("text", ["a|b [c:d:5]", "[a:b:0.5] \\", "(a|b) [c|d]"])
def test_a_stray_bar_switches_scheduling_off_and_that_is_known(text: str) -> None:
    assert switched_off(text) and not switched_off(text.replace("|", ",").rstrip("\\"))


@given(st.text(alphabet="ab[]()|:5.\\ ", max_size=60), st.integers(1, 12))
def test_any_text_is_read_and_ends_at_the_last_step(text: str, steps: int) -> None:
    switches = schedule(text, Clock(steps))
    lasts = [s.last for s in switches]
    assert lasts == sorted(set(lasts)) and lasts[-1] == steps and lasts[0] >= 1
    if not set(text) & set("[]"):
        assert [s.text for s in switches] == [text]


@pytest.mark.parametrize(
    "text",
    ["[" * 120 + "a:b:5]" * 120, "[a|b]" * 20_000, "[a" * 100 + "|b]" * 100, "[|" * 60 + "]" * 60,
     ":" * MAX_CHARACTERS, "[a:b:" + "1" * 90_000, "[" + "|" * 90_000, "[a:b]" * 20_000],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    started = time.perf_counter()
    schedule(text, Clock(20))
    switched_off(text)
    assert time.perf_counter() - started < 5


def test_limits_are_errors() -> None:
    with pytest.raises(PromptError):
        at("[" * 1000)
    with pytest.raises(RequestError):
        at("a", 0)
