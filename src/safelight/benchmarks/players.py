"""Contenders at their turns: what one turn measured, in a process that lives on or a fresh one."""

import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from safelight.benchmarks import ours
from safelight.benchmarks.alike import Array
from safelight.benchmarks.contenders import Contender
from safelight.benchmarks.processes import ContenderError, Pool, Process, finished
from safelight.benchmarks.task import WORKS, Task
from safelight.benchmarks.turns import calls_of
from safelight.engines.disturbance import Disturbance, between, moment

TURN = 0.25  # seconds that a turn should last: short calls are repeated
PROFILED = 3  # calls of a turn of `overhead`, with and without the profiler

Facts = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """One turn: the figure of a call, what it took, and what else the machine did meanwhile."""

    value: float  # in the unit of the work
    wall: float
    disturbance: Disturbance
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Player:
    """A contender that is ready.

    turn: measures once. output: what it made to be checked by, if it can tell. calls: of a turn.
    drawn: the picture (B, H, W, 3) of a whole turn, of works that a preset changes. called: what a
    call of the network makes of the inputs that all share, where a turn is a process of its own.
    """

    contender: Contender
    turn: Callable[[], Turn]
    output: Callable[[], Array | None]
    facts: Facts
    calls: int = 1
    drawn: Callable[[], Array | None] = lambda: None
    called: Callable[[], Array | None] = lambda: None


@dataclass(frozen=True)
class Hall:
    """Where players play. python: the interpreter of peers; scratch: a folder for outputs."""

    python: str
    scratch: Path
    pool: Pool


def player_of(contender: Contender, task: Task, hall: Hall) -> AbstractContextManager[Player]:
    """A contender ready for its turns at a task, until the context is left.

    Raises ContenderError if it cannot do the work.
    """
    if WORKS[task.work].fresh:
        return fresh(contender, task, hall.python, hall.scratch)
    return seated(contender, task, hall)


@contextmanager
def seated(contender: Contender, task: Task, hall: Hall) -> Iterator[Player]:
    """A contender in a process that lives through all rounds, warm: it has worked before."""
    work = "overhead" if task.work == "roofline" else task.work
    command = contender.command(hall.python)
    with hall.pool.process(contender.who, contender.name, command, task.threads) as process:
        made = process.ask("prepare", task=replace(task, work=work).line())
        began = time.perf_counter()
        output = _output(process, hall.scratch)
        first = time.perf_counter() - began
        if task.work == "picture":
            once = first * int(str(task.recipe["steps"])) / task.short.steps
        else:
            once = process.ask("run", calls=1)["seconds"]
        calls = calls_of(once, TURN)
        most = _peak(process.ask("peak"), task)

        def working() -> tuple[float, Facts]:
            found = process.ask("run", calls=calls)
            return found["seconds"] / calls, found

        def profiled() -> tuple[float, Facts]:
            found = process.ask("profile", calls=PROFILED)
            return 100 * found["overhead_share"], found

        looks_inside = work == "overhead"
        act = profiled if looks_inside else working
        facts = {
            "ready_seconds": round(made["seconds"], 3),
            "first_call_seconds": round(first, 3),
            **({} if most is None else {"peak_bytes": most}),
            **_versions(made["facts"]),
        }
        yield Player(
            contender,
            lambda: _watched(act),
            lambda: output,
            facts,
            PROFILED if looks_inside else calls,
            lambda: _output(process, hall.scratch, whole=True) if work == "picture" else None,
        )


@contextmanager
def fresh(contender: Contender, task: Task, python: str, scratch: Path) -> Iterator[Player]:
    """A contender whose every turn is a new process; once it has run uncounted, files are warm."""
    facts: Facts = {}
    outputs: list[Array] = []
    drawn: list[Array] = []  # the last picture
    with Process(contender.name, contender.command(python), task.threads) as process:
        told = process.ask("prepare", task=task.line() | {"work": _warming(task)})["facts"]
        facts.update(_versions(told))
        if task.work == "memory":
            outputs.append(_output(process, scratch))

    if task.work == "start":
        outputs.append(_started(contender, task.short, python, scratch)[1])

    def started() -> tuple[float, Facts]:
        seconds, picture = _started(contender, task, python, scratch)
        drawn[:] = [picture]
        return seconds, {}

    def called() -> Array:
        with Process(contender.name, contender.command(python), task.threads) as process:
            process.ask("prepare", task=replace(task, work="step").line())
            return _output(process, scratch)

    acts: Mapping[str, Callable[[], tuple[float, Facts]]] = {
        "load": lambda: _loaded(contender, task, python),
        "memory": lambda: _most_memory(contender, task, python),
        "start": started,
    }
    act = acts[task.work]
    yield Player(
        contender,
        lambda: _watched(act),
        lambda: outputs[0] if outputs else None,
        facts,
        drawn=lambda: drawn[0] if drawn else None,
        called=called,
    )


def _versions(told: Facts) -> Facts:
    return {name: value for name, value in told.items() if isinstance(value, str)}


def _warming(task: Task) -> str:
    """What a process does to warm the files and, of `memory`, to show what it draws."""
    return "picture" if task.work == "memory" else "load"


def _watched(act: Callable[[], tuple[float, Facts]]) -> Turn:
    """A turn, and what the machine did besides it.

    Of the processor's time counts as its own: what a living process says, what processes that
    ended took, and ours.
    """
    ended, own, before = _ended(), time.process_time(), moment()
    value, detail = act()
    after = moment()
    used = detail.get("processor", 0.0) + _ended() - ended + time.process_time() - own
    return Turn(value, after.wall - before.wall, between(before, after, used), detail)


def _ended() -> float:
    """Processor seconds of all our processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _output(process: Process, scratch: Path, *, whole: bool = False) -> Array:
    path = scratch / "output.npy"
    process.ask("output", path=str(path), whole=whole)
    output: Array = np.load(path, allow_pickle=False)
    path.unlink()
    return output


def _loaded(contender: Contender, task: Task, python: str) -> tuple[float, Facts]:
    with Process(contender.name, contender.command(python), task.threads) as process:
        told = process.ask("prepare", task=task.line())["facts"]
    return told["load_seconds"], {"import_seconds": told["import_seconds"]}


def _peak(told: Facts, task: Task) -> int | None:
    """The most memory of a process where it works, from what it told."""
    most: int | None = told["peak"] if task.device == "cpu" else told.get("gpu_peak")
    return most


def _most_memory(contender: Contender, task: Task, python: str) -> tuple[float, Facts]:
    with Process(contender.name, contender.command(python), task.threads) as process:
        process.ask("prepare", task=task.line())
        loaded = process.ask("peak")
        process.ask("run", calls=1)
        peak = process.ask("peak")
    most = _peak(peak, task)
    if most is None:
        raise ContenderError(f"{contender.name}: what memory it took cannot be told here")
    detail = {"peak_of_loading": loaded["peak"], "anonymous_after": peak["anonymous"]}
    return float(most), detail


def _started(contender: Contender, task: Task, python: str, scratch: Path) -> tuple[float, Array]:
    """Seconds from the start of a process to its end, and the picture that it wrote."""
    png = scratch / "start.png"
    told = replace(task, png=str(png))
    command = contender.command(python)
    if contender.peer is None:
        command = ours.command(told, command[0])
    else:
        command = [*command, "start", json.dumps(told.line())]
    began = time.perf_counter()
    finished(contender.name, command, task.threads, made=png)
    seconds = time.perf_counter() - began
    with Image.open(png) as image:
        picture: Array = np.asarray(image.convert("RGB"))[None]
    return seconds, picture
