"""Phrases, dictionary words and the teacher's file."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from models_tiny import random
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import CheckpointError, FileError
from safelight.training.clip.phrases import Concept, Shares, article, phrase_counts, plural
from safelight.training.clip.teacher import Teacher, read_teacher, reduced, write_teacher
from safelight.training.clip.wordnet import Word, read_words

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"
NOUNS = {  # offset: (file of the lexicographer, words, gloss)
    100: ("05", ["dog", "domestic_dog"], 'a member of the genus Canis (of the wolf); "he barked"'),
    200: ("15", ["Paris"], "the capital of France"),
    300: ("18", ["paris"], "an invented word"),
    400: ("09", ["idea"], "the content of cognition; the main thing"),
    500: ("06", ["car", "auto"], "a motor vehicle with four wheels"),
    600: ("06", ["cable car"], "a conveyance"),
    700: ("23", ["a_b_c"], "three parts"),
}
INDEX = {  # lemma: (offsets, most frequent first)
    "a_b_c": [700],
    "auto": [500],
    "cable_car": [600],
    "car": [500, 600],
    "dog": [100, 400],
    "domestic_dog": [100],
    "idea": [400],
    "paris": [200],
}


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    index = "".join(
        f"{lemma} n {len(at)} 1 @ {len(at)} 0 {' '.join(f'{a:08d}' for a in at)}  \n"
        for lemma, at in INDEX.items()
    )
    data = "".join(
        f"{at:08d} {file} n {len(names):02x} "
        + " ".join(f"{name.replace(' ', '_')} 0" for name in names)
        + f" 000 | {gloss}  \n"
        for at, (file, names, gloss) in NOUNS.items()
    )
    (tmp_path / "index.noun").write_text(LICENCE + index)
    (tmp_path / "data.noun").write_text(LICENCE + data)
    counts = "dog%1:05:00:: 1 42\ndog%1:18:01:: 2 2\ndog%2:38:00:: 1 9\nidea%1:09:00:: 1 50\n"
    (tmp_path / "cntlist.rev").write_text(counts)
    return tmp_path


def test_words_come_with_counts_glosses_and_what_can_be_drawn(dictionary: Path) -> None:
    words = {word.text: word for word in read_words(dictionary, "noun")}
    assert words["dog"] == Word("dog", "a member of the genus canis", 44, 2, True)
    assert words["idea"] == Word("idea", "the content of cognition", 50, 1, False)
    assert words["cable car"].gloss == "a conveyance" and words["auto"].thing


def test_words_are_ordered_by_frequency_then_things_with_most_senses(dictionary: Path) -> None:
    names = [word.text for word in read_words(dictionary, "noun")]
    assert names == ["idea", "dog", "car", "auto", "cable car", "domestic dog"]


def test_proper_names_and_long_words_are_left_out(dictionary: Path) -> None:
    names = {word.text for word in read_words(dictionary, "noun")}
    assert not names & {"paris", "a b c"}


def test_a_missing_or_foreign_dictionary_is_named(dictionary: Path) -> None:
    with pytest.raises(FileError, match=r"cntlist.rev.*folder with WordNet's"):
        read_words(dictionary / "nowhere", "noun")
    (dictionary / "index.noun").write_text("hello\n")
    with pytest.raises(FileError, match=r"index.noun: line 1 is no entry"):
        read_words(dictionary, "noun")


CONCEPTS = [
    Concept("dog face", ("puppy", "pet"), ("animals-nature", "animal-mammal")),
    Concept("umbrella", ("rain", "open_umbrella"), ("objects", "clothing")),
    Concept("cherry", (), ("food-drink", "food-fruit")),
]
WORDS = {
    "noun": [
        Word("owl", "a bird of the night", 30, 1, True),
        Word("idea", "a thought", 2, 1, False),
    ],
    "adj": [Word("happy", "full of joy", 5, 1, False)],
}


def test_phrases_hold_names_keywords_groups_words_and_glosses() -> None:
    counts = phrase_counts(CONCEPTS, ["flat", "3d"], WORDS)
    wanted = {"dog face", "puppy", "open umbrella", "animal mammal", "owl", "happy"}
    assert wanted | {"owl, a bird of the night"} <= set(counts)
    assert counts["dog face"] > counts["puppy"] > counts["idea"] == 3
    assert counts["owl"] == 21  # one more than what a frequency may add
    assert any(phrase.endswith(" owl") for phrase in counts)  # in a colour
    assert not any(phrase.startswith("a") and phrase.endswith(" idea") for phrase in counts)


def test_captions_tell_colour_style_count_and_place() -> None:
    counts = phrase_counts(CONCEPTS, ["flat"], {}, shares=Shares(captions_per_concept=64))
    text = "\n".join(counts)
    for part in ("background, flat emoji", "flat emoji of an umbrella", "cherries on a"):
        assert part in text
    for part in ("in the top left", "left of a", "dog face, p", "three ", "a small "):
        assert part in text
    assert "a umbrella" not in text


def test_the_same_seed_gives_the_same_phrases_in_the_same_order() -> None:
    one, same, other = (
        list(phrase_counts(CONCEPTS, ["flat", "3d"], WORDS, seed=seed).items())
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_shares_bound_each_kind() -> None:
    few = Shares(captions_per_concept=0, keyword_captions=0, nouns=1, glosses=0, coloured_nouns=0)
    counts = phrase_counts(CONCEPTS, ["flat"], WORDS, shares=few)
    assert "owl" in counts and "idea" not in counts and not any("background" in p for p in counts)


def test_articles_and_plurals_are_english() -> None:
    assert [article(w) for w in ("apple", "unicorn", "umbrella", "one-piece", "dog")] == [
        "an apple", "a unicorn", "an umbrella", "a one-piece", "a dog",
    ]  # fmt: skip
    assert [plural(w) for w in ("dog", "box", "cherry", "toy", "bus", "torch")] == [
        "dogs", "boxes", "cherries", "toys", "buses", "torches",
    ]  # fmt: skip


def test_a_teachers_file_is_read_back(tmp_path: Path) -> None:
    teacher = Teacher(("a dog", "piñata", ""), F.normalize(random(3, 8), dim=-1))
    path = tmp_path / "teacher.safetensors"
    write_teacher(path, teacher, {"teacher": "a test"})
    again = read_teacher(path)
    assert again.phrases == teacher.phrases
    assert torch.allclose(again.vectors, teacher.vectors, atol=1 / 127)
    assert float(F.cosine_similarity(again.vectors, teacher.vectors).min()) > 0.9999
    assert torch.allclose(again.vectors.norm(dim=-1), torch.ones(3))


def test_a_file_that_is_no_teachers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"

    def write(**tensors: torch.Tensor) -> None:
        entries = [Entry(n, tuple(t.shape), t.dtype, lambda t=t: t) for n, t in tensors.items()]
        write_safetensors(path, entries, {})

    write(vectors=random(2, 3))
    with pytest.raises(CheckpointError, match=r"has no phrases; give a file"):
        read_teacher(path)
    write(vectors=random(2, 3), phrases=torch.tensor([97], dtype=torch.uint8))
    with pytest.raises(CheckpointError, match="1 phrases and 2 vectors"):
        read_teacher(path)
    write(vectors=random(1, 3), phrases=torch.tensor([255], dtype=torch.uint8))
    with pytest.raises(CheckpointError, match="not UTF-8"):
        read_teacher(path)
    write(vectors=random(3), phrases=torch.tensor([97], dtype=torch.uint8))
    with pytest.raises(CheckpointError, match="another shape"):
        read_teacher(path)


def test_reduction_keeps_cosines_of_vectors_on_few_axes_and_tells_what_it_keeps() -> None:
    flat = F.normalize(random(50, 4) @ random(4, 20, seed=2), dim=-1)
    small, kept = reduced(flat, 4)
    assert small.shape == (50, 4) and kept == pytest.approx(1)
    assert torch.allclose(small @ small.T, flat @ flat.T, atol=1e-5)
    _, half = reduced(torch.eye(8), 4)
    assert half == pytest.approx(0.5)
