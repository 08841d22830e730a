"""The sections of the embedded model's card: each is made of records, as lines of Markdown."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from pack import SUMS
from records import Run
from torch import nn

from safelight.checkpoints.evaluator_folder import load_evaluator
from safelight.checkpoints.vision_folder import load_clip_vision
from safelight.cli.train_display import duration
from safelight.embedded.carried import COMPANIONS
from safelight.errors import FileError
from safelight.evaluation.evaluate import MODEL, OVERALL, REAL
from safelight.evaluation.intervals import Share
from safelight.evaluation.report import Cell, Report, shown_cell, table_lines
from safelight.model import Model
from safelight.training.scenes.catalogue import TRAIN, CutoutEntry
from safelight.training.scenes.colours import NAMES, RECOLOUR_NAMES

CURVE, WORST = "curve.svg", "not-right.webp"  # beside the card
WRONG = "not-right.png"  # of a report
POINTS = 8  # of the learning curve that are told in numbers


@dataclass(frozen=True)
class Target:
    """What a model that ships should reach, and where the report says what it reached."""

    what: str
    table: str
    row: str
    column: str
    least: float
    ceiling: tuple[str, str]  # row and column of real renderings
    gpu: bool = False  # asked of a model that was trained on a GPU only


def _by_split(what: str, split: str, check: str, least: float) -> Target:
    return Target(what, "By split", split, check, least, (f"{split}, {REAL}", check))


TARGETS = (
    _by_split("things as trained, named first", "seen", "concept", 0.5),
    _by_split("things as trained, among the first five", "seen", "concept top 5", 0.75),
    _by_split("things in a style never shown, named first", "heldout_combo", "concept", 0.25),
    _by_split("things in a style never shown, first five", "heldout_combo", "concept top 5", 0.375),
    Target("background", "Single facts", "background", MODEL, 0.95, ("background", REAL)),
    Target("composition", "Composition", OVERALL, MODEL, 0.75, (OVERALL, REAL), gpu=True),
)


@dataclass(frozen=True)
class Records:
    """All that a card is made of; folder is the model's.

    machines: on what a stage was trained, in words, where its records do not say. measured: the
    folders of edges.py and few_steps.py, by what they measured.
    """

    folder: Path
    report: Report
    runs: Mapping[str, Run]
    entries: Sequence[CutoutEntry]
    teacher: Mapping[str, str]
    machines: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Path] = field(default_factory=dict)


def head(records: Records, model: Model) -> list[str]:
    family = model.family
    folder = records.folder
    networks: dict[str, nn.Module] = {
        "U-Net": model.network.unet,
        "text tower": model.text.encoders[0],
        "autoencoder": model.codec.autoencoder,  # type: ignore[dict-item]
        "vision tower": load_clip_vision(folder),
        "evaluator": load_evaluator(folder / "evaluator").evaluator,
    }
    counts = {name: sum(w.numel() for w in net.parameters()) for name, net in networks.items()}
    beside = tuple(f"{place.split('/')[0]}/" for place in COMPANIONS.values())
    own = [name for name, _ in sums_of(folder) if not name.startswith(beside)]
    size = sum((folder / name).stat().st_size for name in own)
    side, factor = family.native_size, model.codec.factor
    things, styles = _things(records.entries), sorted({e.style for e in records.entries})
    hint = family.hint
    return [
        f"# {family.label}",
        "",
        f"The model that Safelight carries: {side}x{side} pictures of emoji-like things from "
        f"English words, by latent diffusion with {sum(counts.values()):,} weights in "
        f"{size / 1e6:.1f} MB (16 bits). It was trained from nothing by `safelight train` on "
        f"{things} things in {len(styles)} styles. **It knows emoji-like things, and nothing "
        "else.**",
        "",
        "```",
        'safelight generate "a red apple on a blue background"',
        "```",
        "",
        f"Drawn best with {hint.sampler}, schedule {hint.schedule}, {hint.steps} steps and "
        f"guidance {hint.guidance_scale:g}, which are its defaults. Latents are "
        f"{side // factor}x{side // factor}x{family.backbone.in_channels}. The folder opens in "
        "Diffusers too.",
        "",
        "| part | weights |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in counts.items()),
    ]


def scores(records: Records) -> list[str]:
    report = records.report
    gpu = records.runs["diffusion"].config.get("device") != "cpu"
    lines = ["## How good it is", ""]
    rows, met, counted = [], 0, 0
    for target in TARGETS:
        reached = cell_of(report, target.table, target.row, target.column)
        value = _number(reached)
        asked = gpu or not target.gpu
        counted += asked
        if value is None:
            verdict = "not measured"
        elif value >= target.least:
            verdict, met = "reached", met + asked
        else:
            verdict = f"missed by {100 * (target.least - value):.1f} points"
        if not asked:
            verdict = "asked of models trained on a GPU only"
        ceiling = cell_of(report, target.table, *target.ceiling)
        cells = (f">= {100 * target.least:g} %", _percent(reached), _percent(ceiling), verdict)
        rows.append(f"| {target.what} | {' | '.join(cells)} |")
    lines += [
        f"{met} of {counted} targets are reached. An evaluator that was trained apart, on other "
        "scenes, names what it sees; the column of real renderings says what it names of real "
        "pictures of the same facts.",
        "",
        "| | target | reached | real renderings | |",
        "|---|---|---|---|---|",
        *rows,
    ]
    curve = records.runs["diffusion"].curve
    if curve:
        step = max(1, -(-len(curve) // POINTS))
        told = [*curve[:-1:step], curve[-1]]
        lines += [
            "",
            f"![held-out loss by samples]({CURVE})",
            "",
            f"| samples | {' | '.join(f'{samples:,}' for samples, _ in told)} |",
            f"|---|{'---|' * len(told)}",
            f"| held-out loss | {' | '.join(f'{loss:.4f}' for _, loss in told)} |",
        ]
    if WRONG in report.pictures:
        lines += [
            "",
            "The first prompts of the evaluation whose pictures are not right, as they come:",
            "",
            f"![pictures that are not right]({WORST})",
        ]
    return lines


def limits(records: Records, model: Model) -> list[str]:
    side = model.family.native_size
    words = sorted({word for e in records.entries for word in e.style_words})
    return [
        "## What it does not know",
        "",
        f"- Anything but its {_things(records.entries)} things: portraits, landscapes, "
        "photographs, writing. Such a prompt is answered with the emoji-like thing whose words are "
        "nearest.",
        f"- Other sizes than {side}x{side}: it has seen no others.",
        f"- Other styles than these words name: {', '.join(words)}.",
        f"- Other backgrounds than plain ones, of these colours: {', '.join(NAMES)}. Things are "
        f"painted in {', '.join(RECOLOUR_NAMES)} where they have one main colour.",
        "- Other languages than English, and sentences unlike captions.",
        "- A thing in a style has one drawing in the training set. A good picture of it is near to "
        "that drawing: read the rows on memorisation so.",
        "- The sets it learned from decide what is in the world and how it looks; their choices "
        "are in every picture.",
    ]


def data(records: Records) -> list[str]:
    entries = records.entries
    packages = _sources()
    known = {style.name: style for style in packages.STYLES}
    lines = [
        "## What it learned from",
        "",
        f"{sum(e.split == TRAIN for e in entries):,} transparent pictures of {_things(entries)} "
        f"things, composed on plain backgrounds into scenes whose captions say what is there; "
        f"{sum(e.split != TRAIN for e in entries)} more, things in a style held out for testing, "
        "were never learned from. Changes made to the art: scaled to 128x128 pixels, composed, and "
        "in some scenes painted in another colour.",
        "",
        "| style | learned from | held out | source | licence | credit |",
        "|---|---|---|---|---|---|",
    ]
    counts = Counter((e.style, e.split == TRAIN) for e in entries)
    first = {e.style: e for e in reversed(entries)}
    for style, entry in sorted(first.items()):
        package = known[style].package if style in known else None
        source = f"{entry.source} {package.version}" if package else entry.source
        cells = (str(counts[style, True]), str(counts[style, False]), source, entry.licence)
        lines.append(f"| {style} | {' | '.join((*cells, entry.credit))} |")
    lines += [
        "",
        f"Names and keywords: {packages.WORDS.name} {packages.WORDS.version} and "
        f"{packages.MORE_WORDS.name} {packages.MORE_WORDS.version} (both MIT).",
    ]
    if records.teacher:
        told = {n: v for n, v in records.teacher.items() if n in ("teacher", "phrases")}
        lines += [
            "",
            "The text tower learned language from the vectors of a sentence encoder, which is not "
            f"shipped: {told.get('teacher', 'not named')}; phrases from "
            f"{told.get('phrases', 'not named')}.",
        ]
    return lines


def training(records: Records) -> list[str]:
    lines = [
        "## How it was trained",
        "",
        "| | steps | batch | samples | time | held-out figures at the end |",
        "|---|---|---|---|---|---|",
    ]
    commands, lost = [], []
    for stage, run in records.runs.items():
        time = "not recorded" if run.seconds is None else duration(run.seconds)
        if stage in records.machines:
            time += f" on {records.machines[stage]}"
        figures = ", ".join(f"{n} {v:.4g}" for n, v in run.figures.items() if "snr_" not in n)
        batch = run.config["training.batch_size"]
        planned = "" if run.counted else " (planned)"
        counts = (f"{run.steps:,}{planned}", str(batch), f"{run.samples:,}{planned}")
        cells = (*counts, time, figures or "not recorded")
        lines.append(f"| {stage} | {' | '.join(cells)} |")
        commands.append(run.command)
        if not run.recorded:
            lost.append(stage)
    lines += ["", "```", *commands, "```"]
    if lost:
        lines += [
            "",
            f"Of some runs ({', '.join(lost)}) the result was kept and not the whole record: what "
            "is told of their settings is the config's, and what was reached is unknown.",
        ]
    return lines


def measured(report: Report) -> list[str]:
    facts = [f"- **{name}**: {value}" for name, value in report.facts.items()]
    lines = ["## All that was measured", "", *report.notes, "", *facts]
    for table in report.tables:
        lines += ["", f"### {table.title}", "", *table_lines(table)]
    return lines


def hashes(folder: Path) -> list[str]:
    rows = (f"| {name} | {digest} |" for name, digest in sums_of(folder))
    return [
        "## Files and licence",
        "",
        "The weights are under Apache-2.0, as the program is; whom the art and the words are owed "
        "to stands above and in NOTICE.",
        "",
        "| file | SHA-256 |",
        "|---|---|",
        *rows,
    ]


def cell_of(report: Report, title: str, row: str, column: str) -> Cell:
    """A cell of a report's table; None if there is no such table, row or column."""
    for table in report.tables:
        if table.title == title and row in table.rows and column in table.columns:
            return table.rows[row][table.columns.index(column)]
    return None


def _things(entries: Sequence[CutoutEntry]) -> int:
    return len({entry.hexcode for entry in entries})


def _number(cell: Cell) -> float | None:
    value = cell.value if isinstance(cell, Share) else cell
    return float(value) if isinstance(value, (int, float)) else None


def _percent(cell: Cell) -> str:
    return f"{100 * cell:.1f} %" if isinstance(cell, float) else shown_cell(cell)


def sums_of(folder: Path) -> list[tuple[str, str]]:
    """The files that were packed with their hashes. Raises FileError if there is no list."""
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
    except OSError as error:
        raise FileError(f"{folder / SUMS} cannot be read: {error.strerror}; run pack.py") from None
    return [(name, digest) for digest, name in (line.split("  ", 1) for line in lines)]


def _sources() -> ModuleType:
    """The packages that the pictures are made from, as the script one folder up lists them."""
    place = str(Path(__file__).resolve().parents[1])
    if place not in sys.path:
        sys.path.append(place)
    import emoji_sources

    return emoji_sources
