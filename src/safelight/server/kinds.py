"""Which requests may share a batch, and which a model, by what they say."""

from collections.abc import Hashable

from safelight.server.jobs import LESSON, Job
from safelight.tasks.request import Request


def kind_of(job: Job) -> str | None:
    """What jobs must have in common to share a batch: all that is set but words and seeds."""
    request = job.request
    if job.door == LESSON or request.exact or request.best_of > 1 or not request.needs_model:
        return None
    own = {"prompt", "negative_prompt", "seed", "subseed", "count", "batch"}
    return request.model_dump_json(exclude_unset=True, exclude=own)


def model_of(request: Request) -> tuple[Hashable, ...]:
    """What stands for the loaded model that a request is drawn with."""
    return (
        request.model,
        request.vae,
        request.ema,
        request.prediction,
        request.zero_terminal_snr,
    )
