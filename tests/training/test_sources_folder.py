"""Folders of pictures with texts beside them, or with a table for all."""

import json
from pathlib import Path

import pytest

from safelight.errors import FileError
from safelight.training.sources.folder import open_folder
from safelight.training.sources.opening import open_source
from source_files import png, write_folder


def test_a_picture_is_said_by_the_text_of_its_name_one_caption_a_line(tmp_path: Path) -> None:
    write_folder(tmp_path, {"b": "two\n\n  lines ", "a/x": "deep"})
    source = open_folder(tmp_path)
    assert [(e.id, e.captions) for e in map(source.example, range(2))] == [
        ("a/x", ("deep",)),
        ("b", ("two", "lines")),
    ]
    assert source.problems == () and source.example(1).read() == png(seed=0)


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": None})
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa cat")
    assert open_folder(tmp_path).example(0).captions == ("a cat",)


def test_a_text_that_is_not_utf8_is_a_problem_and_not_a_guess(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": None})
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    source = open_folder(tmp_path)
    assert [p.kind for p in source.problems] == ["unreadable caption"]
    assert "a.txt" in source.problems[0].where and source.example(0).captions == ()


def test_a_text_without_a_picture_is_a_problem_but_a_readme_is_not(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": "yes"})
    (tmp_path / "ghost.txt").write_text("who?")
    (tmp_path / "README.txt").write_text("about this set")
    assert [(p.kind, Path(p.where).name) for p in open_folder(tmp_path).problems] == [
        ("missing picture", "ghost.txt")
    ]


def test_two_pictures_of_one_name_are_a_duplicate_and_the_first_stays(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": "yes"})
    (tmp_path / "a.webp").write_bytes(b"other")
    source = open_folder(tmp_path)
    assert len(source) == 1 and source.example(0).read() == png()
    assert [(p.kind, p.where) for p in source.problems] == [("duplicate id", "a")]


TABLES = {
    "captions.jsonl": "\n".join(
        json.dumps(row)
        for row in (
            {"file_name": "a.png", "text": "one", "artist": "me"},
            {"file_name": "sub/b.png", "captions": ["two", " three "], "weight": 2},
            {"file_name": "a.png", "text": "uno"},
        )
    ),
    "metadata.csv": 'file_name,text,artist\na.png,one,me\nsub/b.png,"two, three",\na.png,uno,me\n',
}


@pytest.mark.parametrize("name", list(TABLES))
def test_a_table_gives_captions_and_fields_and_gathers_the_rows_of_a_picture(
    tmp_path: Path, name: str
) -> None:
    write_folder(tmp_path, {"a": "not this", "sub/b": None, "c": "from the text"})
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    source = open_source(tmp_path)
    a, c, b = map(source.example, range(3))
    assert a.captions == ("one", "uno") and a.fields["artist"] == "me"
    assert b.captions == (("two", "three") if name.endswith("jsonl") else ("two, three",))
    assert b.weight == (2.0 if name.endswith("jsonl") else 1.0)
    assert c.captions == ("from the text",), "a picture that the table leaves out keeps its text"
    assert source.problems == ()


def test_columns_of_any_name_can_be_said(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": None})
    (tmp_path / "list.csv").write_text("bild,wort,text\na.png,rot,no\n")
    source = open_source(tmp_path / "list.csv", image="bild", caption="wort")
    assert source.example(0).captions == ("rot",)


def test_a_table_that_names_no_or_a_missing_or_an_outside_picture_is_told_by_row(
    tmp_path: Path,
) -> None:
    folder = write_folder(tmp_path / "set", {"a": None})
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [
        {"file_name": "a.png", "text": "fine"},
        {"file_name": "gone.png", "text": "x"},
        {"text": "x"},
        {"file_name": "../secret.png", "text": "x"},
        {"file_name": str(tmp_path / "secret.png"), "text": "x"},
        {"file_name": "link.png", "text": "x"},
        {"file_name": "a\0.png", "text": "x"},
    ]
    table = folder / "captions.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    found = [(p.kind, p.where.rpartition("row ")[2]) for p in open_source(folder).problems]
    outside = "outside the folder"
    assert found == [
        ("missing picture", "2"),
        ("missing picture", "3"),
        *[(outside, "4"), (outside, "5"), (outside, "6"), (outside, "7")],
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("captions.jsonl", '{"file_name": "a.png"}\n{oops', "line 2 is not JSON"),
        ("captions.jsonl", "[1]", "line 1 is not a JSON object"),
        ("captions.csv", "file_name,text\na.png,red, round\n", "quote texts that hold commas"),
        ("captions.csv", "", "is empty"),
        ("captions.csv", 'file_name,text\na.png,"open', "line 2"),
        ("captions.parquet", "PAR0", "is no Parquet file"),
    ],
)
def test_a_table_that_is_none_stops_with_its_line(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    write_folder(tmp_path, {"a": None})
    (tmp_path / name).write_text(text)
    with pytest.raises(FileError, match=said):
        open_source(tmp_path)


def test_two_tables_in_one_folder_are_not_chosen_between(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": None})
    for name in ("captions.jsonl", "metadata.csv"):
        (tmp_path / name).write_text("file_name\n")
    with pytest.raises(FileError, match=r"captions\.jsonl and metadata\.csv"):
        open_source(tmp_path)


def test_what_is_not_there_or_no_data_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist; expected a folder of pictures"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(FileError, match="is no data set we know"):
        open_source(tmp_path / "a.zip")


def test_hidden_files_and_linked_folders_are_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"a": "yes", ".hidden": "no", ".git/b": "no"})
    (folder / "round").symlink_to(folder)
    source = open_folder(folder)
    assert [source.example(i).id for i in range(len(source))] == ["a"] and not source.problems
