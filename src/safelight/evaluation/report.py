"""A report of numbers: as Markdown for readers, as JSON for programs, with its pictures beside."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from safelight.checkpoints.json_object import read_object
from safelight.errors import FileError, OutputError
from safelight.evaluation.frechet import FrechetDistance
from safelight.evaluation.intervals import Estimate, Share
from safelight.printable import shown
from safelight.writing import make_folder, write_text, write_whole

Cell = Share | Estimate | FrechetDistance | float | int | str | None
MARKDOWN, JSON = "report.md", "report.json"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of measures, with one column for what is judged and one for each baseline."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for name, row in self.rows.items():
            assert len(row) == len(self.columns), f"row {name} has {len(row)} cells"


@dataclass(frozen=True)
class Report:
    """All that an evaluation found, with what is needed to do it again.

    facts: counts, seeds, hashes and the like. prompts: what was drawn, each with its seed.
    pictures: PNG files by name. plots: SVG texts by name. Names are of files, without a folder.
    """

    title: str
    facts: Mapping[str, str | int | float | Sequence[str] | Sequence[int]]
    tables: tuple[Table, ...]
    prompts: tuple[tuple[str, int], ...] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    plots: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def markdown(report: Report) -> str:
    """The report as Markdown, which shows the pictures and plots that lie beside it."""
    lines = [f"# {report.title}", ""]
    lines += [f"- **{name}**: {_fact(value)}" for name, value in report.facts.items()]
    for note in report.notes:
        lines += ["", note]
    for table in report.tables:
        lines += ["", f"## {table.title}", "", *table_lines(table)]
    for kind, files in (("Plots", report.plots), ("Pictures", report.pictures)):
        if files:
            lines += ["", f"## {kind}"]
            for name in files:
                lines += ["", f"![{Path(name).stem}]({name})"]
    if report.prompts:
        lines += ["", f"## Prompts ({len(report.prompts)})", "", "| seed | prompt |", "|---|---|"]
        lines += [f"| {seed} | {_plain(prompt)} |" for prompt, seed in report.prompts]
    return "\n".join(lines) + "\n"


def table_lines(table: Table) -> list[str]:
    """A table as lines of Markdown, its note above."""
    lines = [table.note, ""] if table.note else []
    lines.append(f"| | {' | '.join(table.columns)} |")
    lines.append(f"|---|{'---|' * len(table.columns)}")
    for name, row in table.rows.items():
        lines.append(f"| {name} | {' | '.join(map(shown_cell, row))} |")
    return lines


def as_json(report: Report) -> dict[str, object]:
    """The report as values of JSON; shares and estimates keep their counts and intervals."""
    return {
        "title": report.title,
        "facts": {name: _number(value) for name, value in report.facts.items()},
        "notes": list(report.notes),
        "tables": [
            {
                "title": table.title,
                "note": table.note,
                "columns": list(table.columns),
                "rows": {name: [_value(cell) for cell in row] for name, row in table.rows.items()},
            }
            for table in report.tables
        ],
        "plots": list(report.plots),
        "pictures": list(report.pictures),
        "prompts": [{"prompt": prompt, "seed": seed} for prompt, seed in report.prompts],
    }


def write(report: Report, folder: Path) -> Path:
    """The report in a folder, which may exist; files of the same names are replaced.

    Returns the Markdown file. Raises OutputError if something cannot be written.
    """
    make_folder(folder)
    for name in (*report.pictures, *report.plots):
        if Path(name).name != name:
            raise OutputError(f"{shown(name)} is no plain file name; leave out the folder")
    for name, data in report.pictures.items():
        write_whole(folder / name, data)
    for name, text in report.plots.items():
        write_text(folder / name, text)
    values = json.dumps(as_json(report), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / JSON, values + "\n")
    write_text(folder / MARKDOWN, markdown(report))
    return folder / MARKDOWN


def read_report(folder: Path) -> Report:
    """The report that `write` put into a folder, with its pictures and plots.

    Raises FileError if a file is missing, or the JSON is not a report's.
    """
    path = folder / JSON
    values = read_object(path).values
    try:
        return _report(values, folder)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise FileError(f"{shown(path)} is no report of an evaluation: {error!r}") from None
    except OSError as error:
        named = shown(error.filename or folder)
        raise FileError(f"{named} cannot be read: {error.strerror}") from None


def _report(values: Any, folder: Path) -> Report:
    def named(names: list[str]) -> dict[str, Path]:
        return {name: folder / Path(name).name for name in names}

    return Report(
        str(values["title"]),
        {n: math.nan if fact is None else fact for n, fact in values["facts"].items()},
        tuple(
            Table(
                table["title"],
                tuple(table["columns"]),
                {name: [_cell(cell) for cell in row] for name, row in table["rows"].items()},
                table["note"],
            )
            for table in values["tables"]
        ),
        tuple((row["prompt"], row["seed"]) for row in values["prompts"]),
        {name: path.read_bytes() for name, path in named(values["pictures"]).items()},
        {name: path.read_text("utf-8") for name, path in named(values["plots"]).items()},
        tuple(values["notes"]),
    )


def _cell(value: Any) -> Cell:
    """What `_value` made of a cell, as it was."""
    if not isinstance(value, dict):
        assert value is None or isinstance(value, (str, int, float)), value
        return value
    for kind in (Share, FrechetDistance, Estimate):
        names = [field.name for field in fields(kind)]
        if set(names) <= value.keys():
            told: dict[str, Any] = {n: math.nan if value[n] is None else value[n] for n in names}
            return kind(**told)
    raise ValueError(f"a cell with {', '.join(value)}")


def shown_cell(cell: Cell) -> str:
    """A cell in words: shares in percent, intervals in brackets, a dash for what is missing."""
    match cell:
        case None:
            return "-"
        case Share(right, of):
            low, high = cell.interval
            return f"{100 * cell.value:.1f} % [{100 * low:.0f}, {100 * high:.0f}] ({right}/{of})"
        case Estimate(value, low, high, _):
            return f"{value:.4g} [{low:.3g}, {high:.3g}]"
        case FrechetDistance():
            return str(cell)
        case float():
            return f"{cell:.4g}"
        case _:
            return _plain(str(cell))


def _fact(value: str | int | float | Sequence[str] | Sequence[int]) -> str:
    if isinstance(value, (str, int, float)):
        return _plain(str(value))
    return ", ".join(_plain(str(item)) for item in value)


def _plain(text: str) -> str:
    """A text that stays in its cell."""
    return shown(text, 2000).replace("\\", "\\\\").replace("|", "\\|")


def _value(cell: Cell) -> object:
    if is_dataclass(cell):
        values = {name: _number(value) for name, value in asdict(cell).items()}
        if isinstance(cell, Share):
            low, high = cell.interval
            values |= {"value": _number(cell.value), "low": low, "high": high}
        return values
    return _number(cell)


def _number(value: object) -> object:
    """JSON knows no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
