"""The queue at work: takes jobs in, gives turns to the painter, tells what happens, keeps it all.

Everything here runs on the event loop. The painter runs on a thread of its own and reaches back
through `Desk`'s methods as a `Listener`; the disk has a thread, too, that keeps the order.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from safelight.errors import SafelightError
from safelight.server.fairness import Waiting, order, turn
from safelight.server.gallery import Gallery
from safelight.server.jobs import (
    Body,
    Cancelled,
    Done,
    Drawn,
    Failed,
    Failure,
    Job,
    Queued,
    Started,
    State,
    Stepped,
    Warned,
)
from safelight.server.kinds import kind_of, model_of
from safelight.server.live import AFTER_RESTART, Live
from safelight.server.logs import log
from safelight.server.metrics import Metrics
from safelight.server.pace import Pace
from safelight.server.painter import At, Painter, Portion, Turn, failure_of
from safelight.server.settings import ServerSettings
from safelight.server.store import Store
from safelight.tasks.picture import Picture

T = TypeVar("T")
TICK = 0.2  # seconds between looks at deadlines and connections
OWNERS = 1000  # whose last turn is remembered
REMEMBERED = 256  # jobs that are over and stay in memory
ATTEMPTS = 2  # a job that was running when the server died is begun again once

Resolve = Callable[[Job, tuple[int, ...]], Portion]  # raises what makes the job fail


class Desk:
    """Jobs that wait and run, and those that are over since a while."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        store: Store,
        gallery: Gallery,
        painter: Painter,
        sampling: Executor,
        metrics: Metrics,
        resolve: Resolve,
        clean: Callable[[str], str],
    ) -> None:
        self.settings, self.store, self.gallery = settings, store, gallery
        self.painter, self.metrics = painter, metrics
        self.resolve, self.clean = resolve, clean
        self.sampling = sampling
        self.disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self.lives: dict[str, Live] = {}
        self.served: dict[str, float] = {}
        self.stopping = False
        known = store.fact("pace")
        self.pace = Pace(known if isinstance(known, dict) else None)
        self.number = store.next_number()
        self._errands: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self._turn_began: float | None = None
        self._turn_seconds: float | None = None
        self._last_step = 0.0
        self._halted = False  # at shutdown: what is drawn stops at its next step and waits again

    # -- coming and going --------------------------------------------------------------------------

    async def begin(self) -> None:
        """Restore the queue and begin to draw."""
        for job in await self.on_disk(self.store.unfinished):
            await self._restore(job)
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._watch())]
        self.reorder()

    async def end(self, grace: float) -> None:
        """Finish what is drawn within `grace` seconds, or put it back; then let go of the store."""
        self.stopping = True
        self._wake.set()
        if self._tasks:
            worker, watcher = self._tasks
            watcher.cancel()
            done, _ = await asyncio.wait([worker], timeout=grace)
            if not done:
                self._halted = True
                await asyncio.wait([worker])
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
            await self.finish(live, State.DONE)
        elif live.job.state is State.RUNNING and live.job.attempts >= ATTEMPTS:
            told = "the server died twice while it was drawn, and it is not tried a third time"
            await self.finish(live, State.FAILED, failure=Failure("died", told, 500))
        elif live.job.state is State.RUNNING:
            log.warning("a job is begun again: the server died", extra={"job": job.id})
            live.job = live.job.changed(state=State.QUEUED)

    def _adopted(self, job: Job) -> Live:
        live = Live(job, kind_of(job.request), since=time.monotonic(), followed_until=_now())
        live.events = [event for event in self.store.events(job.id) if not event.last]
        live.next_number = (live.events[-1].number + 1 if live.events else 0) + AFTER_RESTART
        self.lives[job.id] = live
        return live

    async def add(self, job: Job) -> Live:
        """Take a job in; it is on the disk when this returns."""
        live = Live(job, kind_of(job.request), since=time.monotonic(), followed_until=job.created)
        self.lives[job.id] = live
        try:
            await self.on_disk(self.store.write, job)
        except BaseException:
            del self.lives[job.id]
            raise
        for text in job.warnings:
            self.tell(live, Warned(text))
        self.reorder()
        if not any(isinstance(e.body, Queued) for e in live.events):
            self.tell(live, Queued(live.job.position, live.job.eta))
        self._wake.set()
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

    def errand(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something between two turns, such as loading a model."""
        self._errands.append(work)
        self._wake.set()

    async def on_disk(self, work: Callable[..., T], *values: object) -> T:
        """Do something with the disk on its thread, in the order of asking."""
        return await self._loop.run_in_executor(self.disk, lambda: work(*values))

    # -- telling -----------------------------------------------------------------------------------

    def tell(self, live: Live, body: Body) -> None:
        """Tell whoever follows a job; what is to last goes to the disk as well."""
        event = live.tell(body, _now())
        if body.kept:
            kept = self._loop.run_in_executor(self.disk, lambda: self.store.write(events=[event]))
            kept.add_done_callback(_heard)

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
        self.tell(live, _last_word(job))
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

    async def cancel(self, live: Live, reason: str) -> None:
        """Cancel a job that is not over. What is drawn of it stops before its next step."""
        if not live.ending:
            await self.finish(live, State.CANCELLED, reason=reason)

    def reorder(self) -> None:
        """Work out anew who waits behind whom, and tell those whose place changed."""
        waiting = [self._entry(live) for live in self.lives.values() if not live.ending]
        places = order(waiting, served=self.served)
        queued = 0
        known: float | None = self._rest_of_turn()
        for id in places:
            live = self.lives[id]
            seconds = self._seconds_left(live)
            known = None if known is None or seconds is None else known + seconds
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
        job = live.job
        left = len(job.left) if not live.drawing else max(len(job.left) - self.settings.batch, 0)
        return self.pace.seconds(job.request, str(job.request.model), left) if left else 0.0

    def _rest_of_turn(self) -> float | None:
        if self._turn_began is None:
            return 0.0
        if self._turn_seconds is None:
            return None
        return max(self._turn_seconds - (time.monotonic() - self._turn_began), 0.0)

    def _entry(self, live: Live) -> Waiting:
        job = live.job
        return Waiting(
            job=job.id,
            owner=job.owner,
            number=job.number,
            since=live.since,
            model=model_of(job.request),
            kind=live.kind,
            pictures=len(job.left),
        )

    def _forget_old(self) -> None:
        over = [one for one in self.lives.values() if one.job.state.over and not one.followers]
        for live in over[: max(len(over) - REMEMBERED, 0)]:
            if not live.drawing:
                del self.lives[live.job.id]

    # -- turns -------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Turn after turn, until the server stops."""
        while not self.stopping:
            self._wake.clear()
            try:
                if self._errands:
                    await self._errands.pop(0)()
                elif not await self._take_turn():
                    await self._wake.wait()
            except Exception:  # one fault of ours must not end the drawing of all
                log.exception("a turn failed")
                await asyncio.sleep(TICK)

    async def _take_turn(self) -> bool:
        """Draw the next turn; False if nothing waits."""
        next_turn = await self._next()
        if next_turn is None:
            return False
        portions = [portion for portion in next_turn.portions if await self._started(portion)]
        if not portions:
            return True
        next_turn = replace(next_turn, portions=tuple(portions))
        lives = [self.lives[portion.job.id] for portion in portions]
        now = time.monotonic()
        self._turn_began = self._last_step = now
        first = next_turn.portions[0].job.request
        self._turn_seconds = self.pace.seconds(first, str(first.model), next_turn.pictures)
        self.metrics.batch_pictures.observe(next_turn.pictures)
        for live in lives:
            live.drawing = True
            self.served[live.job.owner] = now
        while len(self.served) > OWNERS:
            del self.served[min(self.served, key=lambda owner: self.served[owner])]
        self.reorder()
        try:
            await self._loop.run_in_executor(self.sampling, self.painter.draw, next_turn, self)
        except Exception as error:  # the painter tells its failures; this one it did not foresee
            log.exception("the painter failed")
            for live in lives:
                await self._failed(live.job.id, failure_of(error))
        self._turn_began = None
        await self._after(next_turn, lives, time.monotonic() - now)
        return True

    async def _next(self) -> Turn | None:
        """The next turn, or None; one without portions if a job failed instead of being drawn."""
        waiting = [self._entry(live) for live in self.lives.values() if not live.ending]
        shares = turn(
            waiting,
            served=self.served,
            now=time.monotonic(),
            batch=self.settings.batch,
            loaded=self.painter.loaded,
            patience=self.settings.patience,
        )
        if not shares:
            return None
        portions = []
        for share in shares:
            job = self.lives[share.job].job
            try:
                portions.append(self.resolve(job, job.left[: share.pictures]))
            except SafelightError as error:
                await self._failed(share.job, failure_of(error))
        key = model_of(self.lives[shares[0].job].job.request)
        return Turn(tuple(portions), key)

    async def _started(self, portion: Portion) -> bool:
        """Whether a job could be begun, or had been; it may be cancelled meanwhile."""
        live = self.lives[portion.job.id]
        if live.job.state is State.QUEUED:
            now = _now()
            live.job = live.job.changed(
                state=State.RUNNING, started=now, attempts=live.job.attempts + 1, position=0
            )
            try:  # before it is drawn: a server that dies now must know that it was begun
                await self.on_disk(self.store.write, live.job)
            except SafelightError as error:
                await self._failed(portion.job.id, failure_of(error))
            if not live.ending:
                self.metrics.wait_seconds.observe(max(now - live.job.created, 0))
                self.tell(live, Started(live.job.restarted))
        return not live.ending

    async def _after(self, done: Turn, lives: Sequence[Live], seconds: float) -> None:
        """What becomes of the jobs of a turn that was drawn."""
        whole = True
        for portion, live in zip(done.portions, lives, strict=True):
            live.drawing, live.since = False, time.monotonic()
            whole &= not set(portion.indices) & set(live.job.left)
            if live.ending:
                continue
            if not live.job.left:
                await self.finish(live, State.DONE)
            elif set(portion.indices) & set(live.job.left) and not self._halted:
                told = "the painter gave nothing for it"
                await self._failed(live.job.id, Failure("internal", told, 500))
        if whole:
            first = done.portions[0].job.request
            self.pace.measured(first, str(first.model), done.pictures, seconds)
        self.reorder()

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

    # -- the painter's listener, called on the sampling thread -------------------------------------

    def stopped(self, job: str) -> bool:
        """Whether nothing more shall be drawn of a job."""
        live = self.lives.get(job)
        return self._halted or live is None or live.ending

    def stepped(self, job: str, at: At) -> None:
        """A step was taken."""
        now = time.monotonic()
        seconds, self._last_step = now - self._last_step, now
        self._loop.call_soon_threadsafe(self._on_step, job, at, seconds)

    def drawn(self, job: str, index: int, picture: Picture) -> None:
        """A picture is finished: it is on the disk and in the store when this returns."""
        live = self.lives[job]
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
        done = len(live.job.pictures) + at.pictures * at.step / at.steps
        eta = self._rest_of_turn()
        live.job = live.job.changed(
            step=at.step, steps=at.steps, progress=min(done / live.job.request.count, 1.0), eta=eta
        )
        self.tell(
            live,
            Stepped(at.step, at.steps, at.index, at.pictures, live.job.progress, eta, at.preview),
        )

    def _on_picture(self, id: str, body: Drawn, warnings: Sequence[str]) -> None:
        live = self.lives.get(id)
        if live is None:
            return
        pictures = tuple(sorted((*live.job.pictures, (body.index, body.picture))))
        if live.ending:  # it was cancelled while the picture was written
            live.job = live.job.changed(pictures=pictures)
            return
        cleaned = dict.fromkeys(map(self.clean, warnings))
        fresh = [text for text in cleaned if text not in live.job.warnings]
        live.job = live.job.changed(
            pictures=pictures,
            progress=len(pictures) / live.job.request.count,
            warnings=(*live.job.warnings, *fresh),
        )
        for text in fresh:
            self.tell(live, Warned(text))
        self.tell(live, body)
        self.metrics.pictures.inc()


def _last_word(job: Job) -> Body:
    if job.state is State.DONE:
        took = (job.finished or 0) - (job.started or job.finished or 0)
        return Done(round(max(took, 0), 3), tuple(id for _, id in job.pictures))
    if job.failure is not None:
        return Failed(job.failure.kind, job.failure.message, job.failure.id)
    return Cancelled(job.reason)


def _heard(kept: "asyncio.Future[None]") -> None:
    """An event that could not be kept is said in the log; the job itself was kept before."""
    if not kept.cancelled() and (error := kept.exception()) is not None:
        log.error("an event was not kept", exc_info=error)


def _now() -> float:
    return time.time()
