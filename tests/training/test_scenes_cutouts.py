"""Cut-outs: what is read from shards, what is refused, what is measured."""

import tarfile
from pathlib import Path

import pytest
import torch

from safelight.errors import CheckpointError, FileError
from safelight.training.scenes.colours import NAMES
from safelight.training.scenes.cutouts import load_cutouts, read_cutouts, save_cutouts
from scenes_tiny import (
    THINGS,
    cutouts,
    disc,
    encoded,
    entry,
    of_one,
    square,
    words,
    write_shard,
    write_tar,
)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_shard_gives_back_the_pixels_and_words_that_went_in(tmp_path: Path, form: str) -> None:
    made = cutouts()
    found = read_cutouts([write_shard(tmp_path / "a.tar", made, form)])
    assert found.entries == made.entries
    seen = made.rgba[..., 3:] > 0  # a lossless WebP may still change the colour of clear pixels
    assert torch.equal(found.rgba * seen, made.rgba * seen)


def test_shards_are_read_in_order_and_only_what_is_kept_is_decoded(tmp_path: Path) -> None:
    made = cutouts()
    first = write_shard(tmp_path / "a.tar", made.where(lambda e: e.style == "noto"))
    broken = [("noto_x.png", b"no picture"), ("noto_x.json", words(entry("1F42D", "twemoji")))]
    second = write_tar(tmp_path / "b.tar", broken)
    found = read_cutouts([first, second], lambda e: e.style == "noto" and e.name != "cat")
    assert [e.name for e in found.entries] == [n for n, _, _ in THINGS.values() if n != "cat"]
    with pytest.raises(FileError, match=r"noto_x is a broken picture"):
        read_cutouts([first, second])


def test_a_cache_file_holds_all_and_another_file_is_refused(tmp_path: Path) -> None:
    made = cutouts()
    path = tmp_path / "cutouts.safetensors"
    save_cutouts(made, path)
    found = load_cutouts(path)
    assert found.entries == made.entries
    assert torch.equal(found.rgba, made.rgba)
    for name in ("boxes", "clear", "paintable"):
        assert (getattr(found.catalogue, name) == getattr(made.catalogue, name)).all()
    from safelight.checkpoints.writing import write_safetensors

    write_safetensors(tmp_path / "other.safetensors", [], {"format": "pt"})
    with pytest.raises(CheckpointError, match="not a file of cut-outs"):
        load_cutouts(tmp_path / "other.safetensors")


def good() -> list[tuple[str, bytes]]:
    return [("a.png", encoded(disc((9, 9, 9)))), ("a.json", words(entry("1F436", "noto")))]


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ([good()[0]], "a has no JSON; 1 samples are incomplete"),
        ([good()[1]], "a has no picture"),
        ([("a.png", encoded(disc((9, 9, 9))[:64].clone())), good()[1]], r"\(128, 64\); expected"),
        ([("a.png", encoded(disc((9, 9, 9)))[:300]), good()[1]], "a is a broken picture"),
        ([good()[0], ("a.json", b"{nothing")], "cannot be read as JSON"),
        ([good()[0], ("a.json", b"[1]")], "holds no JSON object"),
        ([good()[0], ("a.json", b"[" * 60_000)], "cannot be read as JSON"),
        ([("a.png", bytes((1 << 20) + 1)), good()[1]], "has 1048577 bytes, over"),
        ([("a.json", bytes((1 << 16) + 1)), good()[0]], "has 65537 bytes, over"),
        ([("readme.txt", b"hello")], "no cut-out was found in 1 shards"),
    ],
)
def test_a_faulty_sample_is_named(
    tmp_path: Path, files: list[tuple[str, bytes]], fault: str
) -> None:
    with pytest.raises(FileError, match=fault):
        read_cutouts([write_tar(tmp_path / "a.tar", files)])


def test_words_that_lack_a_field_are_refused(tmp_path: Path) -> None:
    text = words(entry("1F436", "noto")).replace(b'"style":', b'"stile":')
    with pytest.raises(CheckpointError, match=r"a\.json: style"):
        read_cutouts([write_tar(tmp_path / "a.tar", [good()[0], ("a.json", text)])])


def test_a_truncated_or_missing_shard_is_named(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "a.tar", cutouts()).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"b\.tar"):
        read_cutouts([tmp_path / "b.tar"])
    (tmp_path / "c.tar").write_bytes(b"text that is no archive" * 100)
    with pytest.raises(FileError, match=r"c\.tar is not a whole tar file"):
        read_cutouts([tmp_path / "c.tar"])
    with pytest.raises(FileError, match=r"none\.tar"):
        read_cutouts([tmp_path / "none.tar"])


def test_links_in_a_shard_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_bytes(words(entry("1F436", "noto")))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("a.json")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    with pytest.raises(FileError, match="no cut-out was found"):
        read_cutouts([tmp_path / "a.tar"])


def test_a_box_is_that_of_what_can_be_seen() -> None:
    picture = square((10, 200, 10), 0)
    picture[16:48, 64:128, 3] = 255
    picture[100, 100, 3] = 10  # the haze that lossy compression leaves
    left, top, right, bottom = of_one(picture).catalogue.boxes[0].tolist()
    assert (left, top, right, bottom) == (0.5, 0.125, 1.0, 0.375)


def test_an_object_is_not_clear_on_a_background_of_its_own_colour() -> None:
    table = of_one(disc((214, 38, 42))).catalogue.clear[0]
    assert not table[NAMES.index("red")]
    assert table.sum() == 11
    black = of_one(disc((5, 5, 5))).catalogue.clear[0]
    assert not black[NAMES.index("black")] and black[NAMES.index("white")]


def test_an_object_that_is_mostly_of_one_colour_is_lost_on_it_whatever_the_rest() -> None:
    picture = disc((248, 248, 248))
    picture[:48, :, :3] = 0  # a third is black: the mean is grey, but most of it is white
    table = of_one(picture).catalogue.clear[0]
    assert not table[NAMES.index("white")] and table[NAMES.index("red")]


def test_white_or_tiny_objects_take_no_paint() -> None:
    assert of_one(disc((120, 80, 60))).catalogue.paintable[0]
    assert of_one(disc((110, 112, 115))).catalogue.paintable[0]  # grey does
    assert not of_one(disc((250, 250, 250))).catalogue.paintable[0]
    assert not of_one(disc((120, 80, 60), 0.1)).catalogue.paintable[0]


def test_concepts_are_numbered_across_styles() -> None:
    numbers = cutouts().catalogue.concepts().tolist()
    assert numbers == list(range(len(THINGS))) * 3
