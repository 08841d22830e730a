"""Dynamic prompts: stable choices, weights as asked for, and no way out of the folder."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.errors import FileError, PromptError
from safelight.text.dynamic import combinations, expand, is_dynamic
from safelight.text.wildcards import Wildcards


@pytest.fixture(scope="module")
def wildcards(tmp_path_factory: pytest.TempPathFactory) -> Wildcards:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("SECRET\n")
    folder = outside / "wildcards"
    (folder / "animals").mkdir(parents=True)
    (folder / "colour.txt").write_text("red\n# a remark\n\nblue\n3::green\n")
    (folder / "animals" / "cats.txt").write_text("\ufefflion\n{big|small} __colour__ tiger\n")
    (folder / "animals" / "dogs.txt").write_text("wolf\n")
    (folder / "loop.txt").write_text("a __loop__\n")
    (folder / "twice.txt").write_text("__twice2__ __twice2__\n")
    (folder / "twice2.txt").write_text("__twice__ __twice__\n")
    (folder / "empty.txt").write_text("# nothing\n")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    return Wildcards.of(folder)


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("{a|b}", {"a", "b"}),
        ("x{a|}y", {"xay", "xy"}),
        ("{{a|b}|c}", {"a", "b", "c"}),
        ("{2$$a|b|c}", {"a, b", "a, c", "b, c", "b, a", "c, a", "c, b"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$+$$a|b}", {"a", "b", "a+b", "b+a"}),
        ("{-2$$a|b}", {"a", "b", "a, b", "b, a"}),
        ("{2-$$a|b}", {"a, b", "b, a"}),
        ("{9$$a|b}", {"a, b", "b, a"}),
        ("{0$$a|b}", {""}),
        ("{0::a|b}", {"b"}),
        ("{[x|y]|z}", {"[x|y]", "z"}),
        (r"\{a|b\} {c|d}", {"{a|b} c", "{a|b} d"}),
    ],
)
def test_a_choice_gives_all_it_can_and_nothing_else(text: str, possible: set[str]) -> None:
    assert {expand(text, seed) for seed in range(200)} == possible
    unordered = {
        tuple(sorted(t.replace("+", ", ").replace(" and ", ", ").split(", "))) for t in possible
    }
    listed = list(combinations(text))
    assert set(listed) <= possible and len(listed) == len(set(listed)) == len(unordered)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "(a:1.2) [b:c:5] [d|e] <lora:x:1>",
        "{prompt}",
        "{}",
        "{a",
        "a}",
        "a|b",
        "{a|b",
        "__x__",
    ],
)
def test_what_is_no_choice_stays(text: str) -> None:
    assert expand(text, 1) == text and list(combinations(text)) == [text]
    assert not is_dynamic(text)


def test_choices_are_the_same_for_ever() -> None:
    """Recorded from the first version: SHA-256 of "seed:count"."""
    text = "{a|b|c|d|e|f|g|h} {2$$p|q|r|s}"
    assert [expand(text, seed) for seed in range(4)] == ["h r, q", "g q, r", "d p, r", "c q, s"]


def test_weights_are_shares() -> None:
    counts = Counter(expand("{1::a|3::b|0.5::c}", seed) for seed in range(4000))
    for option, share in (("a", 1 / 4.5), ("b", 3 / 4.5), ("c", 0.5 / 4.5)):
        assert abs(counts[option] / 4000 - share) < 0.03


def test_wildcards_are_lines_of_files_nested_and_weighted(wildcards: Wildcards) -> None:
    colours = Counter(expand("__colour__", seed, wildcards) for seed in range(1000))
    assert set(colours) == {"red", "blue", "green"} and colours["green"] > colours["red"] * 2
    cats = {expand("__animals/cats__", seed, wildcards) for seed in range(300)}
    assert cats == {"lion"} | {f"{s} {c} tiger" for s in ("big", "small") for c in colours}
    assert {expand("__animals/*__", seed, wildcards) for seed in range(300)} == cats | {"wolf"}
    pairs = {expand("{2$$-$$__colour__}", seed, wildcards) for seed in range(200)}
    assert len(pairs) == 6 and "red-red" not in pairs
    assert set(combinations("__animals/*__", wildcards)) == cats | {"wolf"}


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "animals/../../secret", "link", "../*"]
)
def test_no_name_leads_out_of_the_folder(wildcards: Wildcards, name: str) -> None:
    with pytest.raises(PromptError, match="there is no wildcard"):
        expand(f"__{name}__", 1, wildcards)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__color__", "did you mean colour"),
        ("__loop__", "leads back to itself"),
        ("__twice__", "leads back|choices|without end"),
        ("__empty__", "no line"),
        ("{0::a|0::b}", "weight 0"),
        ("{" * 2000 + "|", "deep"),
        ("{a|b}" * 11_000, "10,000 choices"),
    ],
)
def test_what_cannot_end_is_an_error(wildcards: Wildcards, text: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        expand(text, 1, wildcards)


def test_many_combinations_are_made_one_by_one() -> None:
    first = list(islice(combinations("{a|b}" * 500), 3))
    assert [text[-3:] for text in first] == ["aaa", "aab", "aba"]


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is not a folder; give a folder of"):
        Wildcards.of(tmp_path / "nowhere")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(FileError, match="UTF-8"):
        Wildcards.of(tmp_path)


@given(st.text(alphabet="ab{}|$:-_,0123[]\\ ", max_size=50), st.integers())
def test_any_text_expands_to_one_of_its_combinations_or_an_error(text: str, seed: int) -> None:
    try:
        found = expand(text, seed)
    except PromptError:
        return
    assert not set(found) - set(text) - {","}
    if "$$" not in text:
        listed = list(islice(combinations(text), 2000))
        assert found in listed or len(listed) == 2000
