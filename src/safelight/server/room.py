"""Whether one more job may wait."""

from collections.abc import Sequence

from safelight.server.jobs import Job
from safelight.server.limits import Limits
from safelight.server.refusals import TooMany


def check_room(limits: Limits, owner: str, waiting: Sequence[Job], running: Sequence[Job]) -> None:
    """Raise TooMany, with the seconds after which asking again makes sense, if the queue or its
    share for one owner is full."""
    if len(waiting) >= limits.queue:
        raise TooMany(
            f"{len(waiting)} jobs wait, and up to {limits.queue} may; try again later.",
            retry_after=_until_room(waiting),
        )
    own = [job for job in (*waiting, *running) if job.owner == owner]
    if len(own) >= limits.owner_queue:
        raise TooMany(
            f"{len(own)} of your jobs wait or run, and up to {limits.owner_queue} may; try again "
            "later.",
            retry_after=_until_room(own),
        )


def _until_room(jobs: Sequence[Job]) -> float:
    """Seconds after which one of these jobs is likely to be over, 1 to 60."""
    etas = [job.eta for job in jobs if job.eta is not None]
    return float(min(max(round(min(etas, default=5.0)), 1), 60))
