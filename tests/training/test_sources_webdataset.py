"""WebDataset shards: every example by itself, every one once, and damage told."""

import json
from collections import Counter
from pathlib import Path

import pytest

from safelight.errors import FileError
from safelight.training.sources.opening import open_source
from safelight.training.sources.tar_index import tar_index
from safelight.training.sources.webdataset import open_shards, read_share, shard_paths, shares
from source_files import png, write_shards, write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_example_is_read_by_itself_in_any_order(tmp_path: Path) -> None:
    source = open_shards(write_shards(tmp_path, [3, 1, 2]))
    assert len(source) == 6 and source.counts == [3, 1, 2] and not source.problems
    for index in (5, 0, 3, 5):
        example = source.example(index)
        assert (example.id, example.captions) == (f"k{index:03}", (f"number {index}",))
        assert example.fields["name"] == f"n{index}" and example.read() == png(seed=index)


def test_captions_come_from_the_text_the_usual_fields_or_the_named_one(tmp_path: Path) -> None:
    said = json.dumps({"text": "json", "name": ["n", "m"], "weight": 0.5}).encode()
    files = [
        ("a.jpg", png()),
        ("a.txt", b"one\ntwo"),
        ("a.json", said),
        ("d/b.x.png", png()),
        ("d/b.json", said),
    ]
    path = write_tar(tmp_path / "s.tar", files)
    plain, named = open_shards([path]), open_shards([path], caption="name")
    assert [plain.example(i).captions for i in (0,)] == [("one", "two")]
    assert plain.example(0).weight == 0.5
    assert named.example(0).captions == ("n", "m")
    # b.x.png is no suffix of a picture, so d/b has none
    assert [(p.kind, p.where.rpartition(": ")[2]) for p in plain.problems] == [
        ("missing picture", "d/b")
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("counts", [[3, 1, 4, 1, 5, 9], [4, 3], [7], [0, 1], [2, 0, 0, 0, 9, 1]])
def test_ranks_and_workers_together_read_every_example_once(
    tmp_path: Path, counts: list[int], ranks: int, workers: int
) -> None:
    source = open_shards(write_shards(tmp_path, counts))
    seen = Counter(
        example.id
        for rank in range(ranks)
        for worker in range(max(1, workers))
        for example in read_share(
            source, source.counts, rank=rank, ranks=ranks, worker=worker, workers=workers
        )
    )
    assert seen == Counter({f"k{i:03}": 1 for i in range(sum(counts))})


def test_whole_shards_go_to_one_reader_while_there_are_enough() -> None:
    assert shares([2, 3, 4], 2) == [[range(2), range(5, 9)], [range(2, 5)]]
    assert shares([10], 3) == [[range(3)], [range(3, 6)], [range(6, 10)]]


def test_a_key_that_comes_again_is_told_in_one_shard_or_two(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "1.tar", [("a.png", png(seed=1)), ("a.png", png(seed=2))])
    two = write_tar(tmp_path / "2.tar", [("b.png", png()), ("a.png", png())])
    source = open_shards([one, two])
    assert [source.example(i).id for i in range(len(source))] == ["a", "b"]
    assert source.example(0).read() == png(seed=1)
    assert [(p.kind, p.where) for p in source.problems] == [
        ("duplicate id", f"{one}: a"),
        ("duplicate id", f"{two}: a"),
    ]


def test_a_damaged_shard_gives_what_lies_before_the_damage_and_is_named(tmp_path: Path) -> None:
    (whole,) = write_shards(tmp_path, [4])
    data = bytearray(whole.read_bytes())
    third = tar_index(whole).entries[4].start  # k002.png
    cut = tmp_path / "cut" / "a.tar"
    cut.parent.mkdir()
    cut.write_bytes(data[: third + 100])
    data[third - 512 : third - 256] = b"\xff" * 256
    spoilt = tmp_path / "cut" / "b.tar"
    spoilt.write_bytes(data)
    for path in (cut, spoilt):
        source = open_shards([path])
        assert [source.example(i).id for i in range(len(source))] == ["k000", "k001"], path
        assert [(p.kind, p.where) for p in source.problems] == [("unreadable shard", str(path))]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no tar archive"),
        (b"no archive at all" * 99, "is no tar archive"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "is compressed \\(gzip\\).*unpack"),
    ],
)
def test_what_is_no_plain_tar_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(FileError, match=said):
        open_shards([tmp_path / "x.tar"])


def test_bad_json_names_shard_and_key(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.png", png()), ("a.json", b"{")])
    with pytest.raises(FileError, match=r"s\.tar: a\.json is not JSON"):
        open_shards([path]).example(0)


def test_the_index_is_read_once_and_anew_when_the_shard_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_shards(tmp_path, [2])
    first = tar_index(path)
    with monkeypatch.context() as broken:
        broken.setattr("tarfile.open", None)  # a second reading of the headers would fail
        assert tar_index(path) == first
    next((cache / "shards").iterdir()).write_text("{}")
    assert tar_index(path) == first, "a spoilt index is made again"
    source = open_shards([path])
    write_shards(tmp_path, [3])
    assert len(tar_index(path).entries) == 6
    with pytest.raises(FileError, match="has changed since it was listed"):
        source.example(0)


def test_names_of_shards_are_a_file_a_folder_or_a_range(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [1, 1, 1])
    assert shard_paths(str(paths[1])) == [paths[1]]
    assert shard_paths(str(tmp_path)) == paths
    assert shard_paths(f"{tmp_path}/part-{{000..002}}.tar") == paths
    assert len(open_source(tmp_path)) == 3
    with pytest.raises(FileError, match=r"2 shards are missing \(.*part-003\.tar\)"):
        shard_paths(f"{tmp_path}/part-{{000..004}}.tar")
