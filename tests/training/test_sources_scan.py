"""Nothing that cannot be trained on goes unsaid: it is named, counted, and stops or is left out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from safelight.errors import FileError
from safelight.training.sources.example import KINDS, Chosen, Example, Joined, counted
from safelight.training.sources.folder import open_folder
from safelight.training.sources.scan import scan
from source_files import png, write_folder


def spoilt(folder: Path) -> Path:
    """Two sound pictures, and one of each thing that can be wrong."""
    write_folder(folder, {"a": "one", "b": "two", "cut": "x", "junk": "x", "mute": None})
    (folder / "cut.png").write_bytes(png((64, 64))[:3000])
    (folder / "junk.png").write_bytes(b"not a picture")
    (folder / "ghost.txt").write_text("nobody")
    (folder / "a.jpg").write_bytes(png())
    return folder


def test_problems_are_named_counted_and_left_out(tmp_path: Path) -> None:
    found = scan(open_folder(spoilt(tmp_path)), on_problem="skip")
    assert [found.source.example(i).id for i in range(len(found.source))] == ["a", "b"]
    assert found.sizes == ((16, 16), (16, 16))
    assert counted(found.problems) == {
        "broken picture": 2,
        "missing picture": 1,
        "missing caption": 1,
        "duplicate id": 1,
    }
    assert found.summary.startswith(f"2 pictures in {tmp_path}; left out: 2 broken picture (cut,")
    assert all(name in found.summary for name in ("cut", "junk", "ghost.txt", "mute", "1 dup"))


def test_problems_stop_with_the_same_words(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"2 broken picture \(cut, junk\).*data check.*skip"):
        scan(open_folder(spoilt(tmp_path)), on_problem="stop")


def test_a_look_at_headers_alone_finds_what_is_no_picture(tmp_path: Path) -> None:
    found = scan(open_folder(spoilt(tmp_path)), on_problem="skip", depth="header")
    assert [p.where for p in found.problems if p.kind == "broken picture"] == ["junk"]


def test_pictures_without_captions_serve_where_none_are_needed(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": None, "b": "said"})
    assert len(scan(open_folder(tmp_path), captions=False).source) == 2


def test_a_picture_with_too_many_pixels_is_a_problem(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": "x"})
    found = scan(open_folder(write_folder(tmp_path, {"a": "x"})), max_pixels=256)
    assert len(found.source) == 1
    (tmp_path / "small.png").write_bytes(png((15, 17)))
    (tmp_path / "small.txt").write_text("y")
    (problem,) = scan(open_folder(tmp_path), max_pixels=255, on_problem="skip").problems
    assert problem.where == "a" and "16 x 16; at most 255 pixels" in problem.why


@pytest.mark.parametrize("on_problem", ["stop", "skip"])
def test_an_empty_set_is_an_error_of_its_own(tmp_path: Path, on_problem: str) -> None:
    with pytest.raises(FileError, match="there is nothing to train on"):
        scan(open_folder(tmp_path), on_problem=on_problem)  # type: ignore[arg-type]


def test_all_broken_says_why_nothing_is_left(tmp_path: Path) -> None:
    (write_folder(tmp_path, {"a": "x"}) / "a.png").write_bytes(b"")
    with pytest.raises(FileError, match=r"nothing to train on .*: 1 broken picture \(a\)"):
        scan(open_folder(tmp_path), on_problem="skip")


def test_a_long_scan_tells_how_far_it_is(tmp_path: Path) -> None:
    seen: list[int] = []
    watch: Callable[[int], None] = seen.append
    scan(open_folder(write_folder(tmp_path, {"a": "x", "b": "y"})), watch=watch)
    assert seen == [1, 2]


def reads(folder: Path, memory: Path, **options: object) -> list[str]:
    """The pictures that a scan with a memory reads."""
    source = open_folder(folder)
    read: list[str] = []

    @dataclass(frozen=True)
    class Watched:
        name = source.name
        problems = source.problems

        def __len__(self) -> int:
            return len(source)

        def example(self, index: int) -> Example:
            found = source.example(index)

            def noted() -> bytes:
                read.append(found.id)
                return found.read()

            return replace(found, read=noted)

    scan(Watched(), on_problem="skip", memory=memory, threads=1, **options)  # type: ignore[arg-type]
    return read


def test_a_scan_with_a_memory_reads_only_what_changed(tmp_path: Path) -> None:
    folder, memory = spoilt(tmp_path / "set"), tmp_path / "memory" / "sizes.json"
    assert reads(folder, memory, depth="header") == ["a", "b", "cut", "junk"]
    assert reads(folder, memory) == ["a", "b", "cut", "junk"], "a header says too little"
    assert reads(folder, memory) == ["cut", "junk"], "what is broken is looked at again"
    assert reads(folder, memory, depth="header") == ["cut", "junk"]
    (folder / "b.png").write_bytes(png((20, 24), seed=9))
    assert reads(folder, memory) == ["b", "cut", "junk"]
    found = scan(open_folder(folder), on_problem="skip", memory=memory)
    assert found.sizes == ((16, 16), (20, 24))
    assert reads(folder, memory, max_pixels=300) == ["b", "cut", "junk"]
    memory.write_text("{}")
    assert reads(folder, memory) == ["a", "b", "cut", "junk"], "a spoilt memory is none"


def test_joined_sources_keep_their_ids_apart_and_their_problems(tmp_path: Path) -> None:
    one = open_folder(write_folder(tmp_path / "1", {"a": "x", "b": "y"}))
    two = open_folder(spoilt(tmp_path / "2"))
    both = Joined({"one": one, "two": two})
    ids = [both.example(i).id for i in range(len(both))]
    assert ids[:3] == ["one/a", "one/b", "two/a"] and len(set(ids)) == len(both) == 7
    assert both.problems == two.problems
    with pytest.raises(IndexError):
        both.example(7)


def test_chosen_examples_are_those_in_their_order(tmp_path: Path) -> None:
    source = open_folder(write_folder(tmp_path, {"a": "x", "b": "y", "c": "z"}))
    chosen = Chosen(source, [2, 0])
    assert [chosen.example(i).id for i in range(2)] == ["c", "a"]


def test_every_kind_of_problem_has_words_of_its_own() -> None:
    assert len(set(KINDS)) == len(KINDS)
