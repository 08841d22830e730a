"""A book of scenes: pure, honest about its facts, and blind to what is held out."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from safelight.errors import RequestError
from safelight.training.scenes.book import JITTER, SceneBook
from safelight.training.scenes.colours import BACKGROUNDS, NAMES, nearest_colour
from safelight.training.scenes.dice import Dice
from safelight.training.scenes.holdout import (
    background_held_out,
    count_held_out,
    pair_held_out,
    recolour_held_out,
)
from safelight.training.scenes.layout import (
    COUNTS,
    PLACES,
    RELATIONS,
    SIZES,
    Spot,
    centred,
    counted,
    placed,
    related,
)
from safelight.training.scenes.pools import SPLITS
from safelight.training.scenes.scene import KINDS, MIX, Scene
from safelight.training.scenes.words import (
    article,
    countable,
    plural,
    sorts,
    spoken,
    with_article,
)
from scenes_tiny import THINGS, cutouts
from tables import each

CATALOGUE = cutouts().catalogue


def book(seed: int = 0, split: str = "train", **mix: float) -> SceneBook:
    return SceneBook(CATALOGUE, seed, mix or None, split)


@pytest.fixture(scope="module")
def many_scenes() -> list[Scene]:
    return book(5).scenes(range(20_000))


def test_a_scene_depends_on_seed_and_number_alone() -> None:
    forward = book(3).scenes(range(50))
    again = book(3)
    assert [again.scene(i) for i in reversed(range(50))] == forward[::-1]
    assert book(4).scenes(range(50)) != forward
    assert len({scene.caption for scene in forward}) > 40


def test_dice_are_the_same_on_every_machine() -> None:
    dice = Dice(7, 11)
    rolls = [519, 890, 506, 3, 519, 994, 263, 488, 699, 176, 247, 337, 943, 614, 376, 177, 343, 244]
    assert [dice.below(1000) for _ in range(18)] == rolls


def test_dice_are_even() -> None:
    rolls = Counter(Dice(1, n).below(6) for n in range(6000))
    assert set(rolls) == set(range(6)) and min(rolls.values()) > 850
    draws = Counter(Dice(2, n).weighted("abc", (1.0, 1.0, 4.0)) for n in range(4000))
    assert draws["b"] == 0 and draws["c"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_kinds_come_in_their_shares(many_scenes: list[Scene]) -> None:
    kinds = Counter(scene.kind for scene in many_scenes)
    for kind, share in MIX.items():
        assert kinds[kind] / len(many_scenes) == pytest.approx(share, abs=0.015)


def test_style_and_background_are_named_in_their_shares(many_scenes: list[Scene]) -> None:
    count = len(many_scenes)
    assert sum(s.facts.style is not None for s in many_scenes) / count == pytest.approx(
        0.75, abs=0.02
    )
    assert sum(s.facts.background is not None for s in many_scenes) / count == pytest.approx(
        0.9, abs=0.02
    )


def test_concepts_are_drawn_evenly_whatever_the_number_of_their_drawings() -> None:
    drawn = Counter(s.facts.hexcodes[0] for s in book(1, single=1).scenes(range(12_000)))
    assert set(drawn) == set(THINGS)
    mean = 12_000 / len(THINGS)  # the dog and the cat have two drawings here, others three
    assert all(count == pytest.approx(mean, rel=0.15) for count in drawn.values())


def test_training_holds_nothing_that_is_held_out(many_scenes: list[Scene]) -> None:
    for scene in many_scenes:
        assert all(CATALOGUE.entries[layer.cutout].split == "train" for layer in scene.layers)
        codes = scene.facts.hexcodes
        assert not any(background_held_out(code, scene.background_name) for code in codes)
        if scene.kind == "relation":
            assert not pair_held_out(*codes) and codes[0] != codes[1]
        if scene.kind == "count":
            assert not count_held_out(codes[0], scene.facts.count)
        if scene.kind == "recolour":
            assert scene.facts.recolour and not recolour_held_out(codes[0], scene.facts.recolour)


@pytest.mark.parametrize("split", SPLITS[1:])
def test_a_test_book_holds_only_what_its_split_holds_out(split: str) -> None:
    for scene in book(0, split).scenes(range(300)):
        facts = scene.facts
        held = {
            "heldout_combo": all(
                CATALOGUE.entries[layer.cutout].split == split for layer in scene.layers
            ),
            "heldout_background": all(
                background_held_out(code, scene.background_name) for code in facts.hexcodes
            ),
            "heldout_pairs": len(facts.hexcodes) == 2 and pair_held_out(*facts.hexcodes),
            "heldout_recolour": facts.recolour is not None
            and recolour_held_out(facts.hexcodes[0], facts.recolour),
            "heldout_count": facts.count > 1 and count_held_out(facts.hexcodes[0], facts.count),
        }
        assert {name for name, value in held.items() if value} == {split}
        assert facts.style is not None and facts.background is not None


def test_no_object_stands_on_its_own_colour(many_scenes: list[Scene]) -> None:
    for scene in many_scenes:
        number = NAMES.index(scene.background_name)
        if scene.kind != "recolour":
            assert all(CATALOGUE.clear[layer.cutout, number] for layer in scene.layers)
        assert scene.facts.recolour != scene.background_name


def test_the_background_is_the_one_that_is_named(many_scenes: list[Scene]) -> None:
    for scene in many_scenes[:3000]:
        assert scene.facts.background in (None, scene.background_name)
        assert nearest_colour(scene.background) == scene.background_name
        named = BACKGROUNDS[scene.background_name]
        assert all(abs(a - b) <= JITTER for a, b in zip(scene.background, named, strict=True))


def test_captions_say_the_facts(many_scenes: list[Scene]) -> None:
    for scene in many_scenes:
        facts, words = scene.facts, scene.caption
        assert words == words.lower() == " ".join(words.split())
        assert not re.search(r"[{}]|none|\ba [aeio]|\ban [bcdfg]", words), words
        assert (f"{facts.background} background" in words or f"on {facts.background}" in words) == (
            facts.background is not None
        )
        entry = CATALOGUE.entries[scene.layers[0].cutout]
        if facts.style is not None:
            assert facts.style == entry.style and entry.style_words[0] in words
        else:
            assert not re.search(r"\b(3d|noto|twemoji)\b", words)
        for fact in (facts.place, facts.size, facts.recolour):
            assert fact is None or fact in words
        if scene.kind == "count":
            number = {2: "two", 3: "three", 4: "four"}[facts.count]
            assert re.search(rf"\b({number}|{facts.count}) ", words)
            assert len(scene.layers) == facts.count
            assert len({layer.cutout for layer in scene.layers}) == 1
        if scene.kind != "count":
            assert all(name in words for name in facts.names)


def test_the_facts_say_where_the_objects_are() -> None:
    for scene in book(2, relation=1).scenes(range(600)):
        first, second = scene.layers
        across, down = first.x - second.x, first.y - second.y
        match scene.facts.relation:
            case "left of":
                assert across < -0.3 and abs(down) < 0.1
            case "right of":
                assert across > 0.3 and abs(down) < 0.1
            case "above":
                assert down < -0.3 and abs(across) < 0.1
            case "below":
                assert down > 0.3 and abs(across) < 0.1
            case _:
                assert abs(across) > 0.3 and abs(down) < 0.1
        entries = [CATALOGUE.entries[layer.cutout] for layer in scene.layers]
        assert entries[0].style == entries[1].style
        assert tuple(entry.hexcode for entry in entries) == scene.facts.hexcodes


def box(spot: Spot) -> tuple[float, float, float, float]:
    size, x, y = spot
    return x - size / 2, y - size / 2, x + size / 2, y + size / 2


def apart(one: Spot, other: Spot) -> bool:
    left, top, right, bottom = box(one)
    left2, top2, right2, bottom2 = box(other)
    return right < left2 or right2 < left or bottom < top2 or bottom2 < top


def test_objects_stay_in_the_picture_and_apart() -> None:
    for number in range(400):
        dice = Dice(9, number)
        scenes: list[tuple[Spot, ...]] = [(centred(dice),)]
        scenes += [counted(dice, count) for count in COUNTS]
        scenes += [related(dice, relation) for relation in RELATIONS]
        scenes += [(placed(dice, size, p),) for p in PLACES for size in (*SIZES, None)]
        for spots in scenes:
            assert all(0 <= edge <= 1 for spot in spots for edge in box(spot))
            for i, one in enumerate(spots):
                assert all(apart(one, other) for other in spots[:i])


def test_places_and_sizes_can_be_told_apart() -> None:
    for number in range(200):
        dice = Dice(3, number)
        for place in PLACES:
            sizes = []
            for word in SIZES:
                size, x, y = placed(dice, word, place)
                sizes.append(size)
                if place == "centre":
                    assert abs(x - 0.5) < 0.05 and abs(y - 0.5) < 0.05
                else:
                    assert (x > 0.6) == ("right" in place) and (x < 0.4) == ("left" in place)
                    assert (y > 0.6) == ("bottom" in place) and (y < 0.4) == ("top" in place)
            assert sizes[0] + 0.15 < sizes[1]


def test_what_cannot_be_counted_or_painted_never_is(many_scenes: list[Scene]) -> None:
    counted_names = {s.facts.names[0] for s in many_scenes if s.kind == "count"}
    painted = {s.facts.names[0] for s in many_scenes if s.kind == "recolour"}
    assert counted_names.isdisjoint({"fog", "grapes"}) and "dog" in counted_names
    assert painted.isdisjoint({"fog", "grapes", "red apple", "blue book"}) and "dog" in painted


def test_groups_come_by_weight() -> None:
    weights = {"food-drink": 1.0, "animals-nature": 0.25}
    chosen = SceneBook(CATALOGUE, 0, {"single": 1}, weights=weights).scenes(range(4000))
    groups = Counter(THINGS[scene.facts.hexcodes[0]][1] for scene in chosen)
    assert set(groups) == {"food-drink", "animals-nature"}
    animals = 5 * 0.25 / (5 * 0.25 + 3)
    assert groups["animals-nature"] / 4000 == pytest.approx(animals, abs=0.03)


def test_clock_faces_are_left_out() -> None:
    entries = tuple(
        replace(entry, core=False) if entry.name == "bus" else entry for entry in CATALOGUE.entries
    )
    other = replace(CATALOGUE, entries=entries)
    names = {s.facts.hexcodes[0] for s in SceneBook(other, 0, {"single": 1}).scenes(range(500))}
    assert names == set(THINGS) - {"1F68C"}


@pytest.mark.parametrize(
    ("mix", "split", "fault"),
    [
        ({"singel": 1.0}, "train", "'singel' is no kind of scene; give single"),
        ({"single": -1.0}, "train", "no shares above 0"),
        ({"single": 0.0}, "train", "no shares above 0"),
        ({"single": 1.0}, "heldout_pairs", "scenes of kind relation only, not single"),
        (None, "validation", "'validation' is no split of scenes; give one of train"),
        ({"relation": 1.0}, "heldout_combo", "no two concepts that may stand together"),
    ],
)
def test_a_wrong_book_is_refused(mix: dict[str, float] | None, split: str, fault: str) -> None:
    with pytest.raises(RequestError, match=fault):
        SceneBook(CATALOGUE.take([0, 25, 3]), 0, mix, split).scene(0)


def test_a_kind_with_nothing_to_draw_is_refused() -> None:
    fog = CATALOGUE.take(CATALOGUE.where(lambda e: e.name == "fog"))
    for kind in ("count", "recolour"):
        with pytest.raises(RequestError, match=f"no cut-out serves for scenes of kind {kind}"):
            SceneBook(fog, 0, {kind: 1.0})


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(RequestError, match=r"a share of captions is 1\.5"):
        SceneBook(CATALOGUE, 0, style_named=1.5)


def test_every_kind_is_known() -> None:
    assert set(MIX) == set(KINDS)
    assert sum(MIX.values()) == pytest.approx(1)


@each(
    {
        "apple": "an apple",
        "hourglass done": "an hourglass done",
        "unicorn": "a unicorn",
        "umbrella": "an umbrella",
        "ufo": "a ufo",
        "unamused face": "an unamused face",
        "euro banknote": "a euro banknote",
        "x-ray": "an x-ray",
        "8 ball": "an 8 ball",
        "one-piece swimsuit": "a one-piece swimsuit",
        "horse": "a horse",
        "french fries": "french fries",
        "ice cream": "ice cream",
    }
)
def test_articles_follow_the_sound(given: str, expected: str) -> None:
    assert with_article(given) == expected
    assert expected.startswith(article(given)) or expected == given


@each(
    {
        "red apple": "red apples",
        "mouse": "mice",
        "mouse face": "mouse faces",
        "computer mouse": "computer mice",
        "goose": "geese",
        "fish": "fish",
        "wolf": "wolves",
        "kitchen knife": "kitchen knives",
        "maple leaf": "maple leaves",
        "box": "boxes",
        "torch": "torches",
        "bus": "buses",
        "cherry": "cherries",
        "donkey": "donkeys",
        "mango": "mangoes",
        "avocado": "avocados",
        "face with tears of joy": "faces with tears of joy",
        "leaf fluttering in wind": "leaves fluttering in wind",
        "hear-no-evil monkey": "hear-no-evil monkeys",
        "globe showing americas": "globes showing americas",
        "snowman without snow": "snowmen without snow",
        "game die": "game dice",
    }
)
def test_the_head_of_a_name_takes_the_plural(given: str, expected: str) -> None:
    assert countable(given) and plural(given) == expected


@pytest.mark.parametrize(
    "name",
    ["fog", "grapes", "two hearts", "bow and arrow", "man: bald", "person climbing", "scissors"],
)
def test_what_makes_no_good_plural_is_not_counted(name: str) -> None:
    assert not countable(name)


def test_names_with_colons_are_spoken_naturally() -> None:
    assert spoken("man: bald") == "bald man"
    assert spoken("woman: red hair") == "woman with red hair"
    assert spoken("flag: peru") == "flag of peru"
    assert spoken("person running: facing right") == "person running facing right"
    assert spoken("family: man, woman, boy") == "family of man, woman and boy"
    assert spoken("kiss: man, man") == "kiss of man and man"
    assert spoken("dog") == "dog"


def test_only_plain_keywords_are_appended() -> None:
    assert sorts(("animal", "pet", "143", "omg", "dog"), "dog") == ("animal", "pet")
