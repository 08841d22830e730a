"""A job in memory: its value, what happened to it, and those who wait for what happens next.

Used on the event loop alone.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace

from safelight.server.fairness import Waiting
from safelight.server.jobs import Body, Event, Job, Stepped
from safelight.server.kinds import model_of

STEPS_KEPT = 2000  # step events of a job that can be replayed
AFTER_RESTART = 2**32  # numbers of events go on from there, past all that were not kept


@dataclass(eq=False)
class Live:
    """A job that goes on, or is over since a short while.

    kind: what jobs must have in common to share a batch; None: it shares with nobody.
    since: when it came, or last had a turn. followers: connections that follow it; followed_until:
        when the last of them went, or it came. underway: indices that are being drawn, and how far
        each is, 0 to 1. last_step: when a step of it was taken.
    """

    job: Job
    kind: str | None = None
    since: float = 0.0
    events: list[Event] = field(default_factory=list)
    followers: int = 0
    followed_until: float = 0.0
    preview: bytes | None = None
    underway: dict[int, float] = field(default_factory=dict)
    last_step: float = 0.0
    ending: bool = False  # it is over and about to be kept as such, or not kept at all yet
    next_number: int = 0
    _closed: bool = False
    _shown: int | None = None  # the event that holds the newest preview
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def entry(self) -> Waiting:
        """What the order of turns is made of."""
        job = self.job
        return Waiting(
            job=job.id,
            owner=job.owner,
            number=job.number,
            since=self.since,
            model=model_of(job.request),
            kind=self.kind,
            pictures=len(self.free),
        )

    @property
    def free(self) -> tuple[int, ...]:
        """The indices of pictures that nobody has begun to draw, or somebody gave up."""
        return tuple(index for index in self.job.left if index not in self.underway)

    def tell(self, body: Body, at: float) -> Event:
        """Add an event and wake all who wait."""
        event = Event(self.next_number, self.job.id, at, body)
        self.next_number += 1
        if isinstance(body, Stepped):
            self._make_room(body)
            if body.preview is not None:
                self.preview, self._shown = body.preview, len(self.events)
        self.events.append(event)
        self._news.set()
        self._news = asyncio.Event()
        return event

    async def follow(self, after: int = -1) -> AsyncIterator[Event]:
        """Events behind number `after`, as they come, until the last."""
        while True:
            news = self._news  # taken before the look, so that nothing is missed between
            for event in list(self._behind(after)):
                after = event.number
                yield event
                if event.last:
                    return
            if self.events and self.events[-1].number > after:
                continue  # it came while the ones before it were being given out
            if self._closed or (self.events and self.events[-1].last):
                return
            if news is self._news:
                await news.wait()

    def _behind(self, after: int) -> Iterable[Event]:
        start = len(self.events)
        while start > 0 and self.events[start - 1].number > after:
            start -= 1
        return self.events[start:]

    def close(self) -> None:
        """The server ends: nobody waits any longer."""
        self._closed = True
        self._news.set()

    def shorten(self) -> None:
        """Forget the steps of a job that is over: what is to last stays."""
        self.events = [event for event in self.events if event.body.kept]
        self._shown, self.preview = None, None

    def _make_room(self, new: Stepped) -> None:
        """Drop the preview before a new one, and the first step if there are very many."""
        if self._shown is not None and new.preview is not None:
            event = self.events[self._shown]
            assert isinstance(event.body, Stepped)
            self.events[self._shown] = replace(event, body=replace(event.body, preview=None))
            self._shown = None
        if len(self.events) > STEPS_KEPT:
            steps = (i for i, e in enumerate(self.events) if isinstance(e.body, Stepped))
            if (first := next(steps, None)) is not None:
                del self.events[first]
                self._shown = None if self._shown is None else self._shown - 1
