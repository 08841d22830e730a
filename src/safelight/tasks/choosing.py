"""The engine for `--engine auto`: what draws a request soonest on this machine."""

from math import ceil

from safelight.engines.choice import Candidate, Choice, candidates, chosen
from safelight.engines.table import EAGER
from safelight.engines.work import Work
from safelight.model import Model
from safelight.tasks.budget_prediction import passes_of
from safelight.tasks.engaging import extras_of
from safelight.tasks.generate import batch_limit, settled
from safelight.tasks.request import Request


def chosen_for(model: Model, request: Request) -> Choice:
    """The engine to draw a request with, and why. The model is as loaded: eager's.

    Raises as `settled` for a request that cannot be drawn at all.
    """
    if model.placement is not None:
        return Choice(EAGER, "parts of the model come and go, and other engines keep their own")
    engines = [one for one in candidates() if not (moves(request) and _keeps_weights(one, model))]
    return chosen(model, work_of(request, model), engines)


def work_of(request: Request, model: Model) -> Work:
    """The longest pass of a request: its size, how many rows go through at once, how often."""
    one = settled(request, model)[0]
    together = min(request.count, batch_limit(one))
    longest = max(passes_of(one, model), key=lambda run: run.calls * run.size[0] * run.size[1])
    return Work(
        height=longest.size[0],
        width=longest.size[1],
        batch=longest.rows * together,
        calls=ceil(longest.calls) * ceil(request.count / together),
        asked=frozenset(extras_of(one, model)),
    )


def moves(request: Request) -> bool:
    """Whether adapters of a request act in a part of the steps only."""
    return any((one.start, one.end) != (0.0, 1.0) for one in request.loras)


def _keeps_weights(one: Candidate, model: Model) -> bool:
    if one.name == EAGER or one.missing() is not None:
        return False
    runner = one.applied(model).network.runner
    return runner is not None and runner.frozen
