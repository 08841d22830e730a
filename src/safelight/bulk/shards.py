"""A list of prompts cut into shards, each drawn on its own and kept when it is whole.

Below the folder of a run lie `run.json`, `manifest.jsonl`, and what its form makes. While it goes
on there is `.work`: the rows of each shard, what is drawn of those under way, and the lines of
those that are done. Whoever draws a shard needs nothing but this folder and the model.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from safelight.bulk.forms import FORMS, SUFFIX, Drawn
from safelight.bulk.manifest import MANIFEST, RUN, Line, Run, read_lines, write_lines
from safelight.bulk.rows import Row, read_rows
from safelight.errors import FileError, SafelightError
from safelight.printable import shown
from safelight.writing import make_folder, write_text, write_whole

if TYPE_CHECKING:
    from safelight.tasks.picture import Picture

WORK = ".work"
CUT = "cut"  # in .work: how many shards there are, once all of them are cut
Draw = Callable[[Row], "Picture"]
Told = Callable[[Line], None]


@dataclass(frozen=True)
class Job:
    """A run in its folder."""

    folder: Path
    run: Run
    shards: tuple[str, ...]

    @property
    def work(self) -> Path:
        return self.folder / WORK

    def lines(self, shard: str) -> list[Line] | None:
        """The lines of a shard that is done and whose files are there; None of any other."""
        path = self.work / f"{shard}.lines"
        if not path.exists():
            return None
        lines = list(read_lines(path))
        files = FORMS[self.run.form].files(shard, lines)
        return lines if all((self.folder / name).is_file() for name in files) else None

    def left(self, *, retry: bool = False) -> list[str]:
        """The shards that are not done; with `retry` also those with a row that failed."""
        return [shard for shard in self.shards if self._is_left(shard, retry)]

    def _is_left(self, shard: str, retry: bool) -> bool:
        lines = self.lines(shard)
        return lines is None or (retry and any(line.error is not None for line in lines))


def prepared(source: Path, folder: Path, run: Run) -> Job:
    """The job of a list in a folder: begun, or gone on with if it is the same.

    Raises RequestError if the folder holds another run, FileError for a list that cannot be read,
    OutputError if the folder cannot be written to.
    """
    before = Run.read(folder)
    if before is not None:
        before.check_same(run, folder)
    make_folder(folder / WORK)
    count = _cut(folder / WORK)
    if count is None:
        count, waiting = 0, read_rows(source)
        while part := list(islice(waiting, run.shard_size)):
            text = "".join(f"{row.to_json()}\n" for row in part)
            write_text(folder / WORK / f"{count:05}.rows", text)
            count += 1
        if not count:
            raise FileError(f"{shown(source)} holds no prompt.")
        write_text(folder / WORK / CUT, f"{count}\n")
    if before is None:
        write_text(folder / RUN, run.to_json())
    return Job(folder, run, _names(count))


def opened(folder: Path) -> Job:
    """The job that a folder holds. Raises FileError if it holds none."""
    run, count = Run.read(folder), _cut(folder / WORK)
    if run is None or count is None:
        raise FileError(f"{shown(folder)} holds no run of a list of prompts.")
    return Job(folder, run, _names(count))


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"{number:05}" for number in range(count))


def _cut(work: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int((work / CUT).read_text(encoding="utf-8"))
    return None


def rows_of(job: Job, shard: str) -> Iterator[Row]:
    """The rows of a shard. Raises FileError if they cannot be read."""
    path = job.work / f"{shard}.rows"
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield Row.from_json(line)
    except (OSError, ValueError, KeyError):
        raise FileError(f"{shown(path)} cannot be read; delete {shown(job.work)}.") from None


def draw_shard(job: Job, shard: str, draw: Draw, told: Told = lambda line: None) -> list[Line]:
    """Draw what a shard lacks, put it where it belongs, and give its lines.

    A row that cannot be drawn becomes a line that says why; what was drawn before an interruption
    is not drawn again. Raises OutputError if nothing can be written.
    """
    form, under_way = FORMS[job.run.form], job.work / shard
    make_folder(under_way)
    ready = _ready(job, shard)
    failed: list[Line] = []
    for row in rows_of(job, shard):
        if row.index in ready:
            continue
        line, data = _one(row, draw, metadata=job.run.metadata)
        told(line)
        if data is None:
            failed.append(line)
            continue
        write_whole(under_way / f"{row.index:08}{SUFFIX}", data)
        write_text(under_way / f"{row.index:08}.json", line.to_json())
        ready[row.index] = Drawn(line, data)
    lines = form.put(job.folder, shard, [ready[index] for index in sorted(ready)])
    lines = sorted((*lines, *failed), key=lambda line: line.index)
    write_lines(job.work / f"{shard}.lines", lines)
    shutil.rmtree(under_way, ignore_errors=True)
    return lines


def finished(job: Job) -> tuple[int, int]:
    """Write the manifest of a run all of whose shards are done; how many rows, and failed ones."""
    rows = failed = 0

    def lines() -> Iterator[Line]:
        nonlocal rows, failed
        for shard in job.shards:
            for line in job.lines(shard) or ():
                rows += 1
                failed += line.error is not None
                yield line

    write_lines(job.folder / MANIFEST, lines())
    return rows, failed


def _ready(job: Job, shard: str) -> dict[int, Drawn]:
    """The pictures of a shard that need not be drawn: under way, or of an end with failures."""
    ready: dict[int, Drawn] = {}
    for told in sorted((job.work / shard).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            line = Line.from_json(told.read_text(encoding="utf-8"))
            ready[line.index] = Drawn(line, told.with_suffix(SUFFIX).read_bytes())
    good = [line for line in job.lines(shard) or () if line.error is None]
    for one in FORMS[job.run.form].taken(job.folder, shard, good) if good else ():
        ready.setdefault(one.line.index, Drawn(replace(one.line, file=None), one.data))
    return ready


def _one(row: Row, draw: Draw, *, metadata: bool) -> tuple[Line, bytes | None]:
    prompt = str(row.cells.get("prompt", ""))
    try:
        picture = draw(row)
        data = picture.encoded(SUFFIX, metadata)
    except SafelightError as error:
        return Line(row.index, row.id, prompt, None, error=str(error)), None
    recipe = picture.recipe
    line = Line(
        row.index,
        row.id,
        prompt,
        recipe.request.seed,
        pixels_sha256=recipe.result.pixels_sha256,
        seconds=recipe.seconds,
        warnings=tuple(picture.warnings),
        facts=tuple(picture.facts),
    )
    return line, data


def summary(lines: Sequence[Line]) -> str:
    """How many rows of these are pictures, in words."""
    failed = sum(line.error is not None for line in lines)
    told = f"{len(lines) - failed} of {len(lines)} drawn"
    return told if not failed else f"{told}, {failed} failed"


def described(line: Line) -> str:
    """A line for people."""
    if line.error is not None:
        return f"row {line.index + 1} ({shown(line.id)}) failed: {line.error}"
    return (
        f"{shown(line.id)}  seed {line.seed}  {line.seconds or 0:.1f} s  {shown(line.prompt, 60)}"
    )
