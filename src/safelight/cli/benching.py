"""A benchmark as the command line asks for it: words to a run, lines to a table and a file."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from safelight.benchmarks.bench import Asked, bench
from safelight.benchmarks.report import Line
from safelight.checkpoints.library import find_model
from safelight.cli.bench_table import caveats, heading, tables
from safelight.cli.telling import console, err, tell
from safelight.engines.placement import resolve_device
from safelight.errors import RequestError, SafelightError
from safelight.printable import shown
from safelight.writing import make_folder, write_text

STDOUT = Path("-")
DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Wish:
    """The options as they were typed, in the order of the command line."""

    work: str
    geometry: str | None
    model: str | None
    size: str | None
    batch: int
    guidance: float
    steps: int
    precision: str
    engine: str
    offload: str
    preset: str
    against: str
    threads: int | None
    rounds: int
    budget: float | None
    device: str
    peer_python: str | None
    folder: Path | None
    json: Path | None
    force: bool


def asked(wish: Wish) -> Asked:
    """The run that is wished for. Raises RequestError for what cannot be read, or FileError."""
    if wish.threads is not None and wish.threads < 1:
        raise RequestError(f"threads must be at least 1; got {wish.threads}.")
    if wish.budget is not None and not (math.isfinite(wish.budget) and wish.budget > 0):
        raise RequestError(f"budget must be seconds above 0; got {wish.budget:g}.")
    if not (math.isfinite(wish.guidance) and wish.guidance >= 1):
        raise RequestError(f"cfg must be 1 (no guidance) or more; got {wish.guidance:g}.")
    if not DEVICE.fullmatch(wish.device):
        raise RequestError(f"device must be cpu, cuda or cuda:1; got {shown(wish.device, 40)!r}.")
    resolve_device(wish.device)
    return Asked(
        works=names(wish.work),
        geometry=wish.geometry,
        model=None if wish.model is None else find_model(wish.model),
        size=None if wish.size is None else size_of(wish.size),
        batch=wish.batch,
        guidance=wish.guidance,
        steps=wish.steps,
        precisions=names(wish.precision),
        engines=names(wish.engine),
        offloads=names(wish.offload) or ("auto",),
        presets=names(wish.preset),
        against=names(wish.against),
        threads=wish.threads,
        rounds=wish.rounds,
        budget=wish.budget,
        device=wish.device,
        peer_python=wish.peer_python,
        folder=wish.folder,
        force=wish.force,
    )


def names(text: str) -> tuple[str, ...]:
    """Words with commas between, each once."""
    return tuple(dict.fromkeys(word for word in text.replace(" ", "").split(",") if word))


def size_of(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as two numbers. Raises RequestError."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise RequestError(f"size must be WIDTHxHEIGHT, such as 512x512; got {shown(text, 40)}.")
    return int(width), int(height)


def run(wish: Wish) -> None:
    """Do the run and show what it found.

    Raises what `bench` raises, and at the end SafelightError if a contender could not be timed:
    what was found of others is shown before.
    """
    said = asked(wish)
    if wish.json is not None and wish.json != STDOUT:
        make_folder(wish.json.parent)
    lines: list[Line] = []
    for line in _watched(said):
        lines.append(line)
        if wish.json == STDOUT:
            typer.echo(json.dumps(line))
        elif wish.json is not None:  # whole at any time: a run that is cut off leaves its lines
            write_text(wish.json, "".join(f"{json.dumps(one)}\n" for one in lines))
    if wish.json != STDOUT:
        screen = console()
        screen.print(heading(lines), markup=False)
        for table in tables(lines):
            screen.print()
            screen.print(table)
        for caveat in caveats(lines):
            screen.print(caveat, markup=False, soft_wrap=True)
    tell([f"{line['work']}: {line['words']}" for line in lines if line.get("noisy")])
    left = [line for line in lines if line["kind"] == "left_out"]
    tell([f"left out of {line['work']} in {line['precision']}: {line['reason']}" for line in left])
    failed = [line for line in lines if line["kind"] == "failed"]
    if failed:
        reasons = "; ".join(f"{line['work']}: {line['reason']}" for line in failed)
        raise SafelightError(f"not everybody could be timed: {reasons}")


def _watched(said: Asked) -> Iterator[Line]:
    """The run, with what it does just now on a line of the terminal."""
    with err.status("", spinner="dots") as status:
        yield from bench(said, lambda text: status.update(shown(text)))
