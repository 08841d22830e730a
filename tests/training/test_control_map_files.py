"""Finished maps: found by the names of their pictures, and nowhere but in their folder."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from safelight.errors import FileError, RequestError
from safelight.preprocessors.making import Making
from safelight.training.buckets import Placement
from safelight.training.control_files import open_maps
from safelight.training.control_maps import MapMaker
from safelight.training.sources.example import Example, Problem

PLACE = Placement((8, 8), (8, 8), (8, 8))


class Named:
    """A source of pictures of these ids."""

    name = "named"
    problems: Sequence[Problem] = ()

    def __init__(self, *ids: str) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def example(self, index: int) -> Example:
        return Example(self.ids[index], lambda: b"")


def put(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


def test_a_map_has_its_pictures_name_in_any_folder_below_and_any_format(tmp_path: Path) -> None:
    put(tmp_path / "maps/a.png", 1)
    put(tmp_path / "maps/deep/b.webp", 2)
    put(tmp_path / "maps/c.JPG", 3)
    found = open_maps(tmp_path / "maps", [Named("a", "deep/b"), Named("c")], [PLACE] * 3)
    assert [path.name for path in found.paths] == ["a.png", "b.webp", "c.JPG"]
    some = found.like(Named("c", "a"))
    assert [some.example(i).id for i in range(2)] == ["c", "a"]
    assert some.example(1).read() == (tmp_path / "maps/a.png").read_bytes()
    assert some.digest == found.digest


def test_the_digest_tells_of_another_map(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1)
    before = open_maps(tmp_path, [Named("a")], [PLACE]).digest
    assert open_maps(tmp_path, [Named("a")], [PLACE]).digest == before
    put(tmp_path / "a.png", 2)
    assert open_maps(tmp_path, [Named("a")], [PLACE]).digest != before


@pytest.mark.parametrize("name", ["../secret", "link", "a\0b", "..", "/etc/secret"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    put(tmp_path / "secret.png")
    put(tmp_path / "maps/a.png")
    (tmp_path / "maps/link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(FileError, match="1 of 2 pictures have no map in") as error:
        open_maps(tmp_path / "maps", [Named("a", name)], [PLACE] * 2)
    assert "\0" not in str(error.value)


def test_masks_are_not_drawn() -> None:
    with pytest.raises(RequestError, match="needs masks, which training does not draw"):
        MapMaker(Making("inpaint"))
