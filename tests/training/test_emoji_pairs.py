"""The script that builds the emoji shards: what it matches, refuses, records and writes."""

import base64
import hashlib
import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safelight.errors import FileError
from safelight.training.scenes.cutouts import read_cutouts
from scenes_tiny import disc, encoded

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import emoji_pairs
from emoji_sources import LEFT_OUT, MORE_WORDS, STYLES, WORDS, Package


def concept(hexcode: str, label: str, group: int = 3, **rest: Any) -> dict[str, Any]:
    emoji = "".join(chr(int(part, 16)) for part in hexcode.split("-"))
    return {
        "hexcode": hexcode,
        "label": label,
        "group": group,
        "subgroup": 34,
        "emoji": emoji,
        "tags": ["pet", "animal"],
        **rest,
    }


DOG, CAT = concept("1F436", "dog"), concept("1F431", "Cat’s face")


def icons(*names: str, **aliases: str) -> dict[str, Any]:
    return {
        "icons": {name: {"body": f"<g id='{name}'/>"} for name in names},
        "aliases": {name.replace("_", "-"): {"parent": parent} for name, parent in aliases.items()},
    }


def match(chosen: list[Any], pack: Any, *codes: Any, **instead: str) -> dict[str, str]:
    return emoji_pairs.match_names(chosen, pack, codes, instead)


def test_names_are_spelt_as_sets_of_icons_spell_them() -> None:
    assert emoji_pairs.spellings("Man’s Shoe") == ("mans-shoe", "mansshoe")
    assert emoji_pairs.spellings("piñata") == ("piata", "piata")
    assert emoji_pairs.spellings("flag: Peru") == ("flag-peru", "flagperu")


def test_a_full_name_goes_before_an_alias_and_that_before_a_short_code() -> None:
    codes = {"1F436": ["cats_face", "hound"], "1F431": "kitty"}
    assert match([DOG, CAT], icons("cats-face", "hound"), codes) == {
        "1F431": "cats-face",
        "1F436": "hound",
    }
    assert match([DOG, CAT], icons("pup", "kitty", dog="pup"), codes) == {
        "1F436": "pup",
        "1F431": "kitty",
    }
    assert match([DOG], icons("bird"), codes) == {}


def test_an_icon_serves_one_concept_and_a_choice_by_hand_goes_first() -> None:
    assert match([DOG, CAT], icons("dog"), {"1F431": "dog"}) == {"1F436": "dog"}
    assert match([DOG, CAT], icons("dog"), {}, **{"1F431": "dog"}) == {"1F431": "dog"}


def test_an_alias_that_leads_nowhere_is_no_icon() -> None:
    assert match([DOG], icons(dog="gone"), {}) == {}


def test_words_are_plain_and_bounded() -> None:
    assert emoji_pairs.plain_name("Japanese “secret” button") == "japanese secret button"
    assert emoji_pairs.plain_name("man’s shoe") == "man's shoe"
    found = emoji_pairs.keywords(DOG, ["dog", "man_s_friend", "pet", "✓", "woman’s", "puppy"])
    assert found == ["pet", "animal", "man s friend", "puppy"]
    assert len(emoji_pairs.keywords(DOG, [f"word {n}" for n in range(40)])) == 16


def test_clock_faces_people_and_symbols_are_not_core() -> None:
    groups = {"1": "people-body", "3": "animals-nature", "5": "travel-places", "8": "symbols"}
    assert emoji_pairs.is_core(DOG, groups)
    assert emoji_pairs.is_core(concept("1F680", "rocket", 5), groups)
    assert not emoji_pairs.is_core(concept("1F550", "one o’clock", 5), groups)
    assert not emoji_pairs.is_core(concept("1F55C", "one-thirty", 5), groups)
    assert not emoji_pairs.is_core(concept("1F468", "man", 1), groups)
    assert not emoji_pairs.is_core(concept("2795", "plus", 8), groups)


def test_every_style_names_a_licence_a_credit_and_a_checksum() -> None:
    for style in STYLES:
        assert style.licence in {"MIT", "Apache-2.0", "CC-BY-4.0"} and style.credit
        assert len(base64.b64decode(style.package.sha512)) == 64
    assert set(LEFT_OUT) <= {style.name for style in STYLES}


