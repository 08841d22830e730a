"""Who follows jobs: how many streams an owner may have, and clients that wait for their result."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Protocol

from safelight.errors import SafelightError
from safelight.server.jobs import Job, Owner
from safelight.server.refusals import NotNow, TooMany

POLL = 0.2  # seconds between looks whether a client is gone


class Streams:
    """How many connections of each owner follow jobs now."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: dict[str, int] = {}

    def begin(self, owner: str) -> None:
        """One more. Raises TooMany beyond the limit."""
        count = self._open.get(owner, 0)
        if count >= self.most:
            raise TooMany(
                f"up to {self.most} jobs may be followed at the same time.", retry_after=5
            )
        self._open[owner] = count + 1

    def end(self, owner: str) -> None:
        """One less."""
        self._open[owner] -= 1
        if not self._open[owner]:
            del self._open[owner]


class Followed(Protocol):
    """What following needs of a `Service`."""

    def following(self, id: str, owner: Owner) -> AbstractAsyncContextManager[Job]: ...

    async def finished(self, id: str, owner: Owner) -> Job: ...

    async def cancel(self, id: str, owner: Owner, reason: str = ...) -> Job: ...


async def drawn_or_gone(
    service: Followed,
    job: Job,
    owner: Owner,
    gone: Callable[[], Awaitable[bool]],
) -> Job | None:
    """The job when it is over; None, and it is cancelled, if its client is gone before.

    gone: `starlette.requests.Request.is_disconnected`. Raises NotNow if the server stops first.
    """
    async with service.following(job.id, owner):
        over = asyncio.create_task(service.finished(job.id, owner))
        try:
            while True:
                done, _ = await asyncio.wait([over], timeout=POLL)
                if done:
                    return _over(over.result())
                if await gone():
                    await service.cancel(job.id, owner, "its client went away")
                    return None
        finally:
            over.cancel()
            with suppress(asyncio.CancelledError, SafelightError):
                await over


def _over(job: Job) -> Job:
    if not job.state.over:
        raise NotNow("the server is stopping; ask again when it is back.", retry_after=10)
    return job
