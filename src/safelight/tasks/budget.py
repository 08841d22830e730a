"""A budget of time and memory, and the first way to draw within it.

In order of preference: what is asked for as it is; then means that change no more than the order of
sums (decoding in bands, parts in memory one after another, then block by block); then, where the
user left the number type open, bfloat16 with the same means; and engines that round more only where
the request itself allows a drift (`--reuse`, `--merge-tokens`). The first that fits is taken.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import torch

from safelight.engines.budget_rates import Rates
from safelight.engines.offload import Offload
from safelight.engines.placement import CPU
from safelight.engines.table import AUTO, EAGER, ENGINES
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.budget_prediction import Prediction, Setup, predicted
from safelight.tasks.placing import may_rest
from safelight.tasks.request import Request

UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
EXAMPLE = "such as '60s 4GB', '2min' or '3.5GB'"
WAYS: tuple[tuple[Offload, bool], ...] = (
    ("none", False),
    ("none", True),
    ("parts", False),
    ("parts", True),
    ("sequential", False),
    ("sequential", True),
)


@dataclass(frozen=True)
class Budget:
    """At most so many seconds and bytes; infinity where nothing is said."""

    seconds: float = float("inf")
    nbytes: float = float("inf")

    @property
    def limits(self) -> Prediction:
        return Prediction(self.seconds, self.nbytes)

    def __str__(self) -> str:
        parts = [] if self.seconds == float("inf") else [told_time(self.seconds)]
        parts += [] if self.nbytes == float("inf") else [told_bytes(self.nbytes)]
        return " and ".join(parts)


@dataclass(frozen=True)
class Planned:
    """A request with everything chosen, and what it will take."""

    request: Request
    setup: Setup
    prediction: Prediction
    budget: Budget

    def __str__(self) -> str:
        return (
            f"within {self.budget}: {in_words(self.setup)}; predicted "
            f"{told_time(self.prediction.seconds)} and {told_bytes(self.prediction.nbytes)}"
        )


def read_budget(text: str) -> Budget:
    """The budget of a text such as '60s 4GB'. Raises RequestError for one that cannot be read."""
    found: dict[str, float] = {}
    for part in re.split(r"[\s,]+", text.strip()):
        match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)([a-z]+)", part.lower())
        unit = match.group(2) if match else ""
        kind = "seconds" if unit in UNITS else "nbytes" if unit in BYTES else ""
        if not match or not kind or kind in found:
            raise RequestError(
                f"a budget is a time, a size of memory or both, {EXAMPLE}; got {text!r}."
            )
        amount = float(match.group(1)) * (UNITS | BYTES)[unit]
        if amount <= 0:
            raise RequestError(f"a budget must be more than nothing, {EXAMPLE}; got {text!r}.")
        found[kind] = amount
    return Budget(**found)


def setups_of(
    asked: Request, known: Mapping[tuple[str, str], Rates], device: torch.device = CPU
) -> Iterator[Setup]:
    """The ways to draw a request, the one that is best if it fits first.

    asked: before it was settled, so that what it left open is seen; known: rates by engine and
    type.
    """
    types = ["fp32", "bf16"] if asked.dtype == "auto" else [asked.dtype]
    for dtype, engine in product(types, _engines(asked)):
        if (engine, dtype) not in known:
            continue
        for offload, bands in WAYS:
            if "offload" in asked.model_fields_set and offload != asked.offload:
                continue
            if asked.tile_vae is not None and bands != asked.tile_vae:
                continue
            if offload != "none" and not may_rest(engine, device):
                continue
            yield Setup(dtype, engine, offload, bands)


def _engines(asked: Request) -> list[str]:
    """Those that may be chosen: what was asked for, or all that keep to the asked exactness."""
    if "engine" in asked.model_fields_set and asked.engine != AUTO:
        return [asked.engine]
    drifts = asked.reuse.any or asked.token_merging.ratio > 0
    names = [name for name, engine in ENGINES.items() if engine.exact and name != EAGER]
    names += [name for name, engine in ENGINES.items() if not engine.exact and drifts]
    return [EAGER, *names]


def planned(
    asked: Request,
    settled: Request,
    model: Model,
    budget: Budget,
    known: Mapping[tuple[str, str], Rates],
    *,
    base: float,
    device: torch.device = CPU,
) -> Planned:
    """The first way to draw within a budget.

    settled: one picture of the request, with nothing left open. model: its weights need not be
    read. base: memory of the process without the model. device: where the work is done.
    Raises RequestError, naming the nearest way, if there is none.
    """
    tried: list[tuple[float, Setup, Prediction]] = []
    for setup in setups_of(asked, known, device):
        one = settled.replace(exact=_exact(asked, setup))
        found = predicted(
            one, model, setup, known[setup.engine, setup.dtype], base=base, pictures=asked.count
        )
        tried.append((found.times(budget.limits), setup, found))
        if tried[-1][0] <= 1:
            return Planned(with_setup(asked, setup), setup, found, budget)
    assert tried, "there is always the engine eager"
    _, setup, found = min(tried, key=lambda one: one[0])

    def at(steps: int) -> float:
        one = settled.replace(exact=_exact(asked, setup), steps=steps)
        rates = known[setup.engine, setup.dtype]
        return predicted(one, model, setup, rates, base=base, pictures=asked.count).seconds

    fewer = range(settled.steps - 1, 0, -1) if found.seconds > budget.seconds else ()
    steps = next((n for n in fewer if at(n) <= budget.seconds), 0)
    raise RequestError(_refusal(asked, budget, setup, found, steps))


def with_setup(asked: Request, setup: Setup) -> Request:
    """The request with what was chosen written down."""
    changes: dict[str, object] = {"dtype": setup.dtype, "offload": setup.offload}
    if setup.engine != asked.engine:
        changes["engine"] = setup.engine
    if setup.bands:
        changes["tile_vae"] = True
    return asked.replace(**changes)


def _exact(asked: Request, setup: Setup) -> bool:
    return setup.dtype == "fp32" if asked.exact is None else asked.exact


def _refusal(asked: Request, budget: Budget, setup: Setup, found: Prediction, steps: int) -> str:
    """What would be nearest, and what would bring it within; so many steps take the time."""
    words = (
        f"nothing draws this within {budget}; the nearest is {in_words(setup)}, which takes about "
        f"{told_time(found.seconds)} and {told_bytes(found.nbytes)}"
    )
    enough = Budget(
        found.seconds * 1.05 if budget.seconds != float("inf") else float("inf"),
        found.nbytes * 1.02 if budget.nbytes != float("inf") else float("inf"),
    )
    remedies = [f"--budget '{_as_option(enough)}'"]
    if found.seconds > budget.seconds:
        if steps:
            remedies.append(f"--steps {steps}")
        if not (asked.reuse.any or asked.token_merging.ratio):
            remedies.append("--reuse 0.05")
    if found.nbytes > budget.nbytes or found.seconds > 2 * budget.seconds:
        remedies.append("a smaller --size")
    return f"{words}; give {' or '.join(remedies)}."


def in_words(setup: Setup) -> str:
    """What was chosen, as people say it."""
    where = {
        "none": "all parts in memory",
        "parts": "parts in memory one after another",
        "sequential": "the U-Net in memory block by block",
    }
    parts = [setup.dtype, where[setup.offload]]
    if setup.engine != EAGER:
        parts.insert(1, f"engine {setup.engine}")
    if setup.bands:
        parts.append("decoded in bands")
    return ", ".join(parts)


def told_time(seconds: float) -> str:
    """A time for people."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def told_bytes(count: float) -> str:
    """A size of memory for people."""
    if count < 1e9:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.2f} GB" if count < 10e9 else f"{count / 1e9:.1f} GB"


def _as_option(budget: Budget) -> str:
    parts = [] if budget.seconds == float("inf") else [f"{math.ceil(budget.seconds)}s"]
    parts += [] if budget.nbytes == float("inf") else [told_bytes(budget.nbytes).replace(" ", "")]
    return " ".join(parts)
