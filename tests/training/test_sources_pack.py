"""Packing loses nothing: shards hold what the source held, byte for byte."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from safelight.errors import FileError, OutputError, RequestError
from safelight.training.sources.folder import open_folder
from safelight.training.sources.opening import open_source
from safelight.training.sources.pack import pack
from source_files import write_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))


def written(folder: Path) -> Path:
    write_folder(folder, {"a.b": "x", "a-b": "y", "sub/c": "one\ntwo", "__d": "ü", "e": None})
    rows = [{"file_name": "a.b.png", "text": "from the table", "artist": "me", "weight": 2}]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_shards_hold_what_the_source_held(tmp_path: Path) -> None:
    source = open_folder(written(tmp_path / "set"))
    paths = pack(source, tmp_path / "out", per_shard=2)
    assert [p.name for p in paths] == [f"shard-{i:05}.tar" for i in range(3)]
    packed = open_source(tmp_path / "out")
    assert len(packed) == len(source) == 5 and packed.problems == ()
    for index in range(5):
        one, two = source.example(index), packed.example(index)
        assert two.read() == one.read()
        assert (two.captions, two.weight) == (one.captions, one.weight)
        assert one.fields.items() <= two.fields.items()


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = open_folder(written(tmp_path / "set"))
    one, two = (pack(source, tmp_path / name) for name in ("one", "two"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_any_reader_of_tar_finds_the_files_of_a_key_side_by_side(tmp_path: Path) -> None:
    (path,) = pack(open_folder(written(tmp_path / "set")), tmp_path / "out")
    with tarfile.open(path) as tar:
        names = [member.name for member in tar.getmembers()]
    keys = ["-d", "a-b", "a-b-2", "e", "sub/c"]
    stems = [name.partition(".")[0] for name in names]
    assert sorted(stems[::2]) == sorted(keys) and stems[::2] == stems[1::2]
    assert {name.partition(".")[2] for name in names} == {"png", "json"}


def test_a_shard_is_closed_when_it_has_its_bytes(tmp_path: Path) -> None:
    source = open_folder(written(tmp_path / "set"))
    limit = 2 * len(source.example(0).read()) + 400
    paths = pack(source, tmp_path / "out", shard_bytes=limit)
    assert len(paths) == 3 and len(open_source(tmp_path / "out")) == 5


def test_a_folder_that_holds_anything_is_left_alone(tmp_path: Path) -> None:
    source = open_folder(write_folder(tmp_path / "set", {"a": "x"}))
    with pytest.raises(OutputError, match="exists and is not empty"):
        pack(source, tmp_path / "set")
    with pytest.raises(RequestError, match="1 picture or more; got 0"):
        pack(source, tmp_path / "out", per_shard=0)
    assert not (tmp_path / "out").exists()


def test_what_is_no_picture_is_not_packed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"a": "x"})
    (folder / "a.png").write_bytes(b"hello")
    with pytest.raises(FileError, match="a is no picture"):
        pack(open_folder(folder), tmp_path / "out")


def test_all_kinds_of_pictures_keep_their_kind(tmp_path: Path) -> None:
    kinds = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
    for kind, ending in kinds.items():
        file = io.BytesIO()
        Image.new("RGB", (4, 4)).save(file, kind)
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{kind}.{ending}").write_bytes(file.getvalue())
    (path,) = pack(open_folder(tmp_path / "set"), tmp_path / "out")
    with tarfile.open(path) as tar:
        names = {m.name for m in tar.getmembers() if not m.name.endswith("json")}
    assert names == {f"{kind}.{ending}" for kind, ending in kinds.items()}
    assert len(open_source(path)) == len(kinds)
