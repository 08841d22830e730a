"""Datasets on disk as the `datasets` library writes them, read without it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safelight.errors import FileError
from safelight.training.sources.huggingface import open_dataset
from safelight.training.sources.opening import open_source
from safelight.training.sources.scan import scan
from source_files import png, write_folder

FEATURES = {"picture": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}


def table(numbers: range, *, name: str = "picture") -> Any:
    rows = [
        {name: {"bytes": png(seed=n), "path": None}, "text": f"number {n}", "tags": ["a", "b"]}
        for n in numbers
    ]
    told = {b"huggingface": json.dumps({"info": {"features": FEATURES}}).encode()}
    return pa.Table.from_pylist(rows).replace_schema_metadata(told)


def save_to_disk(folder: Path, parts: list[Any]) -> Path:
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{len(parts):05}.arrow" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, part.schema) as to,
        ):
            to.write_table(part, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def check(source: Any, count: int) -> None:
    assert len(source) == count and source.problems == ()
    for index in (count - 1, 0, count // 2):
        example = source.example(index)
        assert example.read() == png(seed=index) and example.captions == (f"number {index}",)
        assert example.fields == {"text": f"number {index}", "tags": ["a", "b"]}
    assert len({source.example(i).id for i in range(count)}) == count


def test_a_saved_dataset_is_read_row_by_row(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "set", [table(range(5)), table(range(5, 7))])
    check(open_source(folder), 7)
    assert open_dataset(folder, caption="tags").example(0).captions == ("a", "b")
    assert len(scan(open_source(folder)).sizes) == 7


def test_a_dataset_of_splits_wants_one_named_unless_it_has_one(tmp_path: Path) -> None:
    for split, numbers in (("train", range(3)), ("test", range(3, 5))):
        save_to_disk(tmp_path / "set" / split, [table(numbers)])
    marker = tmp_path / "set" / "dataset_dict.json"
    marker.write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(FileError, match="has the splits train, test; none was named"):
        open_source(tmp_path / "set")
    check(open_source(tmp_path / "set", split="train"), 3)
    marker.write_text(json.dumps({"splits": ["train"]}))
    check(open_source(tmp_path / "set"), 3)
    marker.write_text(json.dumps({"splits": [".."]}))
    with pytest.raises(FileError, match="outside of it"):
        open_source(tmp_path / "set")


def test_a_folder_of_parquet_files_is_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(table(range(3)), tmp_path / "data" / "train-00000-of-00002.parquet")
    pq.write_table(table(range(3, 5)), tmp_path / "data" / "train-00001-of-00002.parquet")
    check(open_source(tmp_path), 5)
    pq.write_table(table(range(1)), tmp_path / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(FileError, match="has the splits test, train; name one"):
        open_source(tmp_path)
    check(open_source(tmp_path, split="train"), 5)


def test_a_parquet_file_is_read_by_the_group_and_in_any_order(tmp_path: Path) -> None:
    pq.write_table(table(range(40)), tmp_path / "all.parquet", row_group_size=7)
    source = open_dataset(tmp_path)
    check(source, 40)
    order = [(7 * i) % 40 for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: source.example(i).read(), order))
    assert found == [png(seed=i) for i in order]


def test_a_damaged_parquet_file_is_a_broken_picture(tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    pq.write_table(table(range(8)), path, row_group_size=4, compression="none")
    at = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[at.data_page_offset : at.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    found = scan(open_dataset(tmp_path), on_problem="skip")
    assert len(found.source) == 4 and {p.kind for p in found.problems} == {"broken picture"}


def test_a_picture_may_be_a_path_below_the_folder_but_not_above(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {"a": None})
    write_folder(tmp_path, {"secret": None})
    names = ["a.png", "../secret.png"]
    rows = pa.table({"image": names, "caption": ["x", "y"]})
    save_to_disk(tmp_path / "saved", [rows])
    for name in ("data-00000-of-00001.arrow", "state.json"):
        (tmp_path / "saved" / name).rename(tmp_path / "set" / name)
    source = open_dataset(tmp_path / "set")
    assert source.example(0).read() == png()
    with pytest.raises(FileError, match="outside of it"):
        source.example(1).read()


def test_a_column_without_a_usual_name_must_be_named(tmp_path: Path) -> None:
    rows = table(range(2), name="bild").replace_schema_metadata(None)
    folder = save_to_disk(tmp_path / "set", [rows])
    with pytest.raises(FileError, match="has the columns bild, text, tags; name the one"):
        open_source(folder)
    check(open_source(folder, image="bild"), 2)
    with pytest.raises(FileError, match="no column nope for pictures; it has bild"):
        open_source(folder, image="nope")
    with pytest.raises(FileError, match="no column nope for captions"):
        open_source(folder, image="bild", caption="nope")


def test_an_empty_cell_is_a_broken_picture_and_a_broken_file_stops(tmp_path: Path) -> None:
    rows = pa.table({"image": pa.array([None, png()], pa.binary()), "text": ["x", "y"]})
    folder = save_to_disk(tmp_path / "set", [rows])
    found = scan(open_source(folder), on_problem="skip")
    assert [p.kind for p in found.problems] == ["broken picture"] and len(found.source) == 1
    (folder / "data-00000-of-00001.arrow").write_bytes(b"junk")
    with pytest.raises(FileError, match="is no Arrow file"):
        open_source(folder)


def test_a_parquet_table_in_a_folder_of_pictures_gives_their_captions(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": None})
    rows = pa.table({"file_name": ["a.png"], "captions": [["one", "two"]]})
    pq.write_table(rows, tmp_path / "metadata.parquet")
    assert open_source(tmp_path).example(0).captions == ("one", "two")


def test_without_pyarrow_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_to_disk(tmp_path / "set", [table(range(1))])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(FileError, match=r"pip install 'safelight\[data\]'"):
        open_source(folder)