def tarball(folder: Path, package: Package, files: dict[str, bytes]) -> Package:
    """Write a package of these files; gives it with its checksum."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    folder.mkdir(exist_ok=True)
    (folder / package.file).write_bytes(stream.getvalue())
    digest = hashlib.sha512(stream.getvalue()).digest()
    return replace(package, sha512=base64.b64encode(digest).decode())


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three packages: words, more words, and one style with four files, two of them alike."""
    folder = tmp_path / "packages"
    entries = [
        DOG,
        CAT,
        concept("1F3F3-FE0F", "white flag", 9),
        concept("1F9B0", "red hair", 2),
        concept("1F42D", "mouse face"),
    ]
    meta = {"groups": {"3": "animals-nature", "9": "flags"}, "subgroups": {"34": "animal-mammal"}}
    words = {
        "en/data.json": json.dumps(entries).encode(),
        "meta/groups.json": json.dumps(meta).encode(),
    }
    more = {"dist/emoji-en-US.json": json.dumps({DOG["emoji"]: ["dog", "puppy"]}).encode()}
    dog, cat = encoded(disc((200, 90, 20))), encoded(disc((90, 90, 90)))
    files = {"1f436": dog, "1f431": cat, "1f42d": cat, "1f3f3-fe0f": cat, "1f9b0": dog}
    art = {f"assets/{name}.webp": data for name, data in files.items()}
    style = replace(STYLES[0], package=tarball(folder, STYLES[0].package, art))
    monkeypatch.setattr(emoji_pairs, "STYLES", (style,))
    monkeypatch.setattr(emoji_pairs, "WORDS", tarball(folder, WORDS, words))
    monkeypatch.setattr(emoji_pairs, "MORE_WORDS", tarball(folder, MORE_WORDS, more))

    def never(*_: Any, **__: Any) -> None:
        pytest.fail("a download without being asked")

    monkeypatch.setattr(emoji_pairs.subprocess, "run", never)
    return folder


def build(folder: Path, packages: Path, *more: str) -> int:
    return emoji_pairs.main([str(folder), "--packages", str(packages), "--workers", "1", *more])


def test_a_build_gives_shards_that_are_read_and_its_sources(tmp_path: Path, packages: Path) -> None:
    assert build(tmp_path / "one", packages) == 0
    assert build(tmp_path / "two", packages) == 0
    shard = tmp_path / "one" / "emoji-00000.tar"
    assert shard.read_bytes() == (tmp_path / "two" / "emoji-00000.tar").read_bytes()
    found = read_cutouts([shard])
    # the flag is twemoji's alone, hair is no concept, and the cat's face is the mouse's drawing
    assert {entry.name for entry in found.entries} == {"dog", "mouse face"}
    dog = next(entry for entry in found.entries if entry.name == "dog")
    assert (dog.key, dog.split, dog.core, dog.style_words) == (
        "fluent-3d_1f436",
        "train",
        True,
        ("3d", "glossy 3d"),
    )
    assert dog.keywords == ("pet", "animal", "puppy") and dog.licence == "MIT"
    sources = json.loads((tmp_path / "one" / "SOURCES.json").read_text())
    assert sources[0]["pictures"] == 2 and sources[0]["credit"] == dog.credit
    assert dog.credit in (tmp_path / "one" / "SOURCES.md").read_text()


def test_a_package_of_another_checksum_is_refused(
    tmp_path: Path, packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = emoji_pairs.STYLES[0].package
    (packages / package.file).write_bytes(b"something else")
    assert build(tmp_path / "one", packages) == 1
    assert "is not @lobehub/fluent-emoji-3d@1.1.0: other checksum" in capsys.readouterr().err
    (packages / package.file).unlink()
    with pytest.raises(FileError, match="give --download to fetch it"):
        emoji_pairs.opened(package, packages)
    assert not (tmp_path / "one").exists()


def test_npm_is_asked_for_exact_versions(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(emoji_pairs.subprocess, "run", lambda command, **_: asked.append(command))
    (packages / WORDS.file).unlink()
    emoji_pairs.download(packages)
    assert asked == [
        ["npm", "pack", "emojibase-data@17.0.0", "--pack-destination", str(packages)],
    ]


def test_a_picture_is_stored_small_with_its_clear_parts_clear() -> None:
    large = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    large.paste((255, 0, 0, 255), (64, 64, 192, 192))
    stream = io.BytesIO()
    large.save(stream, "PNG")
    with Image.open(io.BytesIO(emoji_pairs.picture(stream.getvalue()))) as small:
        assert small.format == "WEBP" and small.size == (128, 128)
        pixels = small.convert("RGBA")
    assert pixels.getpixel((4, 4))[3] == 0
    red, green, blue, opacity = pixels.getpixel((64, 64))
    assert red > 240 and green < 12 and blue < 12 and opacity == 255
