"""What the service answers with: a request that was read, and the server at a moment."""

from dataclasses import dataclass

from safelight.server.jobs import Job
from safelight.tasks.request import Request


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request, and what of it was not understood or not taken over."""

    request: Request
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The server at this moment.

    running: jobs that were begun. waiting: jobs in the queue in the order that they will be begun.
    model: the name of the model that is drawn with unless a request names another.
    loading: the file of a model that is being read. ready: whether jobs are accepted and drawn.
    eta: seconds until all is drawn; None if nothing was measured yet. painters: what draws, each as
        clients are told of it: see `Seat`.
    """

    running: tuple[Job, ...]
    waiting: tuple[Job, ...]
    model: str | None
    loading: str | None
    ready: bool
    stopping: bool
    eta: float | None
    painters: tuple[dict[str, object], ...] = ()
