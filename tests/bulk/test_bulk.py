"""A list of prompts is drawn whole, once, and the same however it was cut, stopped or kept."""

import io
import json
import tarfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from recipes import recipe
from safelight.bulk.forms import FORMS
from safelight.bulk.manifest import MANIFEST, Line, Run, read_lines
from safelight.bulk.rows import Row, read_rows, request_of
from safelight.bulk.shards import Job, draw_shard, finished, prepared
from safelight.errors import FileError, NonFiniteError, RequestError
from safelight.tasks.picture import Picture

LIST = "".join(f"picture {k}\n" for k in range(7))


def run_of(form: str = "folder", **changes: object) -> Run:
    told: dict[str, object] = {
        "source": "list.txt",
        "sha256": "0" * 64,
        "settings": {"steps": 3},
        "seed": 40,
        "form": form,
        "shard_size": 3,
        "metadata": True,
        "threads": 1,
        "software": "1",
    }
    return Run(**(told | changes))  # type: ignore[arg-type]


class Painter:
    """Stands for a model: a picture of the row's seed; counts, and fails where told."""

    def __init__(self, *, failing: Collection[int] = (), stop_at: int | None = None) -> None:
        self.failing, self.stop_at = failing, stop_at
        self.drawn: list[int] = []

    def __call__(self, row: Row) -> Picture:
        if row.index == self.stop_at:
            raise KeyboardInterrupt
        self.drawn.append(row.index)
        if row.index in self.failing:
            raise NonFiniteError("U-Net made NaN")
        request = request_of(row, {"steps": 3}, 40)
        pixels = np.random.default_rng(request.seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Picture(pixels, recipe(request, width=8, height=8))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(LIST)
    return path


def drawn(job: Job, painter: Painter, *, retry: bool = False) -> tuple[int, int]:
    for shard in job.left(retry=retry):
        draw_shard(job, shard, painter)
    return finished(job)


def pictures(folder: Path) -> dict[int, tuple[str, bytes]]:
    """The id and the pixels of each row that the manifest calls drawn, read back from its file."""
    found = {}
    for line in read_lines(folder / MANIFEST):
        if line.error is not None:
            continue
        name = f"{line.index:08}.png"
        path = folder / str(line.file)
        if path.suffix == ".png":
            data = path.read_bytes()
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                member = tar.extractfile(name)
                assert member is not None
                data = member.read()
        else:
            rows = parquet.read_table(path).to_pylist()
            (data,) = [r["image"]["bytes"] for r in rows if r["index"] == line.index]
        with Image.open(io.BytesIO(data)) as image:
            found[line.index] = (line.id, image.convert("RGB").tobytes())
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_row_is_drawn_and_told_once_in_any_form(
    form: str, source: Path, tmp_path: Path
) -> None:
    job = prepared(source, tmp_path / "run", run_of(form))
    assert job.shards == ("00000", "00001", "00002")
    assert drawn(job, Painter()) == (7, 0)
    plain = prepared(source, tmp_path / "plain", run_of(shard_size=100))
    drawn(plain, Painter())
    assert pictures(job.folder) == pictures(plain.folder)
    lines = list(read_lines(job.folder / MANIFEST))
    assert [line.seed for line in lines] == list(range(40, 47))
    assert [line.prompt for line in lines] == LIST.splitlines()


@pytest.mark.parametrize("form", FORMS)
def test_a_run_that_was_stopped_goes_on_and_draws_nothing_twice(
    form: str, source: Path, tmp_path: Path
) -> None:
    whole = prepared(source, tmp_path / "whole", run_of(form))
    drawn(whole, Painter())
    job = prepared(source, tmp_path / "run", run_of(form))
    first, second = Painter(stop_at=4), Painter()
    with pytest.raises(KeyboardInterrupt):
        drawn(job, first)
    assert not (job.folder / MANIFEST).exists()
    again = prepared(source, tmp_path / "run", run_of(form))
    assert drawn(again, second) == (7, 0)
    assert first.drawn == [0, 1, 2, 3] and second.drawn == [4, 5, 6]
    assert pictures(job.folder) == pictures(whole.folder)
    third = Painter()
    assert drawn(prepared(source, tmp_path / "run", run_of(form)), third) == (7, 0)
    assert third.drawn == []


@pytest.mark.parametrize("form", FORMS)
def test_a_row_that_fails_is_told_and_drawn_again_only_if_asked(
    form: str, source: Path, tmp_path: Path
) -> None:
    job = prepared(source, tmp_path / "run", run_of(form))
    assert drawn(job, Painter(failing={1, 5})) == (7, 2)
    failed = [line for line in read_lines(job.folder / MANIFEST) if line.error]
    assert [(line.index, line.error) for line in failed] == [
        (1, "U-Net made NaN"),
        (5, "U-Net made NaN"),
    ]
    idle, mender = Painter(), Painter()
    assert drawn(job, idle) == (7, 2) and idle.drawn == []
    assert drawn(job, mender, retry=True) == (7, 0) and mender.drawn == [1, 5]
    whole = prepared(source, tmp_path / "whole", run_of(form))
    drawn(whole, Painter())
    assert pictures(job.folder) == pictures(whole.folder)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_was_deleted_is_drawn_again(form: str, source: Path, tmp_path: Path) -> None:
    job = prepared(source, tmp_path / "run", run_of(form))
    drawn(job, Painter())
    before = pictures(job.folder)
    lost = list(read_lines(job.folder / MANIFEST))[4]
    (job.folder / str(lost.file)).unlink()
    painter = Painter()
    drawn(job, painter)
    assert 4 in painter.drawn and not {0, 6} & set(painter.drawn)
    assert pictures(job.folder) == before


@pytest.mark.parametrize(
    "change",
    [{"seed": 41}, {"settings": {"steps": 4}}, {"sha256": "1" * 64}, {"form": "parquet"}],
    ids=lambda change: next(iter(change)),
)
def test_another_run_in_the_same_folder_is_refused(
    change: dict[str, object], source: Path, tmp_path: Path
) -> None:
    prepared(source, tmp_path / "run", run_of())
    with pytest.raises(RequestError, match=rf"holds a run with {next(iter(change))} .* --out"):
        prepared(source, tmp_path / "run", run_of(**change))


def test_a_newer_safelight_goes_on_with_an_old_run(source: Path, tmp_path: Path) -> None:
    prepared(source, tmp_path / "run", run_of())
    assert prepared(source, tmp_path / "run", run_of(software="2")).shards


Writer = Callable[[Path, list[Mapping[str, object]]], Path]


def as_jsonl(folder: Path, rows: list[Mapping[str, object]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(folder: Path, rows: list[Mapping[str, object]]) -> Path:
    path = folder / "rows.csv"
    names = list(rows[0])
    cells = [",".join("" if row[n] is None else str(row[n]) for n in names) for row in rows]
    path.write_text("\n".join([",".join(names), *cells]) + "\n")
    return path


def as_parquet(folder: Path, rows: list[Mapping[str, object]]) -> Path:
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.parametrize("write", [as_jsonl, as_csv, as_parquet])
def test_columns_are_settings_and_empty_cells_leave_them_open(
    write: Writer, tmp_path: Path
) -> None:
    path = write(
        tmp_path,
        [
            {"id": "a", "prompt": "one", "seed": 5, "guidance.rescale": 0.5, "steps": None},
            {"id": "b", "prompt": "two", "seed": None, "guidance.rescale": None, "steps": 9},
        ],
    )
    first, second = read_rows(path)
    one = request_of(first, {"steps": 3, "guidance.start": 0.25}, 70)
    two = request_of(second, {"steps": 3}, 70)
    assert (first.id, one.prompt, one.seed, one.steps) == ("a", "one", 5, 3)
    assert (one.guidance.rescale, one.guidance.start) == (0.5, 0.25)
    assert (second.id, two.seed, two.steps, two.guidance.rescale) == ("b", 71, 9, 0.0)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"text": "one"}], "no column prompt; its columns are text"),
        ([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}], "row 2 has the id x of another"),
        ([{"prompt": "a", "id": "x" * 300}], "id of row 1 is over 200"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_its_row(
    rows: list[Mapping[str, object]], told: str, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match=told):
        list(read_rows(as_jsonl(tmp_path, rows)))


def test_bytes_in_a_cell_are_refused_by_column(tmp_path: Path) -> None:
    path = as_parquet(tmp_path, [{"prompt": "a", "photo": b"\x00"}])
    with pytest.raises(FileError, match="row 1 has no text, number or list in photo"):
        list(read_rows(path))


def test_an_empty_list_and_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text("\n \n")
    with pytest.raises(FileError, match="holds no prompt"):
        prepared(tmp_path / "e.txt", tmp_path / "run", run_of())
    (tmp_path / "e.xlsx").write_text("a")
    with pytest.raises(FileError, match=r"no list of prompts.*\.txt"):
        list(read_rows(tmp_path / "e.xlsx"))


def test_a_row_of_several_pictures_is_refused() -> None:
    with pytest.raises(RequestError, match="a row is one picture"):
        request_of(Row(0, "a", {"prompt": "a", "count": 2}), {}, 1)


def test_lines_survive_their_file() -> None:
    line = Line(3, "é", "a\nb", 2**60, "x.png", "0" * 64, 1.5, ("w",), None, ("f",))
    assert Line.from_json(line.to_json()) == line
    older = json.loads(line.to_json())
    del older["facts"]
    assert Line.from_json(json.dumps(older)) == replace(line, facts=())


def test_what_webdataset_holds_can_be_trained_on(source: Path, tmp_path: Path) -> None:
    from safelight.training.sources.opening import open_source

    job = prepared(source, tmp_path / "run", run_of("webdataset"))
    drawn(job, Painter())
    examples = open_source(job.folder)
    assert len(examples) == 7
    captions = [example.captions[0] for example in map(examples.example, range(7))]
    assert captions == LIST.splitlines()
