"""Captions are made anew at every draw, and the same again for the same draw."""

from collections import Counter

import pytest

from safelight.errors import FileError, RequestError
from safelight.training.captions import Wording, caption, captions
from safelight.training.draw import Draw, stream
from safelight.training.sources.example import Example

FIELDS = {"name": "fox", "styles": ["flat", "soft"], "year": 2020, "none": None}
FOX = Example("fox", lambda: b"", ("a fox", "one fox", "fox"), fields=FIELDS)
TAGS = Example("tags", lambda: b"", ("girl, red hair,smile , outdoors, day",))


def drawn(wording: Wording, example: Example = FOX, count: int = 400) -> list[str]:
    return [caption(example, wording, stream(0, "test", i)) for i in range(count)]


def test_each_of_several_captions_comes_as_often() -> None:
    counts = Counter(drawn(Wording(), count=900))
    assert set(counts) == set(FOX.captions) and min(counts.values()) > 240


def test_templates_are_filled_from_captions_and_fields() -> None:
    wording = Wording(("{name} ({styles}), {year}: {{{caption}}}",))
    found = set(drawn(wording))
    assert found == {
        f"fox ({style}), 2020: {{{text}}}" for style in ("flat", "soft") for text in FOX.captions
    }
    assert wording.fields == {"name", "styles", "year", "caption"}


def test_one_of_several_templates_is_chosen() -> None:
    found = Counter(drawn(Wording(("a {name}", "the {name}"))))
    assert set(found) == {"a fox", "the fox"} and min(found.values()) > 150


def test_shuffling_moves_all_parts_but_the_first_kept() -> None:
    found = drawn(Wording(shuffle=True, keep_first=1), TAGS)
    parts = [text.split(", ") for text in found]
    assert {p[0] for p in parts} == {"girl"}
    assert {tuple(sorted(p)) for p in parts} == {("day", "girl", "outdoors", "red hair", "smile")}
    seconds = Counter(p[1] for p in parts)
    assert len(seconds) == 4 and min(seconds.values()) > 60
    assert len(set(found)) == 24


def test_parts_are_left_out_as_often_as_asked_but_never_the_kept() -> None:
    found = drawn(Wording(part_dropout=0.25, keep_first=2), TAGS, count=1000)
    assert all(text.startswith("girl, red hair") for text in found)
    kept = Counter(part for text in found for part in text.split(", ")[2:])
    assert all(700 < kept[part] < 800 for part in ("smile", "outdoors", "day"))
    assert drawn(Wording(part_dropout=1.0), TAGS, count=1) == [""]


def test_a_caption_is_left_as_it_is_unless_asked() -> None:
    assert drawn(Wording(), TAGS, count=1) == list(TAGS.captions)


def test_trigger_prefix_and_suffix_are_always_there() -> None:
    wording = Wording(trigger="sks", prefix="<", suffix=">", shuffle=True, part_dropout=1.0)
    assert drawn(wording, TAGS, count=2) == ["<sks>", "<sks>"]
    assert drawn(Wording(("{name}",), trigger="sks"), count=1) == ["sks, fox"]


def test_rows_say_the_same_however_the_batch_is_divided_and_change_with_step_and_seed() -> None:
    wording = Wording(("{styles} {caption}",), shuffle=True)
    rows = [FOX, TAGS, FOX, FOX, TAGS, FOX]
    rows = [
        row if row is FOX else Example("t", lambda: b"", TAGS.captions, fields=FIELDS)
        for row in rows
    ]
    whole = captions(rows, wording, Draw(1, 5, 6))
    parts = [captions(rows[i : i + 2], wording, Draw(1, 5, 6, i, 2)) for i in (0, 2, 4)]
    assert [text for part in parts for text in part] == whole
    assert captions(rows, wording, Draw(1, 6, 6)) != whole
    assert captions(rows, wording, Draw(2, 5, 6)) != whole


def test_what_a_picture_lacks_is_named_with_what_it_has() -> None:
    mute = Example("mute", lambda: b"", fields=FIELDS)
    with pytest.raises(FileError, match=r"mute has no 'caption' .* it has name, styles, year"):
        caption(mute, Wording(), stream(0, "x"))
    with pytest.raises(FileError, match=r"fox has no 'colour'.*it has caption, name"):
        caption(FOX, Wording(("{colour}",)), stream(0, "x"))
    with pytest.raises(FileError, match="it has no text at all"):
        caption(Example("bare", lambda: b""), Wording(), stream(0, "x"))


@pytest.mark.parametrize("template", ["{", "}", "{}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{ a}"])
def test_a_template_holds_names_of_fields_and_nothing_that_runs(template: str) -> None:
    with pytest.raises(RequestError, match="names no field"):
        Wording((template,))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"templates": ()}, "at least one caption template"),
        ({"dropout": 1.5}, "dropout must be from 0 to 1; got 1.5"),
        ({"part_dropout": -0.1}, "part_dropout must be"),
        ({"keep_first": -1}, "keep_first must be 0 or more"),
        ({"shuffle": True, "separator": ""}, "need a separator"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Wording(**settings)  # type: ignore[arg-type]
