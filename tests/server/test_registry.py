"""Names lead to what was listed, and messages tell no folders."""

import shutil
from pathlib import Path

import pytest

from addons_tiny import write_lora, write_word
from safelight.server.refusals import NotAllowed, Unknown
from safelight.server.registry import Listed, Registry, listed, without_folders
from tables import each

NAMES = ("plain", "sub/Style", "other/Style", "sub/Deep", "emoji v1.5")


@pytest.fixture
def registry() -> Registry:
    return Registry(Listed(n, Path(f"/models/{n}.safetensors"), "model") for n in NAMES)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("plain", "plain"),
        ("plain.safetensors", "plain"),
        ("PLAIN", "plain"),
        ("sub/Style", "sub/Style"),
        ("sub\\style.safetensors", "sub/Style"),
        ("deep", "sub/Deep"),
        (" plain ", "plain"),
        ("emoji v1.5", "emoji v1.5"),
    ],
)
def test_a_name_is_found_as_people_write_it(registry: Registry, given: str, found: str) -> None:
    assert registry.find("model", given).name == found


def test_a_name_of_several_is_asked_back(registry: Registry) -> None:
    with pytest.raises(NotAllowed, match="may be sub/Style or other/Style"):
        registry.find("model", "style")


@pytest.mark.parametrize(
    "name", ["", "/models/plain.safetensors", "../plain", "./plain", "sub/../plain", "plain\0", "*"]
)
def test_a_path_is_no_name(registry: Registry, name: str) -> None:
    with pytest.raises(Unknown):
        registry.find("model", name)


def test_what_is_like_it_is_suggested_and_else_all_are_named(registry: Registry) -> None:
    with pytest.raises(Unknown, match="did you mean plain"):
        registry.find("model", "plian")
    with pytest.raises(Unknown, match=r"there are emoji v1\.5, other/Style"):
        registry.find("model", "qqq")
    with pytest.raises(Unknown, match="this server has none"):
        registry.find("lora", "x")


def test_names_with_control_characters_are_escaped() -> None:
    registry = Registry([Listed("a\x1b[31m\nb", Path("/x"), "model")])
    with pytest.raises(Unknown) as unknown:
        registry.find("model", "gone\x1b[2J\n")
    assert "\x1b" not in str(unknown.value) and "\n" not in str(unknown.value)


@each(
    {
        "/home/me/models/x.pt is truncated": "x.pt is truncated",
        "cannot read (/a/b c.pt): no": "cannot read (b c.pt): no",
        "in '/a/b/c.pt', there": "in 'c.pt', there",
        "C:\\Users\\me\\x.pt is bad": "x.pt is bad",
        "~/x/y.pt: bad": "y.pt: bad",
        "width x height x steps is 3/4 of it": "width x height x steps is 3/4 of it",
        "GET /api/models lists them": "GET /api/models lists them",
        "see sub/Style and a/b": "see sub/Style and a/b",
        "and/or": "and/or",
    }
)
def test_messages_tell_no_folders(given: str, expected: str) -> None:
    assert without_folders(given) == expected


def test_messages_call_files_as_requests_do(registry: Registry) -> None:
    told = registry.without_paths("/models/sub/Style.safetensors with /models/plain.safetensors")
    assert told == "sub/Style with plain"


def test_folders_are_listed_by_what_headers_say(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "ui"
    shutil.copytree(models, folder / "models" / "Stable-diffusion")
    write_lora(folder / "models" / "Lora" / "style.safetensors")
    write_word(folder / "embeddings" / "charm.safetensors")
    (folder / "models" / "Stable-diffusion" / "broken.safetensors").write_bytes(b"nothing")
    (folder / "models" / "notes.txt").write_text("x")
    registry = listed((folder,))

    def names(shelf: str) -> list[str]:
        return [item.name for item in registry.on(shelf)]  # type: ignore[arg-type]

    assert names("model") == ["Stable-diffusion/one", "Stable-diffusion/two"]
    assert names("lora") == ["style"] and names("embedding") == ["charm"]
    assert registry.find("model", "one").path.name == "one.safetensors"
    assert all(str(tmp_path) not in str(i.to_json()) for i in registry.on("model"))


def test_a_model_that_is_given_by_its_path_is_listed_by_its_name(models: Path) -> None:
    registry = listed((), models / "two.safetensors")
    assert [item.name for item in registry.on("model")] == ["two"]
    both = listed((models,), models / "two.safetensors")
    assert [item.name for item in both.on("model")] == ["one", "two"]
