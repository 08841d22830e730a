"""A learned vocabulary is what the definition says, and other tokenizers read it the same way."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.errors import RequestError
from safelight.text.bpe import Tokenizer
from safelight.text.vocabulary import merges_file
from safelight.training.clip.vocabulary import (
    SMALLEST,
    learn_vocabulary,
    merge_words,
    spelling,
    word_counts,
)

CORPUS = {
    "a red apple on a blue background": 7,
    "a green apple": 5,
    "grinning cat with smiling eyes": 4,
    "smiling face with smiling eyes": 9,
    "flat emoji of a cat": 3,
    "piñata, party": 2,
    "it's 3 o'clock": 3,
    "the apples and the pineapple": 4,
    "blueberries, strawberries and blackberries": 6,
    "a bluebird's background": 2,
}


def slow_merges(
    words: dict[tuple[str, ...], int], count: int
) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Algorithm 1 of the paper word for word, all pairs counted anew for each merge."""
    spelled = {word: list(word) for word in words}
    known = {symbol for word in words for symbol in word}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in spelled.items():
            for pair in pairwise(symbols):
                pairs[pair] += words[word]
        allowed = [(-own, pair) for pair, own in pairs.items() if "".join(pair) not in known]
        if not allowed:
            break
        best = min(allowed)[1]
        merges.append(best)
        known.add("".join(best))
        for symbols in spelled.values():
            place = 0
            while place < len(symbols) - 1:
                if (symbols[place], symbols[place + 1]) == best:
                    symbols[place : place + 2] = ["".join(best)]
                place += 1
    return tuple(merges), len(merges) == count


def fast_tokenizer(vocabulary) -> tokenizers.Tokenizer:
    """Hugging Face's tokenizer of CLIP's kind with our vocabulary."""
    model = tokenizers.models.BPE(
        vocab=dict(vocabulary.ids),
        merges=list(vocabulary.merges),
        end_of_word_suffix="</w>",
        fuse_unk=False,
    )
    return _clip_rules(tokenizers.Tokenizer(model))


def _clip_rules(theirs: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    theirs.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.NFC(),
            tokenizers.normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            tokenizers.normalizers.Lowercase(),
        ]
    )
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(
                tokenizers.Regex(pattern), behavior="removed", invert=True
            ),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return theirs


def test_words_are_cut_and_counted_as_clip_cuts_them() -> None:
    counts = word_counts({"It's 12 Cats, CATS!": 3, "cats": 2})
    assert counts == {"it": 3, "'s": 3, "1": 3, "2": 3, "cats": 8, ",": 3, "!": 3}


def test_a_word_is_spelled_in_bytes_and_marks_its_end() -> None:
    assert spelling("cat") == ("c", "a", "t</w>")
    assert spelling("ñ") == ("Ã", "±</w>")  # 0xC3 0xB1, both visible in Latin-1
    assert spelling(" ") == ("Ġ</w>",)  # a hidden byte, by CLIP's table


def test_merges_are_those_of_the_algorithm_counted_anew_each_time() -> None:
    words = {spelling(word): count for word, count in word_counts(CORPUS).items()}
    assert merge_words(words, 60) == slow_merges(words, 60)[0]


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=9), st.integers(1, 5), max_size=12))
def test_merges_are_those_of_the_algorithm_for_any_words(words: dict[str, int]) -> None:
    spelled = {spelling(word): count for word, count in words.items()}
    assert merge_words(spelled, 20) == slow_merges(spelled, 20)[0]


def test_ids_equal_those_of_tokenizers_with_the_same_files() -> None:
    vocabulary = learn_vocabulary(CORPUS, 600, cleaning="transformers")
    assert vocabulary.size == 600
    ours, theirs = Tokenizer("transformers", vocabulary=vocabulary), fast_tokenizer(vocabulary)
    texts = [*CORPUS, "Blue CATS & 12 piñatas", "unseen wörds 猫 🍎", "it's   o'clock's"]
    for text in texts:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text
    assert json.loads(json.dumps(vocabulary.ids)) == theirs.get_vocab()


def test_merges_are_nearly_those_of_tokenizers_trainer() -> None:
    """On a page of English, where few pairs are equally frequent: it breaks such ties otherwise."""
    page = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
    ours = learn_vocabulary({page: 1}, SMALLEST + 200, cleaning="transformers").merges
    theirs = _clip_rules(tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>")))
    letters = {symbol for word in word_counts({page: 1}) for symbol in spelling(word)}
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(letters) + 220, end_of_word_suffix="</w>", show_progress=False
    )
    theirs.train_from_iterator([page], trainer)
    found = [tuple(pair) for pair in json.loads(theirs.to_str())["model"]["merges"]]
    found = found[:200]
    assert len(found) == 200
    assert list(ours[:20]) == found[:20]
    assert len({*ours} & {*found}) >= 0.85 * len(found)


def test_frequent_words_become_one_token_and_rare_ones_stay_readable() -> None:
    vocabulary = learn_vocabulary(CORPUS, 640)
    tokenizer = Tokenizer(vocabulary=vocabulary)
    assert [len(tokenizer.encode(word)) for word in ("smiling", "apple", "background")] == [1, 1, 1]
    assert "".join(piece.text for piece in tokenizer.pieces("zebra")) == "zebra</w>"


def test_learning_ends_when_no_pair_is_left() -> None:
    vocabulary = learn_vocabulary({"ab": 1}, 6000)
    assert vocabulary.merges == (("a", "b</w>"),) and vocabulary.size == SMALLEST + 1


def test_the_order_of_phrases_does_not_matter() -> None:
    turned = dict(reversed(CORPUS.items()))
    assert learn_vocabulary(CORPUS, 580) == learn_vocabulary(turned, 580)


def test_a_size_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(RequestError, match="got 100"):
        learn_vocabulary(CORPUS, 100)


def test_the_file_is_read_back_by_transformers(tmp_path) -> None:
    from transformers import CLIPTokenizer

    vocabulary = learn_vocabulary(CORPUS, 600, cleaning="transformers")
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary.ids), encoding="utf-8")
    (tmp_path / "merges.txt").write_text(merges_file(vocabulary), encoding="utf-8")
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer("transformers", vocabulary=vocabulary)
    for text in CORPUS:
        expected = [vocabulary.bos, *ours.encode(text), vocabulary.eos]
        assert theirs(text)["input_ids"] == expected
