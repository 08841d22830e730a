"""Token ids are those of both reference tokenizers, and pieces say where tokens come from."""

import subprocess
import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.text.bpe import Tokenizer, token_text
from text_oracles import odd_strings, open_clip_tokenizer, recorded_ids, transformers_tokenizer

OPENAI = Tokenizer("openai")
TRANSFORMERS = Tokenizer("transformers")
BOS, EOS = 49406, 49407  # as published


@pytest.fixture(scope="module")
def theirs():
    return transformers_tokenizer()


def test_ids_equal_those_recorded_from_open_clip() -> None:
    recorded = recorded_ids()
    assert [s for s, ids in recorded.items() if OPENAI.encode(s) != ids] == []
    assert len(recorded) > 480


def test_ids_equal_open_clips() -> None:
    oracle = open_clip_tokenizer()
    assert [s for s in odd_strings() if OPENAI.encode(s) != oracle.encode(s)] == []


def test_ids_equal_transformers(theirs) -> None:
    strings = odd_strings()
    expected = theirs(strings, add_special_tokens=False)["input_ids"]
    pairs = zip(strings, expected, strict=True)
    assert [s for s, ids in pairs if TRANSFORMERS.encode(s) != ids] == []


def test_start_and_end_are_the_published_ids(theirs) -> None:
    assert theirs("")["input_ids"] == [BOS, EOS]


def test_the_two_cleanings_differ_where_they_are_known_to() -> None:
    """Entities, mojibake, ligatures, full width and control characters; not ordinary text."""
    full_width, office, odysseus = "\uff26\uff35", "o\ufb03ce", "\u039f\u0394\u03a5\u03a3"
    for text in ("&amp;", "schÃ¶n", office, full_width, "\x01", odysseus, "“x”"):
        assert OPENAI.encode(text) != TRANSFORMERS.encode(text), text
    for text in ("A photo of a cat", "it's 3.14", "naïve", "猫"):
        assert OPENAI.encode(text) == TRANSFORMERS.encode(text), text


@pytest.mark.parametrize("tokenizer", [OPENAI, TRANSFORMERS], ids=["openai", "transformers"])
@given(text=st.text())
def test_pieces_cover_the_cleaned_text_in_order(tokenizer: Tokenizer, text: str) -> None:
    text = text.encode("utf-8", "replace").decode("utf-8")
    cleaned = tokenizer.clean(text)
    pieces = tokenizer.pieces(text)
    assert all(0 <= p.start < p.end <= len(cleaned) for p in pieces)
    assert all(a.start <= b.start and a.end <= b.end for a, b in pairwise(pieces))
    covered = {i for p in pieces for i in range(p.start, p.end)}
    assert all(cleaned[i].isspace() for i in set(range(len(cleaned))) - covered)


def test_pieces_of_whole_characters_say_their_own_text() -> None:
    pieces = OPENAI.pieces("A Naïve cat's hat, 4k")
    cleaned = OPENAI.clean("A Naïve cat's hat, 4k")
    assert [cleaned[p.start : p.end] for p in pieces] == [
        p.text.removesuffix("</w>") for p in pieces
    ]
    assert [token_text(p.ids[0]) for p in pieces] == [p.text for p in pieces]


def test_a_word_of_100_000_letters_takes_no_time() -> None:
    started = time.perf_counter()
    ids = OPENAI.encode("ab" * 50_000)
    assert time.perf_counter() - started < 5 and ids[0] == OPENAI.encode("ab" * 20)[0]


def test_triggers_of_letters_are_found_by_ids_and_the_longest_wins() -> None:
    tokenizer = OPENAI.with_triggers({"my style": (49408, 49409), "my style two": (49410,)})
    assert tokenizer.encode("a My Style, my style two!") == [
        *OPENAI.encode("a"), 49408, 49409, *OPENAI.encode(","), 49410, *OPENAI.encode("!"),
    ]  # fmt: skip
    assert tokenizer.encode("mystyle") == OPENAI.encode("mystyle")


def test_triggers_in_angle_brackets_are_found_inside_runs_of_signs() -> None:
    tokenizer = OPENAI.with_triggers({"<cat-toy>": (49408,)})
    assert tokenizer.encode("a <cat-toy>, b") == [
        *OPENAI.encode("a"), 49408, *OPENAI.encode(", b"),
    ]  # fmt: skip
    place = next(p for p in tokenizer.pieces("a <cat-toy>, b") if p.trigger)
    assert (place.start, place.end, place.text) == (2, 11, "<cat-toy>")


def test_reading_prompts_imports_no_torch_and_is_quick() -> None:
    program = (
        "import sys, time; start = time.perf_counter();"
        "from safelight.text.inspection import inspect_prompt;"
        "inspect_prompt('a (cat:1.2), [dog:bird:0.5]');"
        "print(time.perf_counter() - start, 'torch' in sys.modules, 'tokenizers' in sys.modules)"
    )
    seconds, torch, tokenizers = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert torch == tokenizers == "False"
    assert float(seconds) < 1.0  # 0.1 s on an idle machine


@settings(max_examples=50)
@given(st.text(max_size=200))
def test_no_text_is_refused(text: str) -> None:
    text = text.encode("utf-8", "replace").decode("utf-8")
    assert all(0 <= token <= EOS for token in OPENAI.encode(text) + TRANSFORMERS.encode(text))
