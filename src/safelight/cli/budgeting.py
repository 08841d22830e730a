"""`--budget`: how requests are to be drawn within a time and a size of memory."""

from collections.abc import Sequence
from dataclasses import replace

from safelight.tasks.budget import Planned, read_budget
from safelight.tasks.budget_learning import planned_within
from safelight.tasks.loading import Models
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies

LEAST = 0.001  # seconds, where the time is used up before the last request


def plans_within(
    text: str, requests: Sequence[Request], models: Models, supplies: Supplies
) -> list[Planned | None]:
    """How each request is to be drawn, and None for those that draw nothing.

    The memory is there for each of them, the time for all together. Raises RequestError for a text
    that is no budget, or if a request cannot be drawn within it.
    """
    left = read_budget(text)
    plans: list[Planned | None] = []
    for request in requests:
        plan = planned_within(request, left, models, supplies) if request.needs_model else None
        if plan is not None:
            left = replace(left, seconds=max(left.seconds - plan.prediction.seconds, LEAST))
        plans.append(plan)
    return plans
