"""Laws of words: where their tokens stand in a condition, and what a recorder says of them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from safelight.errors import PromptError
from safelight.models.attention import Look
from safelight.models.attention_recorder import AttentionRecorder
from safelight.text.bpe import Tokenizer
from safelight.text.layout import DEFAULT, Reading
from safelight.text.word_maps import phrases_of, token_rows, word_maps, words_of

TOKENIZER = Tokenizer()


def rows(text: str, reading: Reading = DEFAULT, tokenizer: Tokenizer = TOKENIZER):
    return [(span.word, span.rows) for span in words_of(text, tokenizer, reading)]


def test_words_stand_after_the_start_in_order_and_signs_take_places_too() -> None:
    assert rows("a Red cat, a dog!") == [
        ("a", (1,)),
        ("red", (2,)),
        ("cat", (3,)),
        ("a", (5,)),
        ("dog", (6,)),
    ]
    assert token_rows("a Red cat, a dog!", TOKENIZER) == (1, 2, 3, 4, 5, 6, 7)
    assert rows("") == [] and token_rows("", TOKENIZER) == ()


def test_a_word_of_several_tokens_has_several_rows() -> None:
    ids = TOKENIZER.encode("xylophonic")
    assert len(ids) > 1
    assert rows("a xylophonic cat") == [
        ("a", (1,)),
        ("xylophonic", tuple(range(2, 2 + len(ids)))),
        ("cat", (2 + len(ids),)),
    ]


def test_weights_move_no_word_and_breaks_begin_a_chunk() -> None:
    assert rows("a (red:1.3) [cat]") == rows("a red cat")
    assert rows("a cat BREAK red dog") == [
        ("a", (1,)),
        ("cat", (2,)),
        ("red", (78,)),
        ("dog", (79,)),
    ]


def test_rows_are_those_of_the_ids_that_are_encoded_however_long_the_text() -> None:
    text = ", ".join(f"number {i} of a long list" for i in range(30))
    from safelight.text.layout import laid_out

    term = laid_out(text, TOKENIZER).terms[0]
    assert term.length > 2
    every = [i for chunk in term.choices[0].chunks for i in chunk.ids(TOKENIZER.vocabulary)]
    for span in words_of(text, TOKENIZER):
        assert [every[row] for row in span.rows] == TOKENIZER.encode(span.word)


def test_compels_terms_stand_one_after_the_other() -> None:
    found = rows('("red cat", "blue dog").and()', Reading("compel"))
    assert found == [("red", (1,)), ("cat", (2,)), ("blue", (78,)), ("dog", (79,))]


def test_a_trigger_is_one_word_of_all_its_vectors() -> None:
    tokenizer = TOKENIZER.with_triggers({"<toy>": (49408, 49409)})
    assert rows("a <toy> cat", tokenizer=tokenizer) == [
        ("a", (1,)),
        ("<toy>", (2, 3)),
        ("cat", (4,)),
    ]


def test_a_phrase_has_the_rows_of_all_its_places() -> None:
    text = "a red cat and a red dog"
    (cat, red) = phrases_of(text, ["Red  Cat", "red"], TOKENIZER)
    assert cat.word == "Red  Cat" and cat.rows == (2, 3)
    assert red.rows == (2, 6)


@pytest.mark.parametrize("phrase", ["hat", "ca", "cat dog", "", "  "])
def test_a_phrase_that_is_not_there_is_refused_with_the_words_that_are(phrase: str) -> None:
    with pytest.raises(PromptError, match="its words are a, red, cat"):
        phrases_of("a red cat", [phrase], TOKENIZER)


def look(weights: Tensor, size: tuple[int, int]) -> Look:
    """One attention of one head whose map is `weights` (N, L): keys are the unit vectors."""
    length = weights.shape[1]
    query = weights.log() * length**0.5
    context = torch.eye(length)[None]
    return Look("attn2", True, size, 1, query[None], context, context)


def test_maps_of_words_are_the_attention_they_get_and_shares_sum_to_1() -> None:
    size, text = (4, 6), "a red cat"
    raw = torch.rand(24, 77, generator=torch.Generator().manual_seed(0)) + 0.01
    weights = raw / raw.sum(1, keepdim=True)
    recorder = AttentionRecorder({text: torch.eye(77)})
    recorder.saw(look(weights, size))
    spans = words_of(text, TOKENIZER)
    maps = word_maps(recorder, text, spans, size, tokens=token_rows(text, TOKENIZER))
    assert [m.word for m in maps] == ["a", "red", "cat"]
    for number, found in enumerate(maps, start=1):
        assert found.heat.shape == size and found.heat.dtype == np.float32
        np.testing.assert_allclose(found.heat, weights[:, number].view(size), rtol=1e-4)
        share = float(weights[:, number].sum() / weights[:, 1:4].sum())
        assert found.share == pytest.approx(share, rel=1e-4)
    assert sum(m.share for m in maps) == pytest.approx(1)
    (both,) = word_maps(
        recorder, text, phrases_of(text, ["red cat"], TOKENIZER), size, tokens=(1, 2, 3)
    )
    np.testing.assert_allclose(both.heat, maps[1].heat + maps[2].heat, rtol=1e-6)
