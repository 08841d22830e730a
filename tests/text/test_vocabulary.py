"""Vocabularies in CLIP's form: ids follow from merges, and transformers agrees on every one."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.errors import CheckpointError
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.text.bpe import Tokenizer, token_text
from safelight.text.chunks import caption_ids
from safelight.text.conditioner import Conditioner
from safelight.text.report import reported
from safelight.text.spec import TextRole, TextSpec
from safelight.text.vocabulary import (
    CLIP_VOCABULARY,
    Vocabulary,
    check_ids,
    merges_file,
    merges_text,
    vocabulary_of,
)
from text_oracles import odd_strings

MERGES = (
    ("a", "p"), ("p", "l"), ("e", "d</w>"), ("r", "ed</w>"), ("ap", "pl"), ("appl", "e</w>"),
    ("â", "Ń"), ("c", "a"), ("ca", "t</w>"),
)  # fmt: skip
SMALL = Vocabulary(MERGES)


def theirs(vocabulary: Vocabulary):
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    return CLIPTokenizer(vocab=dict(vocabulary.ids), merges=list(vocabulary.merges))


def test_clips_own_is_the_published_one() -> None:
    assert (CLIP_VOCABULARY.size, CLIP_VOCABULARY.bos, CLIP_VOCABULARY.eos) == (49408, 49406, 49407)
    assert len(CLIP_VOCABULARY.tokens) == len(CLIP_VOCABULARY.ids) == 49408
    assert CLIP_VOCABULARY.ids["cat</w>"] == 2368  # of the published vocab.json
    again = Vocabulary(CLIP_VOCABULARY.merges)  # and checked as any other
    assert again == CLIP_VOCABULARY and hash(again) == hash(CLIP_VOCABULARY)
    assert again.digest == CLIP_VOCABULARY.digest


def test_ids_follow_from_the_merges() -> None:
    assert (SMALL.size, SMALL.bos, SMALL.eos) == (523, 521, 522)
    assert SMALL.tokens[512:521] == tuple(a + b for a, b in MERGES)
    assert SMALL != CLIP_VOCABULARY and Vocabulary(MERGES[:-1]) != SMALL
    assert Tokenizer(vocabulary=SMALL).encode("red apple") == [515, 517]
    assert [token_text(i, SMALL) for i in (515, 521, 522, 523)] == [
        "red</w>", "<|startoftext|>", "<|endoftext|>", "<row 523>",
    ]  # fmt: skip


def test_two_vocabularies_never_share_what_was_remembered() -> None:
    clip, small = Tokenizer(), Tokenizer(vocabulary=SMALL)
    assert clip.encode("cat") == [2368] and small.encode("cat") == [520]
    assert clip.encode("cat") == [2368]


def test_ids_of_an_own_vocabulary_equal_transformers() -> None:
    strings = [*odd_strings(), "a red apple, cats' <|endoftext|> cat"]
    expected = theirs(SMALL)(strings, add_special_tokens=False)["input_ids"]
    tokenizer = Tokenizer("transformers", vocabulary=SMALL)
    pairs = zip(strings, expected, strict=True)
    assert [s for s, ids in pairs if tokenizer.encode(s) != ids] == []


@settings(max_examples=40)
@given(st.text(max_size=60), st.integers(0, len(MERGES)))
def test_pieces_cover_any_text_in_any_vocabulary(text: str, count: int) -> None:
    text = text.encode("utf-8", "replace").decode("utf-8")
    tokenizer = Tokenizer(vocabulary=Vocabulary(MERGES[:count]))
    pieces = tokenizer.pieces(text)
    assert all(a.start <= b.start and a.end <= b.end for a, b in pairwise(pieces))
    assert all(0 <= i < tokenizer.vocabulary.size for p in pieces for i in p.ids)


def test_captions_are_framed_by_the_vocabularys_own_start_and_end() -> None:
    tokenizer = Tokenizer(vocabulary=SMALL)
    assert caption_ids("red apple", tokenizer) == (521, 515, 517, *[522] * 74)
    assert caption_ids("red apple", tokenizer, 0) == (521, 515, 517, 522, *[0] * 73)
    long = caption_ids("red " * 100, tokenizer)
    assert len(long) == 77 and long[1:76] == (515,) * 75 and long[76] == 522
    assert caption_ids("a cat", Tokenizer())[:4] == (49406, 320, 2368, 49407)


def test_a_spelled_end_of_text_is_noticed_in_the_own_vocabulary() -> None:
    report = reported("red <end_of_text>", Tokenizer(vocabulary=SMALL))
    assert any("spells out the end of text" in note for note in report.notes)
    assert report.chunks[0].tokens[-1].ids == (522,)


def test_the_conditioner_reads_captions_as_encoders_are_trained_on_them() -> None:
    import torch

    config = ClipTextConfig(2, 16, 2, 32, projection=8, vocabulary=SMALL.size, eos_id=SMALL.eos)
    torch.manual_seed(0)
    encoder = ClipText(config).eval().requires_grad_(False)
    conditioner = Conditioner(TextSpec((TextRole(config),), vocabulary=SMALL), [encoder])
    assert conditioner.tokenizer == Tokenizer(vocabulary=SMALL)
    ids = torch.tensor([caption_ids("a red apple", conditioner.tokenizer)])
    assert torch.equal(conditioner(["a red apple"]).context, encoder(ids).final)
    weighted = conditioner.condition("a (red:1.2) apple", dialect="comfy").context
    assert weighted.shape == (1, 77, 16) and not torch.equal(weighted, encoder(ids).final)


def test_a_conditioner_of_two_vocabularies_is_refused() -> None:
    config = ClipTextConfig(1, 16, 2, 32, vocabulary=SMALL.size, eos_id=SMALL.eos)
    spec = TextSpec((TextRole(config),), vocabulary=SMALL)
    with pytest.raises(ValueError, match="the spec has"):
        Conditioner(spec, [ClipText(config)], Tokenizer())
    with pytest.raises(ValueError, match="523 tokens"):
        Conditioner(TextSpec((TextRole(config),)), [ClipText(config)])


@pytest.mark.parametrize(
    ("merges", "said"),
    [
        ((("ab", "c"),), "not both known"),
        ((("a</w>", "b"),), "not both known"),
        ((("a", "bb"),), "not both known"),
        ((("a", "b"), ("a", "b")), "which there is already"),
        ((("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")), "which there is already"),
    ],
)
def test_merges_of_what_is_not_there_are_refused(merges: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Vocabulary(merges)  # type: ignore[arg-type]


# -- files ---------------------------------------------------------------------------------------


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    text, ids = merges_file(SMALL), json.loads(json.dumps(SMALL.ids))
    assert text.split("\n")[:2] == ["#version: 0.2", "a p"] and text.endswith("\n")
    for written in (text, merges_text(SMALL), text.replace("\n", "\r\n"), text + "\n\n"):
        assert vocabulary_of(written, ids) == SMALL
    assert vocabulary_of(merges_file(CLIP_VOCABULARY)) is CLIP_VOCABULARY
    assert vocabulary_of("#version: 0.2\n").size == 514


@pytest.mark.parametrize(
    ("text", "said"),
    [("a b c\n", "not two symbols"), ("ab\n", "not two symbols"), ("a b\n\nc d", "not two symbols"),
     ("a zz\n", "not both known")],
)  # fmt: skip
def test_texts_that_are_no_merges_are_refused(text: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        vocabulary_of(text)


def test_ids_in_another_order_are_refused() -> None:
    ids: dict[str, object] = dict(SMALL.ids)
    check_ids(SMALL, ids)
    with pytest.raises(CheckpointError, match=r"token ap has the id 513; .* it has 512"):
        check_ids(SMALL, {**ids, "ap": 513, "pl": 512})
    with pytest.raises(CheckpointError, match="524 tokens and 9 merges"):
        check_ids(SMALL, {**ids, "more": 523})
    with pytest.raises(CheckpointError, match="has the id None"):
        check_ids(SMALL, {("other" if k == "cat</w>" else k): v for k, v in ids.items()})
