"""`safelight prompt --embedding` shows learned words as the tokens that they become."""

import json
from pathlib import Path

import pytest

from addons_tiny import write_word
from cli_tiny import Cli, Ran


def whole(ran: Ran) -> dict[str, object]:
    """The one object that it printed, on many lines."""
    return json.loads(ran.out)


def tokens(seen: dict[str, object]) -> list[tuple[str, int]]:
    (text,) = seen["texts"]  # type: ignore[misc]
    return [(t["text"], len(t["ids"])) for chunk in text["chunks"] for t in chunk["tokens"]]


@pytest.mark.parametrize(("given", "said"), [("", "glow"), (",word=shine", "shine")])
def test_a_learned_word_takes_the_places_of_its_vectors(
    given: str, said: str, safelight: Cli, place: Path
) -> None:
    write_word(place / "glow.safetensors", rows=3)
    seen = whole(safelight("prompt", f"a {said} cat", "--json"))
    assert (said, 3) not in tokens(seen)
    ran = safelight("prompt", f"a {said} cat", "--embedding", f"glow.safetensors{given}", "--json")
    assert tokens(whole(ran)) == [("a</w>", 1), (said, 3), ("cat</w>", 1)]


def test_two_words_keep_apart(safelight: Cli, place: Path) -> None:
    for name in ("glow", "shade"):
        write_word(place / f"{name}.safetensors", rows=2)
    both = ("--embedding", "glow.safetensors", "--embedding", "shade.safetensors")
    seen = whole(safelight("prompt", "glow shade", *both, "--json"))
    assert tokens(seen) == [("glow", 2), ("shade", 2)]
    ids = [t["ids"] for t in seen["texts"][0]["chunks"][0]["tokens"]]  # type: ignore[index]
    assert not set(ids[0]) & set(ids[1])


def test_a_word_for_another_family_is_refused_with_both_named(
    safelight: Cli, place: Path, model: Path
) -> None:
    write_word(place / "glow.safetensors", width=1024)
    told = safelight("prompt", "glow", "-m", model, "--embedding", "glow.safetensors").error()
    assert "SD 2.x (token width 1024)" in told and "take one made for it" in told


def test_a_word_whose_file_is_not_there_is_refused(safelight: Cli) -> None:
    assert "nowhere.pt" in safelight("prompt", "a", "--embedding", "nowhere.pt").error()
