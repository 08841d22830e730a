"""The composition score: right pictures score one, wrong ones fail in the check that is wrong."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from evaluation_scenes import INKS, LABELS, ORACLE, disc, noisy, plain, square
from safelight.errors import RequestError
from safelight.evaluation.composition import (
    CATEGORIES,
    Question,
    category_of,
    judged,
    score,
    shuffled,
)
from safelight.measures.colours import BACKGROUNDS, RECOLOURS, hsv_rgb
from safelight.measures.facts import Facts

WHITE, BLACK = BACKGROUNDS["white"], BACKGROUNDS["black"]


def question(category: str = "single object", **facts: object) -> Question:
    base = {"kind": "single", "hexcodes": ("A",), "names": ("a",)}
    return Question("a prompt", Facts(**(base | facts)), category)  # type: ignore[arg-type]


def answer(picture: Tensor, asked: Question) -> dict[str, bool]:
    (found,) = judged(noisy([picture], 0.03), [asked], ORACLE, LABELS)
    return dict(found.checks)


def test_an_object_is_named() -> None:
    picture = disc(plain(WHITE), 0.5, 0.5, 0.4, INKS["B"])
    assert answer(picture, question(hexcodes=("B",)))["concept"]
    wrong = answer(picture, question(hexcodes=("A",)))
    assert not wrong["concept"] and wrong["concept top 5"]


def test_an_empty_picture_answers_nothing_right_but_its_background() -> None:
    asked = question(
        "colours", style="flat", background="white", place="centre", size="small", recolour="red"
    )
    assert answer(plain(WHITE), asked) == {
        "concept": False,
        "concept top 5": False,
        "style": False,
        "background": True,
        "place": False,
        "size": False,
        "recolour": False,
    }


def test_two_objects_must_both_be_there() -> None:
    both = disc(disc(plain(WHITE), 0.25, 0.5, 0.18, INKS["A"]), 0.75, 0.5, 0.18, INKS["B"])
    asked = question("two objects", kind="relation", hexcodes=("B", "A"), relation="and")
    assert answer(both, asked) == {"concept": True, "concept top 5": True, "relation": True}
    assert not answer(both, replace(asked, facts=replace(asked.facts, hexcodes=("B", "C"))))[
        "concept"
    ]
    twice = disc(disc(plain(WHITE), 0.25, 0.5, 0.18, INKS["A"]), 0.75, 0.5, 0.18, INKS["A"])
    assert not answer(twice, asked)["concept"]
    alone = disc(plain(WHITE), 0.5, 0.5, 0.18, INKS["A"])
    assert not any(answer(alone, asked).values())


@pytest.mark.parametrize(
    ("relation", "x", "y"),
    [
        ("left of", 0.25, 0.5),
        ("right of", 0.75, 0.5),
        ("above", 0.5, 0.25),
        ("below", 0.5, 0.75),
    ],
)
def test_relations_hold_one_way_round_only(relation: str, x: float, y: float) -> None:
    picture = disc(plain(WHITE), x, y, 0.18, INKS["A"])
    picture = disc(picture, 1 - x, 1 - y, 0.18, INKS["B"])
    there = question("position", hexcodes=("A", "B"), relation=relation)
    back = question("position", hexcodes=("B", "A"), relation=relation)
    assert answer(picture, there)["relation"] and answer(picture, there)["concept"]
    assert not answer(picture, back)["relation"] and answer(picture, back)["concept"]


def test_next_to_holds_on_either_side_but_not_above() -> None:
    beside = disc(disc(plain(WHITE), 0.2, 0.5, 0.15, INKS["A"]), 0.8, 0.5, 0.15, INKS["B"])
    for codes in (("A", "B"), ("B", "A")):
        asked = question("two objects", hexcodes=codes, relation="next to")
        assert answer(beside, asked)["relation"]
        assert not answer(beside.mT, asked)["relation"]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_count_must_be_met(count: int) -> None:
    at = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]
    picture = plain(WHITE)
    for x, y in at[:count]:
        picture = disc(picture, x, y, 0.15, INKS["A"])
    for asked in (2, 3, 4):
        checks = answer(picture, question("counting", kind="count", count=asked))
        assert checks["concept"] and checks["count"] == (asked == count)


@pytest.mark.parametrize(
    ("place", "x", "y"),
    [
        ("top left", 0.25, 0.25),
        ("top right", 0.75, 0.25),
        ("bottom left", 0.25, 0.75),
        ("bottom right", 0.75, 0.75),
        ("centre", 0.52, 0.5),
    ],
)
def test_each_place_is_told_from_the_others(place: str, x: float, y: float) -> None:
    picture = disc(plain(WHITE), x, y, 0.15, INKS["A"])
    for other in ("top left", "top right", "bottom left", "bottom right", "centre"):
        assert answer(picture, question("position", place=other))["place"] == (other == place)


def test_sizes_are_small_or_large_or_neither() -> None:
    for radius, small, large in ((0.15, True, False), (0.235, False, False), (0.4, False, True)):
        picture = disc(plain(WHITE), 0.5, 0.5, radius, INKS["A"])
        assert answer(picture, question("position", size="small"))["size"] == small
        assert answer(picture, question("position", size="large"))["size"] == large


def test_background_style_and_new_colour_are_checked() -> None:
    green = hsv_rgb(*RECOLOURS["green"])
    picture = disc(plain(BLACK), 0.5, 0.5, 0.35, green)
    checks = answer(picture, question("colours", background="black", recolour="green"))
    assert checks["background"] and checks["recolour"]
    checks = answer(picture, question("colours", background="white", recolour="blue"))
    assert not checks["background"] and not checks["recolour"]
    box = square(plain(WHITE), 0.5, 0.5, 0.35, INKS["A"])
    round_ = disc(plain(WHITE), 0.5, 0.5, 0.35, INKS["A"])
    assert answer(box, question("style", style="flat"))["style"]
    assert not answer(round_, question("style", style="flat"))["style"]


def test_a_category_demands_its_own_checks_and_strict_demands_all() -> None:
    picture = disc(plain(WHITE), 0.25, 0.25, 0.15, INKS["A"])
    facts = {"background": "black", "place": "top left"}
    position, colours = (question(c, **facts) for c in ("position", "colours"))
    pictures = noisy([picture, picture], 0.03)
    one, other = judged(pictures, [position, colours], ORACLE, LABELS)
    assert one.right and not one.all_right and not other.right
    result = score([one, other])
    assert result.categories["position"].value == 1 and result.categories["colours"].value == 0
    assert result.overall == 0.5 and result.strict.value == 0
    assert result.checks["background"].of == 2 and result.checks["place"].right == 2


def test_the_overall_score_weighs_categories_and_not_prompts() -> None:
    right = disc(plain(WHITE), 0.5, 0.5, 0.3, INKS["A"])
    asked = [question(), question(), question(), question("style", style="flat")]
    result = score(judged(torch.stack([right] * 4), asked, ORACLE, LABELS))
    assert result.categories["single object"].of == 3
    assert result.overall == pytest.approx((1 + 0) / 2)
    assert "position" not in result.categories


def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    inks = list(INKS)
    pictures, asked = [], []
    for _ in range(8):
        x, y, a, b = torch.rand(4, generator=generator).tolist()
        one, other = inks[int(3 * a)], inks[int(3 * b)]
        picture = disc(plain(WHITE), 0.2 + 0.2 * x, 0.5, 0.12, INKS[one])
        pictures.append(disc(picture, 0.8, 0.2 + 0.2 * y, 0.12, INKS[other]))
        asked.append(question("two objects", hexcodes=(one, other), relation="left of"))
    together = judged(torch.stack(pictures), asked, ORACLE, LABELS)
    for picture, q, found in zip(pictures, asked, together, strict=True):
        assert judged(picture[None], [q], ORACLE, LABELS) == (found,)


def test_shuffling_gives_every_question_a_picture_of_another_of_its_category() -> None:
    asked = [question(CATEGORIES[i % 3]) for i in range(30)] + [question("style", style="flat")]
    other = shuffled(asked, seed=1)
    assert sorted(other) == list(range(31)) and other[30] == 30
    assert all(i != j and asked[i].category == asked[j].category for i, j in enumerate(other[:30]))
    assert other == shuffled(asked, seed=1) != shuffled(asked, seed=2)


@pytest.mark.parametrize(
    ("facts", "category"),
    [
        ({}, "single object"),
        ({"style": "flat"}, "style"),
        ({"style": "flat", "background": "red"}, "colours"),
        ({"recolour": "red"}, "colours"),
        ({"count": 3}, "counting"),
        ({"hexcodes": ("A", "B"), "relation": "and"}, "two objects"),
        ({"hexcodes": ("A", "B"), "relation": "above"}, "position"),
        ({"place": "centre"}, "position"),
    ],
)
def test_facts_have_a_category(facts: dict[str, object], category: str) -> None:
    assert category_of(question(**facts).facts) == category


def test_what_the_evaluator_does_not_know_cannot_be_asked() -> None:
    pictures = plain(WHITE)[None]
    with pytest.raises(RequestError, match="does not know 1F4A9"):
        judged(pictures, [question(hexcodes=("1F4A9",))], ORACLE, LABELS)
    with pytest.raises(RequestError, match="does not know oil"):
        judged(pictures, [question(style="oil")], ORACLE, LABELS)
    with pytest.raises(RequestError, match="1 pictures were given for 2 questions"):
        judged(pictures, [question()] * 2, ORACLE, LABELS)
    with pytest.raises(RequestError, match="no category fun"):
        question("fun")
    with pytest.raises(RequestError, match="at least one"):
        score([])
