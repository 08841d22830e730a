"""What a judge reads of a prompt: its words, and nothing of its syntax."""

import pytest

from safelight.clip.words import plain_words
from safelight.errors import PromptError
from safelight.text.span import Dialect


@pytest.mark.parametrize(
    ("dialect", "prompt", "words"),
    [
        ("a1111", "a cat", "a cat"),
        ("a1111", "a (red:1.4) apple, [dim], ((bright))", "a red apple, dim, bright"),
        ("a1111", "a cat <lora:style:0.8>, <lora:x:1> sitting", "a cat, sitting"),
        ("a1111", "a cat BREAK on a mat", "a cat, on a mat"),
        ("a1111", "a cat AND a dog:0.5 AND rain:-0.4", "a cat, a dog"),
        ("a1111", "a [cat:dog:0.3]", "a dog"),
        ("a1111", "a [cat:dog:0.8]", "a cat"),
        ("a1111", "a [cat:dog:0.5]", "a dog"),
        ("a1111", "a \\(small\\) cat # a comment", "a (small) cat"),
        ("comfy", "a (red:1.4) apple, embedding:style.pt, [x]", "a red apple, [x]"),
        ("compel", "a red+++ apple--", "a red apple"),
        ("plain", "a (red:1.4) apple", "a (red:1.4) apple"),
        ("a1111", " , ,", ""),
        ("a1111", "", ""),
    ],
)
def test_the_plain_words_of_a_prompt(dialect: Dialect, prompt: str, words: str) -> None:
    assert plain_words(prompt, dialect=dialect) == words


def test_a_prompt_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(PromptError):
        plain_words("(" * 300 + "x" + ")" * 300)
