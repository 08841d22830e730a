"""The queue at work: takes jobs in, gives turns to painters, tells what happens, keeps it all.

Everything here runs on the event loop. Painters run on threads of their own and reach back
through `Desk`'s methods as a `Listener`; the disk has a thread, too, that keeps the order.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from safelight.errors import SafelightError
from safelight.server.fairness import order
from safelight.server.gallery import Gallery
from safelight.server.jobs import (
    Body,
    Drawn,
    Failure,
    Job,
    Judged,
    Queued,
    State,
    Stepped,
    Warned,
    last_word,
)
from safelight.server.judge import Judge, labelled
from safelight.server.kinds import kind_of
from safelight.server.live import AFTER_RESTART, Live
from safelight.server.logs import heard, log
from safelight.server.metrics import Metrics
from safelight.server.pace import Pace
from safelight.server.painter import At
from safelight.server.seats import ATTEMPTS, DIED, Resolve, Seat, Seats
from safelight.server.settings import ServerSettings
from safelight.server.store import Store
from safelight.server.teaching import Teaching
from safelight.tasks.picture import Picture

T = TypeVar("T")
TICK = 0.2  # seconds between looks at deadlines and connections
REMEMBERED = 256  # jobs that are over and stay in memory


class Desk(Teaching, Seats):
    """Jobs that wait and run, and those that are over since a while."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        store: Store,
        gallery: Gallery,
        seats: Sequence[Seat],
        judge: Judge | None = None,
        metrics: Metrics,
        resolve: Resolve,
        clean: Callable[[str], str],
    ) -> None:
        self.settings, self.store, self.gallery = settings, store, gallery
        self.seats, self.judge, self.metrics = list(seats), judge, metrics
        self.resolve, self.clean = resolve, clean
        self.disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self.lives: dict[str, Live] = {}
        self.served: dict[str, float] = {}
        self.stopping = False
        known = store.fact("pace")
        self.pace = Pace(known if isinstance(known, dict) else None)
        self.number = store.next_number()
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self._halted = False  # at shutdown: what is drawn stops at its next step and waits again

    # -- coming and going --------------------------------------------------------------------------

    async def begin(self) -> None:
        """Restore the queue and begin to draw."""
        for job in await self.on_disk(self.store.unfinished):
            await self._restore(job)
        self._tasks = [asyncio.create_task(self._work(seat)) for seat in self.seats]
        self._tasks.append(asyncio.create_task(self._watch()))
        self.reorder()

    async def end(self, grace: float) -> None:
        """Finish what is drawn within `grace` seconds, or put it back; then let go of the store."""
        self.stopping = True
        self._ended.set()
        self.wake()
        for seat in self.seats:
            seat.painter.close()
        if self._tasks:
            *workers, watcher = self._tasks
            watcher.cancel()
            _, busy = await asyncio.wait(workers, timeout=grace)
            if busy:
                self._halted = True
                await asyncio.wait(busy)
            with suppress(asyncio.CancelledError):
                await watcher
        for live in self.running():  # begun and not finished: the next start goes on with it
            attempts = max(live.job.attempts - 1, 0)
            live.job = live.job.changed(state=State.QUEUED, attempts=attempts)
            with suppress(SafelightError):
                await self.on_disk(self.store.write, live.job)
        with suppress(SafelightError):
            await self.on_disk(self.store.set_fact, "pace", self.pace.known())
        await asyncio.to_thread(self.disk.shutdown, wait=True)

    async def _restore(self, job: Job) -> None:
        """A job of the last run of the server, which ended as it should or died."""
        for index in job.left:
            kept = await self.on_disk(self.gallery.found, job, index)
            if kept is not None:  # it was written, and the server died before it knew
                await self.on_disk(lambda kept=kept: self.store.write(picture=kept))
                job = job.changed(pictures=tuple(sorted((*job.pictures, (index, kept.id)))))
        live = self._adopted(job)
        if live.job.hold == "connection":
            await self.finish(live, State.CANCELLED, reason="its connection ended with the server")
        elif live.job.failure is not None:
            await self.finish(live, State.FAILED, failure=live.job.failure)
        elif not live.job.left:
            await self._complete(live)
        elif live.job.state is State.RUNNING and live.job.attempts >= ATTEMPTS:
            await self.finish(live, State.FAILED, failure=DIED)
        elif live.job.state is State.RUNNING:
            log.warning("a job is begun again: the server died", extra={"job": job.id})
            live.job = live.job.changed(state=State.QUEUED)

    def _adopted(self, job: Job) -> Live:
        live = Live(job, kind_of(job), since=time.monotonic(), followed_until=_now())
        live.events = [event for event in self.store.events(job.id) if not event.last]
        live.next_number = (live.events[-1].number + 1 if live.events else 0) + AFTER_RESTART
        self.lives[job.id] = live
        return live

    async def add(self, job: Job) -> Live:
        """Take a job in; it is on the disk when this returns."""
        live = Live(job, kind_of(job), since=time.monotonic(), followed_until=job.created)
        live.ending = True  # it counts, but nobody begins it before it is on the disk
        self.lives[job.id] = live
        try:
            await self.on_disk(self.store.write, job)
        except BaseException:
            del self.lives[job.id]
            raise
        live.ending = False
        for text in job.warnings:
            self.tell(live, Warned(text))
        self.reorder()
        if not any(isinstance(e.body, Queued) for e in live.events):
            self.tell(live, Queued(live.job.position, live.job.eta))
        self.wake()
        return live

    def waiting(self) -> list[Live]:
        """Jobs that were not begun, in order of submission."""
        return [one for one in self.lives.values() if one.job.state is State.QUEUED]

    def running(self) -> list[Live]:
        """Jobs that were begun and are not over."""
        return [one for one in self.lives.values() if one.job.state is State.RUNNING]

    def jobs(self) -> tuple[list[Job], list[Job]]:
        """The jobs that wait, and those that run."""
        return [one.job for one in self.waiting()], [one.job for one in self.running()]

    async def on_disk(self, work: Callable[..., T], *values: object) -> T:
        """Do something with the disk on its thread, in the order of asking."""
        return await self._loop.run_in_executor(self.disk, lambda: work(*values))

    # -- telling -----------------------------------------------------------------------------------

    def tell(self, live: Live, body: Body) -> None:
        """Tell whoever follows a job; what is to last goes to the disk as well."""
        event = live.tell(body, _now())
        if body.kept:
            kept = self._loop.run_in_executor(self.disk, lambda: self.store.write(events=[event]))
            kept.add_done_callback(heard)

    async def finish(
        self, live: Live, state: State, *, failure: Failure | None = None, reason: str = ""
    ) -> None:
        """A job is over: kept, then shown and told, so that nobody hears of an end that a crash
        could undo."""
        if live.ending:
            return
        live.ending = True
        now = _now()
        job = live.job.changed(
            state=state,
            finished=now,
            failure=failure,
            reason=reason,
            position=0,
            eta=None,
            progress=1.0 if state is State.DONE else live.job.progress,
        )
        try:
            await self.on_disk(self.store.write, job)
        except SafelightError as error:
            log.error("the end of a job was not kept", exc_info=error, extra={"job": job.id})
        live.job = job = job.changed(pictures=live.job.pictures)
        self.metrics.jobs.labels(state).inc()
        if failure is not None:
            self.metrics.errors.labels(failure.kind).inc()
        self.metrics.job_seconds.observe(max(now - job.created, 0))
        self.tell(live, last_word(job))
        live.shorten()
        log.info(
            "job over",
            extra={
                "job": job.id,
                "owner": job.owner,
                "state": str(state),
                "seconds": round(now - (job.started or now), 3),
                "pictures": len(job.pictures),
                **({} if failure is None else {"kind": failure.kind, "id": failure.id}),
            },
        )
        self._forget_old()
        self.reorder()

    async def _complete(self, live: Live) -> None:
        """Nothing of a job is left to draw: it is done, unless every picture was withheld."""
        if live.job.pictures or not live.job.withheld:
            await self.finish(live, State.DONE)
        else:
            told, count = live.job.withheld[0].words, live.job.request.count
            if count > 1:
                told = f"all {count} pictures were withheld; the first: {told}"
            failure = Failure("withheld", told, 422)
            await self.finish(live, State.FAILED, failure=failure)

    async def cancel(self, live: Live, reason: str) -> None:
        """Cancel a job that is not over. What is drawn of it stops before its next step."""
        if not live.ending:
            await self.finish(live, State.CANCELLED, reason=reason)

    def reorder(self) -> None:
        """Work out anew who waits behind whom, and tell those whose place changed."""
        waiting = [live.entry() for live in self.lives.values() if not live.ending]
        places = order(waiting, served=self.served)
        queued = 0
        known: float | None = self._rest()
        working = max(sum(seat.there for seat in self.seats), 1)
        for id in places:
            live = self.lives[id]
            if live.underway and not live.free:
                live.job = live.job.changed(position=0, eta=self._rest(live))
                continue
            seconds = self._seconds_left(live)
            known = None if known is None or seconds is None else known + seconds / working
            if live.job.state is State.QUEUED:
                queued += 1
                moved = live.job.position != queued
                live.job = live.job.changed(position=queued, eta=known)
                if moved:
                    self.tell(live, Queued(queued, known))
            else:
                live.job = live.job.changed(position=0, eta=known)
        self.metrics.waiting.set(queued)
        self.metrics.running.set(len(waiting) - queued)

    def _seconds_left(self, live: Live) -> float | None:
        job, left = live.job, len(live.free)
        return self.pace.seconds(job.request, str(job.request.model), left) if left else 0.0

    def _forget_old(self) -> None:
        over = [one for one in self.lives.values() if one.job.state.over and not one.followers]
        for live in over[: max(len(over) - REMEMBERED, 0)]:
            if not live.underway:
                del self.lives[live.job.id]

    # -- what ends jobs ----------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Deadlines and connections."""
        while True:
            await asyncio.sleep(TICK)
            now = _now()
            for live in [one for one in self.lives.values() if not one.ending]:
                job = live.job
                if job.deadline is not None and now > job.deadline:
                    told = "its time was over before it was drawn"
                    await self.finish(live, State.FAILED, failure=Failure("deadline", told, 504))
                elif (
                    job.hold == "connection"
                    and not live.followers
                    and now - live.followed_until > self.settings.hold_seconds
                ):
                    await self.cancel(live, "nobody follows it any more")

    async def _failed(self, id: str, failure: Failure) -> None:
        live = self.lives.get(id)
        if live is not None and not live.ending:
            told = replace(failure, message=self.clean(failure.message))
            await self.finish(live, State.FAILED, failure=told)

    # -- the painter's listener, called on the threads of seats ------------------------------------

    def stopped(self, job: str) -> bool:
        """Whether nothing more shall be drawn of a job."""
        live = self.lives.get(job)
        return self._halted or live is None or live.ending

    def stepped(self, job: str, at: At) -> None:
        """A step was taken."""
        if not self.settings.previews:  # none are wanted, or a judge may withhold what they show
            at = replace(at, preview=None)
        live, now = self.lives[job], time.monotonic()
        seconds, live.last_step = now - live.last_step, now
        self._loop.call_soon_threadsafe(self._on_step, job, at, seconds)

    def drawn(self, job: str, index: int, picture: Picture) -> None:
        """A picture is finished: it is kept, or was withheld, when this returns."""
        live = self.lives[job]
        if self.judge is not None:
            verdict = self.judge(picture.pixels)
            told = Judged(index, verdict.outcome, verdict.words)
            self._loop.call_soon_threadsafe(self._on_verdict, job, told)
            if not verdict.shown:
                return
            picture = labelled(picture, verdict)
        kept = self.gallery.save(live.job, index, picture)
        self.store.write(picture=kept)
        seed = picture.recipe.request.seed or 0
        body = Drawn(index, kept.id, seed, kept.width, kept.height)
        self._loop.call_soon_threadsafe(self._on_picture, job, body, picture.warnings)

    def failed(self, job: str, failure: Failure) -> None:
        """Nothing more will come of a job."""
        asyncio.run_coroutine_threadsafe(self._failed(job, failure), self._loop).result()

    def _on_step(self, id: str, at: At, seconds: float) -> None:
        live = self.lives.get(id)
        if live is None or live.ending:
            return
        self.metrics.step_seconds.observe(seconds)
        job, part = live.job, sorted(i for i in live.underway if i >= at.index)
        live.underway.update(dict.fromkeys(part[: at.pictures], at.step / at.steps))
        done = job.request.count - sum(1 - live.underway.get(index, 0.0) for index in job.left)
        eta = self._rest(live)
        progress = min(done / job.request.count, 1.0)
        live.job = job.changed(step=at.step, steps=at.steps, progress=progress, eta=eta)
        self.tell(
            live, Stepped(at.step, at.steps, at.index, at.pictures, progress, eta, at.preview)
        )

    def _on_picture(self, id: str, body: Drawn, warnings: Sequence[str]) -> None:
        live = self.lives.get(id)
        if live is None:
            return
        pictures = tuple(sorted((*live.job.pictures, (body.index, body.picture))))
        live.job = live.job.changed(pictures=pictures)
        if live.ending:  # it was cancelled while the picture was written
            return
        self._finished_one(live, warnings)
        self.tell(live, body)
        self.metrics.pictures.inc()

    def _on_verdict(self, id: str, verdict: Judged) -> None:
        live = self.lives.get(id)
        if live is None or live.ending:
            return
        live.job = live.job.judged(verdict)
        # the reason of the only picture is that of the job's failure
        telling = verdict.outcome == "withheld" and live.job.request.count > 1
        self._finished_one(live, (verdict.words,) if telling else ())
        self.tell(live, verdict)

    def _finished_one(self, live: Live, warnings: Sequence[str]) -> None:
        cleaned = dict.fromkeys(map(self.clean, warnings))
        fresh = [text for text in cleaned if text not in live.job.warnings]
        job = live.job
        progress = max(job.progress, 1 - len(job.left) / job.request.count)
        live.job = job.changed(progress=progress, warnings=(*job.warnings, *fresh))
        for text in fresh:
            self.tell(live, Warned(text))


def _now() -> float:
    return time.time()
