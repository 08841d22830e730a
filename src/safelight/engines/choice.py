"""`--engine auto`: which engine draws this work soonest, measured on this machine and remembered.

Of every engine that gives eager's numbers and can serve the request, a few calls of the real U-Net
are timed at the asked size. What is asked then decides: an engine that takes a minute to get ready
is right for a hundred pictures, and wrong for one. Figures are kept in a small file, so that this
costs time once for each model's shape, size and type.
"""

import hashlib
import json
import logging
import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from safelight.engines.disturbance import Watch
from safelight.engines.private_folder import private_folder
from safelight.engines.signature import machine
from safelight.engines.table import EAGER, ENGINES
from safelight.engines.work import Work, example
from safelight.errors import SafelightError
from safelight.writing import write_text

if TYPE_CHECKING:
    from safelight.model import Model

log = logging.getLogger(__name__)

FILE = "choices.json"
FORMAT = 1
REMEMBERED = 256  # sizes and models; the oldest are forgotten
CALLS = 3  # timed for each engine, after one that is not
LIMIT = 180.0  # seconds that measuring may take
WORTH_IT = 0.03  # an engine must save this share of the time: less is noise


@dataclass(frozen=True)
class Candidate:
    """An engine that may be chosen.

    missing: why it cannot run here; None if it can. applied: the model, computed by it.
    making: about how many seconds it would take to get ready at this size for the very first time,
        such as to compile; 0 if that was done before, or if it needs nothing.
    """

    name: str
    applied: Callable[["Model"], "Model"]
    missing: Callable[[], str | None] = lambda: None
    making: Callable[["Model", Work], float] = lambda model, work: 0.0


def candidates() -> tuple[Candidate, ...]:
    """The engines of the table that give eager's numbers and take a model as it is loaded."""
    from safelight.engines import compiled

    makings = {compiled.NAME: compiled.making}
    return tuple(
        Candidate(e.name, e.applied, e.missing, makings.get(e.name, _nothing))
        for e in ENGINES.values()
        if e.exact and e.sink is None
    )


@dataclass(frozen=True)
class Figures:
    """Seconds: until an engine is ready, when all that it keeps on disk is there; and of a call."""

    ready: float
    call: float

    def seconds(self, calls: int, making: float = 0.0) -> float:
        return making + self.ready + self.call * calls


@dataclass(frozen=True)
class Choice:
    """The engine to draw with, and why in a sentence."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"engine {self.name}: {self.why}"


def chosen(
    model: "Model",
    work: Work,
    candidates: Sequence[Candidate],
    *,
    limit: float = LIMIT,
    now: Callable[[], float] = clock.perf_counter,
) -> Choice:
    """The engine that is done soonest with the work. The model is as loaded: eager's.

    limit: seconds that measuring may take; what would not be done by then is left out.
    Engines that are missing here, cannot do what is asked, or fail, are left out. What was measured
    while other processes kept the machine busy is used, and not remembered.
    """
    folder = private_folder("engines")
    key = key_of(model, work)
    book = read_book(folder / FILE)
    figures = dict(book.get(key, {}))
    before = len(figures)
    makings, left_out = {EAGER: 0.0}, []
    began, watch = now(), Watch()
    if EAGER not in figures:
        figures[EAGER] = Figures(0.0, measured(model, work, now).call)
    patience = figures[EAGER].seconds(work.calls)
    for one in candidates:
        if one.name == EAGER or one.missing() is not None or not _serves(one, model, work):
            continue
        making = makings[one.name] = one.making(model, work)
        if one.name in figures:
            continue
        if making > patience:
            left_out.append(f"{one.name} would take about {making:.0f} s to get ready")
        elif now() - began + making > limit:
            left_out.append(f"{one.name} would take too long to measure")
        elif (found := _tried(one, model, work, making, now)) is not None:
            figures[one.name] = found
            makings[one.name] = one.making(model, work)
        else:
            makings.pop(one.name)
    if len(figures) > before and not watch.disturbed():
        write_book(folder / FILE, {**book, key: figures})
    usable = {name: figures[name] for name in makings if name in figures}
    choice = best(usable, work.calls, makings)
    return replace(choice, why="; ".join([choice.why, *left_out]))


def best(figures: Mapping[str, Figures], calls: int, makings: Mapping[str, float]) -> Choice:
    """The engine with the shortest time for so many calls; eager unless another saves enough."""
    took = {name: f.seconds(calls, makings.get(name, 0.0)) for name, f in figures.items()}
    winner = min(took, key=lambda name: (took[name], name))
    if took[winner] > (1 - WORTH_IT) * took[EAGER]:
        winner = EAGER
    others = ", ".join(
        f"{name} {_short(took[name])}"
        for name in sorted(took, key=took.__getitem__)
        if name != winner
    )
    against = f" against {others}" if others else ", the only one that can"
    return Choice(winner, f"{_short(took[winner])} for {calls} calls of the U-Net{against}")


def measured(model: "Model", work: Work, now: Callable[[], float] = clock.perf_counter) -> Figures:
    """How long the model's U-Net takes at this size, as it is computed now."""
    x, time, condition = example(model, work)
    with torch.no_grad():
        began = now()
        model.network(x, time, condition)
        _wait(x)
        first = now() - began
        times = []
        for _ in range(CALLS):
            began = now()
            model.network(x, time, condition)
            _wait(x)
            times.append(now() - began)
    usual = median(times)
    return Figures(max(0.0, first - usual), usual)


def key_of(model: "Model", work: Work) -> str:
    """What figures depend on, as a hash: machine, programs, the network's shape, type and size."""
    parts = [
        *machine(),
        f"openvino {_version_of('openvino')}",
        repr(model.network.unet.config),
        str(model.dtype),
        _device(model.device),
        f"{work.width}x{work.height}x{work.batch}",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


Book = Mapping[str, Mapping[str, Figures]]


def read_book(path: Path) -> Book:
    """What was measured before; nothing if there is no such file or it is damaged."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            return {}
        return {
            str(key): {str(name): _figures(pair) for name, pair in engines.items()}
            for key, engines in told["measured"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        log.warning("what engines were measured before cannot be read; it is measured again")
        return {}


def write_book(path: Path, book: Book) -> None:
    """Keep what was measured, of the last `REMEMBERED` sizes and models."""
    last = list(book.items())[-REMEMBERED:]
    told = {
        "format": FORMAT,
        "measured": {
            key: {name: [f.ready, f.call] for name, f in engines.items()} for key, engines in last
        },
    }
    write_text(path, json.dumps(told))


def _figures(pair: Sequence[float]) -> Figures:
    ready, call = (float(number) for number in pair)
    if not (0 <= ready < float("inf") and 0 < call < float("inf")):
        raise ValueError("not a time")
    return Figures(ready, call)


def _serves(one: Candidate, model: "Model", work: Work) -> bool:
    """Whether an engine can do what is asked besides the plain call."""
    if not work.asked:
        return True
    try:
        runner = one.applied(model).network.runner
    except SafelightError:
        return False
    return runner is None or work.asked <= runner.extras


def _tried(
    one: Candidate, model: "Model", work: Work, making: float, now: Callable[[], float]
) -> Figures | None:
    """What an engine takes; None if it cannot do the work."""
    try:
        found = measured(one.applied(model), work, now)
        if making:  # what was made is there from now on: that time does not come again
            found = replace(found, ready=measured(one.applied(model), work, now).ready)
    except SafelightError as error:
        log.info("engine %s is left out: %s", one.name, error)
        return None
    return found


def _nothing(model: "Model", work: Work) -> float:
    return 0.0


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return str(device)


def _version_of(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"
