"""The nearest caption: by rare words more than by common ones, then by vectors."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.evaluation.nearest_captions import nearest_captions

CAPTIONS = [
    "a dog on a blue background",
    "a cat on a blue background",
    "a cat, flat style",
    "two dogs on a red background",
    "a red apple",
]


def test_a_caption_is_nearest_to_itself() -> None:
    assert nearest_captions(CAPTIONS, CAPTIONS) == [0, 1, 2, 3, 4]


def test_rare_words_count_for_more_and_case_and_order_for_nothing() -> None:
    assert nearest_captions(["an Apple on a sofa"], CAPTIONS) == [4]
    assert nearest_captions(["BACKGROUND blue, dog!"], CAPTIONS) == [0]


def test_of_equals_the_first_is_taken_and_a_stranger_gets_one_too() -> None:
    assert nearest_captions(["xylophone", ""], ["b", "a", "b"]) == [0, 0]
    assert nearest_captions(["b"], ["a", "b", "b"]) == [1]


def test_vectors_choose_among_the_shortlist_alone() -> None:
    """A text tower that likes captions with `two` sees it only if words let it through."""

    def texts(given: Sequence[str]) -> Tensor:
        return torch.tensor(
            [[1.0, 0.1] if "two" in text or "pair" in text else [0.1, 1.0] for text in given]
        )

    prompt = ["a pair, on a blue background"]
    assert nearest_captions(prompt, CAPTIONS, texts=texts, shortlist=5) == [3]
    assert nearest_captions(prompt, CAPTIONS, texts=texts, shortlist=2)[0] in (0, 1)


def test_no_captions_are_refused() -> None:
    with pytest.raises(RequestError, match="no captions"):
        nearest_captions(["a"], [])
