"""One piece of work for many who ask for it at the same time."""

import asyncio
from collections.abc import Awaitable, Callable


class Merged:
    """Work that anybody may ask for, done for all who wait for it: at most one is done at a time,
    and at most one follows."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._running: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None

    async def done(self) -> None:
        """Wait until the work was done, begun no earlier than now. Raises what it raises.

        Who gives up waiting ends it for nobody.
        """
        if self._running is None:
            self._running = asked = self._begun(None)
        elif self._following is None:
            self._following = asked = self._begun(self._running)
        else:
            asked = self._following
        await asyncio.shield(asked)

    def _begun(self, before: "asyncio.Task[None] | None") -> "asyncio.Task[None]":
        task = asyncio.create_task(self._after(before))
        task.add_done_callback(self._over)
        return task

    async def _after(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await asyncio.wait([before])  # what that raises is told to those who asked for it
        await self._work()

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._running, self._following = self._following, None
        if not task.cancelled():
            task.exception()  # whoever still waits is told; if nobody does, it is no loose end
