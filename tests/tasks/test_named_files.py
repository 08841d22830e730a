"""Every file that a request names is found, in order, and can be renamed without touching more."""

from safelight.tasks.named_files import named_files, renamed
from safelight.tasks.request import Request

FULL = Request.parse(
    {
        "prompt": "a",
        "model": "m.safetensors",
        "vae": "v.safetensors",
        "source": {"picture": "s.png"},
        "mask": {"picture": "k.png"},
        "controls": [
            {"net": "c1.safetensors", "picture": "p1.png", "scale": 0.5},
            {"net": "c2.safetensors"},
        ],
        "image_prompts": [{"adapter": "ip.bin", "pictures": ["a.png", "b.png"], "mask": "w.png"}],
        "references": [{"picture": "r.png"}],
        "refiner": {"model": "x.safetensors"},
        "clip": "clip",
    },
    check_names=False,
)


def test_files_are_found_by_role_and_the_second_of_a_role_is_numbered() -> None:
    found = {file.role: file.name for file in named_files(FULL)}
    assert found == {
        "model": "m.safetensors",
        "vae": "v.safetensors",
        "source": "s.png",
        "mask": "k.png",
        "control": "c1.safetensors",
        "control picture": "p1.png",
        "control 2": "c2.safetensors",
        "image adapter": "ip.bin",
        "image prompt": "a.png",
        "image prompt 2": "b.png",
        "image prompt mask": "w.png",
        "reference": "r.png",
        "refiner": "x.safetensors",
        "clip": "clip",
    }
    pictures = {file.role for file in named_files(FULL) if file.is_picture}
    assert "image prompt 2" in pictures and "control 2" not in pictures and "clip" not in pictures


def test_renaming_changes_the_names_and_nothing_else() -> None:
    moved = renamed(FULL, lambda file: f"there/{file.name}")
    assert [f.name for f in named_files(moved)] == [f"there/{f.name}" for f in named_files(FULL)]
    assert [f.role for f in named_files(moved)] == [f.role for f in named_files(FULL)]
    assert renamed(moved, lambda file: file.name.removeprefix("there/")) == FULL
    assert moved.controls[0].scale == 0.5


def test_a_request_without_files_names_none() -> None:
    plain = Request(prompt="a")
    assert named_files(plain) == [] and renamed(plain, lambda _: "x") == plain


def test_the_place_of_a_file_is_where_a_message_would_say_it_is() -> None:
    places = {file.role: file.place for file in named_files(FULL)}
    assert places["control 2"] == "controls.1.net"
    assert places["source"] == "source.picture"
