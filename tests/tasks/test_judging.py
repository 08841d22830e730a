"""Pictures are ranked by how well they fit their prompt's words, always in the same way."""

import numpy as np
import pytest
from numpy.typing import NDArray

from safelight.clip.pair import ClipPair
from safelight.errors import RequestError
from safelight.tasks.judging import Scores, judged, similarities
from safelight.tasks.recipe import Figure
from seeing_toy import colour_pair

PAIR = colour_pair()


def flat(*rgb: int) -> NDArray[np.uint8]:
    return np.full((40, 50, 3), rgb, np.uint8)


PICTURES = [flat(120, 120, 120), flat(30, 40, 220), flat(220, 30, 30), flat(150, 110, 110)]


@pytest.mark.parametrize(("word", "best"), [("red", 2), ("blue", 1)])
def test_the_best_picture_is_the_one_that_shows_the_words(word: str, best: int) -> None:
    scores = judged(PICTURES, f"({word}:1.3) <lora:x:1>", PAIR)
    assert (scores.text, scores.clip, scores.best) == (word, "colours", best)
    assert sorted(scores.ranking) == [0, 1, 2, 3]
    cosines = [scores.cosines[k] for k in scores.ranking]
    assert cosines == sorted(cosines, reverse=True) and all(-1 <= c <= 1 for c in cosines)


def test_a_picture_has_its_score_in_any_company() -> None:
    together = judged(PICTURES, "red", PAIR).cosines
    assert tuple(judged([p], "red", PAIR).cosines[0] for p in PICTURES) == together


def test_of_equal_pictures_the_earlier_wins() -> None:
    scores = judged([PICTURES[0], PICTURES[2], PICTURES[2].copy()], "red", PAIR)
    assert scores.cosines[1] == scores.cosines[2] and scores.ranking == (1, 2, 0)


def test_the_figures_of_a_recipe_tell_score_rank_and_candidates() -> None:
    scores = Scores("a cat", "vit", (0.21, 0.34, 0.3))
    assert scores.figures(2) == (
        Figure(name="CLIP cosine (vit)", value=0.3),
        Figure(name="CLIP rank", value=2),
        Figure(name="CLIP candidates", value=3),
    )


def test_several_texts_are_compared_at_once() -> None:
    rows = similarities(PICTURES, ["red", "blue"], PAIR)
    assert len(rows) == 4 and all(len(row) == 2 for row in rows)
    assert rows[2][0] > rows[2][1] and rows[1][1] > rows[1][0]


def test_a_prompt_that_the_clip_cannot_read_whole_is_said() -> None:
    from dataclasses import replace

    from safelight.text.bpe import Tokenizer

    plain = ClipPair(
        "colours", PAIR.text, PAIR.vision, Tokenizer(), PAIR.preparation, notes=("a guess",)
    )
    scores = judged(PICTURES[:1], "apple, " * 60, replace(plain))
    assert scores.notes[0] == "a guess" and "44 tokens are past its end" in scores.notes[1]


def test_nothing_to_judge_is_named() -> None:
    with pytest.raises(RequestError, match="no picture to judge"):
        judged([], "red", PAIR)
    with pytest.raises(RequestError, match="has no words"):
        judged(PICTURES, "<lora:x:1>", PAIR)
