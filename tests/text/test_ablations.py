"""Laws of leaving out one phrase of a prompt at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.errors import PromptError
from safelight.text.ablations import ablations
from safelight.text.prompt import parse_prompt
from safelight.text.span import DIALECTS, MAX_CHARACTERS
from safelight.text.weights import a1111_spans


def left(prompt: str, dialect: str = "a1111") -> dict[str, str]:
    return {a.phrase: a.prompt for a in ablations(prompt, dialect=dialect)}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat, a dog", {"a cat": "a dog", "a dog": "a cat"}),
        (
            "a red fox in the snow, oil painting, by Rembrandt",
            {
                "a red fox": "in the snow, oil painting, by Rembrandt",
                "in the snow": "a red fox, oil painting, by Rembrandt",
                "oil painting": "a red fox in the snow, by Rembrandt",
                "by Rembrandt": "a red fox in the snow, oil painting",
            },
        ),
        ("a cat and a dog", {"a cat": "a dog", "and a dog": "a cat"}),
        ("a glass of water", {"a glass of water": ""}),
        ("cat,, dog,", {"cat": "dog", "dog": "cat"}),
        ("", {}),
        (" , ,", {}),
    ],
)
def test_phrases_end_at_commas_and_before_linking_words(
    prompt: str, expected: dict[str, str]
) -> None:
    assert left(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "(a cat, in a hat:1.2), [dog:bird:0.5], sun",
            {
                "(a cat, in a hat:1.2)": "[dog:bird:0.5], sun",
                "[dog:bird:0.5]": "(a cat, in a hat:1.2), sun",
                "sun": "(a cat, in a hat:1.2), [dog:bird:0.5]",
            },
        ),
        (r"a \(b, c\), d", {r"a \(b": r"c\), d", r"c\)": r"a \(b, d", "d": r"a \(b, c\)"}),
        ("a, (b, c", {"a": "(b, c", "(b, c": "a"}),  # unclosed: to the end, as A1111 reads it
        ("a), b", {"a)": "b", "b": "a)"}),
    ],
)
def test_what_stands_in_brackets_stays_whole(prompt: str, expected: dict[str, str]) -> None:
    assert left(prompt) == expected


def test_tags_and_weights_of_parts_stay_when_their_phrase_goes() -> None:
    assert left("a cat <lora:x:0.5>, a dog") == {
        "a cat": "<lora:x:0.5>, a dog",
        "a dog": "a cat <lora:x:0.5>",
    }
    assert left("<lora:x:0.5>") == {}
    assert left("a cat :0.5 AND a dog, sky :0.8") == {
        "a cat": "a dog, sky :0.8",
        "a dog": "a cat :0.5 AND sky :0.8",
        "sky": "a cat :0.5 AND a dog :0.8",
    }


def test_chunks_that_are_left_empty_go() -> None:
    assert left("a cat BREAK a dog") == {"a cat": "a dog", "a dog": "a cat"}


def test_each_dialect_has_its_own_brackets() -> None:
    assert left("[a, b], c", "comfy") == {"[a": "b], c", "b]": "[a, c", "c": "[a, b]"}
    assert left("(a, b", "comfy") == {"(a": "b", "b": "(a"}
    assert left("(a, b), c", "plain") == {"(a": "b), c", "b)": "(a, c", "c": "(a, b)"}


@given(
    st.lists(st.sampled_from(["cat", "red dog", "sky", "(hat, sun:1.3)", "[a|b]"]), min_size=1),
    st.sampled_from([", ", ",", " , "]),
)
def test_leaving_out_a_phrase_leaves_the_others(phrases: list[str], comma: str) -> None:
    found = ablations(comma.join(phrases))
    assert [a.phrase for a in found] == phrases
    for at, ablation in enumerate(found):
        rest = [p for i, p in enumerate(phrases) if i != at]
        assert [a.phrase for a in ablations(ablation.prompt)] == rest


@given(st.text(alphabet="ab, ()[]:<>\\|AND.5\n#{}", max_size=60), st.sampled_from(DIALECTS))
def test_any_text_is_read_and_what_is_left_can_be_read(text: str, dialect: str) -> None:
    for ablation in ablations(text, dialect=dialect):
        assert len(ablation.prompt) <= len(text) + 2
        parse_prompt(ablation.prompt, dialect=dialect)
        if dialect == "a1111":
            a1111_spans(ablation.prompt)


def test_endless_prompts_are_refused() -> None:
    with pytest.raises(PromptError, match="characters"):
        ablations("a," * MAX_CHARACTERS)
    with pytest.raises(PromptError, match=r"at most 100 phrases .* has 101"):
        ablations("a," * 101)
