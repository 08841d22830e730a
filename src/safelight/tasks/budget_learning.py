"""What this machine's rates are, measured once and corrected by every drawing within a budget.

They lie in a small file of the cache; one that is damaged, or of another machine, thread count or
PyTorch, is as good as none.
"""

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from safelight.checkpoints.hashes import cache_folder
from safelight.engines.budget_rates import (
    Rates,
    device_peak_bytes,
    measured_rates,
    process_bytes,
)
from safelight.engines.disturbance import Watch
from safelight.engines.placement import DTYPES, resolve_device
from safelight.engines.table import EAGER
from safelight.errors import OutputError
from safelight.tasks.budget import Budget, Planned, planned, told_bytes, told_time
from safelight.tasks.generate import settled
from safelight.tasks.loading import Models
from safelight.tasks.request import Request
from safelight.tasks.software import software_on
from safelight.tasks.supplies import Supplies
from safelight.version import __version__
from safelight.writing import make_folder, write_text

log = logging.getLogger(__name__)

FILE = "rates.json"
LARGEST = 2**20  # bytes of the file
BUSY = (
    "other processes keep this machine busy, so predictions are as uncertain as its pace; what was "
    "measured now is not remembered"
)
CONTEXT = 500e6  # bytes that a GPU's own context takes

Known = dict[tuple[str, str], Rates]


def planned_within(
    request: Request, budget: Budget, models: Models, supplies: Supplies | None = None
) -> Planned:
    """The request as it is best drawn within a budget; nothing of its model is read.

    Measures this machine for about two seconds the first time. Raises RequestError, naming the
    nearest way, if there is none, and whatever `generate.settled` and `Models.check` raise.
    """
    device = resolve_device(request.device)
    model = models.peek(request)
    (one,) = settled(request.replace(count=1), model, supplies)
    known = rates_for(_types(request), device)
    base = CONTEXT if device.type == "cuda" else float(process_bytes())
    return planned(request, one, model, budget, known, base=base, device=device)


def _types(request: Request) -> list[str]:
    return ["fp32", "bf16"] if request.dtype == "auto" else [request.dtype]


def rates_for(types: list[str], device: torch.device) -> Known:
    """All rates that are known of a device; of the engine eager, those of these types at least."""
    machine = machine_of(device)
    known = remembered(machine)
    fresh = [(EAGER, dtype) for dtype in types if (EAGER, dtype) not in known]
    watch = Watch()
    for engine, dtype in fresh:
        known[engine, dtype] = measured_rates(DTYPES[dtype], device)
    if fresh and not watch.disturbed():
        remember(machine, known)
    elif fresh:
        log.warning(BUSY)
    return known


def machine_of(device: torch.device) -> str:
    """All that rates depend on, in words."""
    software = software_on(device, "any")
    return (
        f"{software.device}, {software.threads} threads, torch {software.torch}, "
        f"safelight {__version__}"
    )


def remembered(machine: str) -> Known:
    """The rates of a machine by engine and type; none if they were not measured yet."""
    found = _read().get(machine)
    known: Known = {}
    for name, values in found.items() if isinstance(found, dict) else ():
        engine, _, dtype = str(name).partition(" ")
        if dtype in DTYPES and (rates := _rates(values)) is not None:
            known[engine, dtype] = rates
    return known


def remember(machine: str, known: Mapping[tuple[str, str], Rates]) -> None:
    """Write the rates of a machine down; a cache that cannot be written is none."""
    values = {f"{engine} {dtype}": asdict(rates) for (engine, dtype), rates in known.items()}
    with contextlib.suppress(OSError, OutputError):
        make_folder(cache_folder())
        write_text(_path(), json.dumps({**_read(), machine: values}, indent=1))


def _path() -> Path:
    return cache_folder() / FILE


def _read() -> dict[str, object]:
    try:
        if _path().stat().st_size > LARGEST:
            return {}
        found = json.loads(_path().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _rates(values: object) -> Rates | None:
    """Rates of what a file says; None unless all of it is there and sound."""
    if not isinstance(values, dict) or set(values) != set(Rates.__dataclass_fields__):
        return None
    for value in values.values():
        sound = isinstance(value, int | float) and not isinstance(value, bool)
        if not sound or not 0 < value < 1e18:
            return None
    return Rates(**{name: float(value) for name, value in values.items()})


class Trial:
    """One drawing within a budget: begun when it is made, told what became of it at the end."""

    def __init__(self, plan: Planned) -> None:
        self.plan = plan
        self._device = resolve_device(plan.request.device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._began = time.perf_counter()

    def ended(self) -> str:
        """What happened beside what was predicted; the rates learn from it."""
        seconds = time.perf_counter() - self._began
        said = self.plan.prediction
        setup, machine = self.plan.setup, machine_of(self._device)
        known = remembered(machine)
        if (rates := known.get((setup.engine, setup.dtype))) is not None:
            known[setup.engine, setup.dtype] = rates.learnt(seconds / said.seconds)
            remember(machine, known)
        peak = device_peak_bytes(self._device)
        memory = "" if peak is None else f" and {told_bytes(peak)}"
        return (
            f"took {told_time(seconds)}{memory}; predicted were {told_time(said.seconds)} and "
            f"{told_bytes(said.nbytes)}"
        )
