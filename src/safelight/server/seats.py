"""The side of a `Desk` that gives turns: a painter has a seat, and takes a turn when it is free.

All of it runs on the event loop but the painters themselves, each on the thread of its seat.
"""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from safelight.errors import SafelightError
from safelight.server.fairness import Share, turn
from safelight.server.jobs import Body, Failure, Job, Started, State
from safelight.server.kinds import model_of
from safelight.server.live import Live
from safelight.server.logs import log
from safelight.server.metrics import Metrics
from safelight.server.pace import Pace
from safelight.server.painter import Listener, Painter, PainterDied, Portion, Turn, failure_of
from safelight.server.refusals import NotNow
from safelight.server.settings import ServerSettings
from safelight.server.starting import set_threads
from safelight.server.store import Store
from safelight.tasks.request import Request

T = TypeVar("T")
PAUSE = 0.2  # seconds after a fault of ours
OWNERS = 1000  # whose last turn is remembered
ATTEMPTS = 2  # what was drawn when its painter or the server died is begun again once
PATIENCE = 30.0  # seconds at most between two tries to bring a painter back
STATES = ("free", "drawing", "loading", "dead")
DIED = Failure("died", "what drew it died twice, and it is not tried a third time", 500)

Resolve = Callable[[Job, tuple[int, ...]], Portion]  # raises what makes the job fail


@dataclass(frozen=True, slots=True)
class Errand:
    """A model that a painter is to load before its next turn. done: for whoever waits for that."""

    model: Hashable
    request: Request
    done: "asyncio.Future[None] | None" = None

    def told(self, fault: Exception | None) -> None:
        """It is loaded, or cannot be."""
        if self.done is None:
            if fault is not None:
                log.warning("a new replica has no model", extra={"fault": type(fault).__name__})
        elif not self.done.done():
            if fault is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(fault)


@dataclass(eq=False)
class Seat:
    """A painter, the thread that it is called on, and what it does now.

    name: "here", or "replica 1", ... errands: what comes before its next turn. taken: the indices
    of each job that it draws. began, seconds: when its turn began, and how long that is likely to
    take. there: whether it lives. deaths: how often it died.
    """

    name: str
    painter: Painter
    thread: Executor
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    errands: list[Errand] = field(default_factory=list)
    taken: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    began: float = 0.0
    seconds: float | None = None
    there: bool = True
    deaths: int = 0

    @property
    def state(self) -> str:
        """One of `STATES`."""
        if not self.there:
            return "dead"
        return "drawing" if self.taken else "loading" if self.errands else "free"

    @property
    def rest(self) -> float | None:
        """Seconds that its turn is likely to go on; None if nobody knows."""
        if not self.taken:
            return 0.0
        passed = time.monotonic() - self.began
        return None if self.seconds is None else max(self.seconds - passed, 0.0)

    def to_json(self) -> dict[str, object]:
        """What clients are told: names of models, and of jobs only how many it draws."""
        loaded = {key[0] for key in self.painter.loaded if isinstance(key, tuple) and key}
        return {
            "name": self.name,
            "state": self.state,
            "jobs": len(self.taken),
            "models": sorted(str(name) for name in loaded),
            "deaths": self.deaths,
        }


def seats_of(painters: Sequence[Painter], *, far: bool, threads: int | None) -> list[Seat]:
    """A seat for each painter, on a thread whose torch computes with so many threads.

    far: whether they are replicas.
    """
    seats = []
    for number, painter in enumerate(painters, start=1):
        thread = ThreadPoolExecutor(
            1, thread_name_prefix="sampling", initializer=set_threads, initargs=(threads,)
        )
        name = f"replica {number}" if far else "here"
        seats.append(Seat(name, painter, thread))
    return seats


class Seats(Listener):
    """What a `Desk` does with its painters; see there."""

    settings: ServerSettings
    store: Store
    metrics: Metrics
    pace: Pace
    resolve: Resolve
    seats: list[Seat]
    lives: dict[str, Live]
    served: dict[str, float]
    stopping: bool
    _loop: asyncio.AbstractEventLoop
    _halted: bool
    _ended: asyncio.Event

    def wake(self) -> None:
        """Have every painter look for something to do."""
        for seat in self.seats:
            seat.wake.set()

    def prepare(self, model: Hashable, request: Request) -> "list[asyncio.Future[None]]":
        """Have every painter that lives load a model before its next turn; each has its answer.

        Raises NotNow if none lives.
        """
        living = [seat for seat in self.seats if seat.there]
        if not living:
            raise NotNow("every replica is dead; they are begun again.", retry_after=10)
        loads = []
        for seat in living:
            loads.append(self._loop.create_future())
            seat.errands.append(Errand(model, request, loads[-1]))
            seat.wake.set()
        return loads

    def _rest(self, live: Live | None = None) -> float | None:
        """Seconds until a painter is free, or until all of a job that is drawn now is."""
        seats = [seat for seat in self.seats if live is None or live.job.id in seat.taken]
        rests = [seat.rest for seat in seats if seat.there]
        if not rests or None in rests:
            return 0.0 if 0.0 in rests and live is None else None
        known = [rest for rest in rests if rest is not None]
        return min(known) if live is None else max(known)

    # -- turns -------------------------------------------------------------------------------------

    async def _work(self, seat: Seat) -> None:
        """Turn after turn, until the server stops."""
        while not self.stopping:
            seat.wake.clear()
            try:
                if not seat.there:
                    await self._revive(seat)
                elif seat.errands:
                    await self._run(seat, seat.errands[0])
                elif not await self._take_turn(seat):
                    await seat.wake.wait()
            except Exception:  # one fault of ours must not end the drawing of all
                log.exception("a turn failed")
                await asyncio.sleep(PAUSE)
        for errand in seat.errands:
            errand.told(NotNow("the server is stopping.", retry_after=10))

    async def _run(self, seat: Seat, errand: Errand) -> None:
        """Have a model loaded, and tell whoever waits for that."""
        fault: Exception | None = None
        try:
            await self._loop.run_in_executor(
                seat.thread, seat.painter.prepare, errand.model, errand.request
            )
        except Exception as error:
            fault = error
        seat.errands.remove(errand)
        if not isinstance(fault, PainterDied):
            errand.told(fault)
            return
        errand.told(SafelightError("the replica died while it loaded the model."))
        self._dead(seat)

    async def _take_turn(self, seat: Seat) -> bool:
        """Draw the next turn; False if there is none for this seat."""
        shares = self._shares(seat)
        if not shares:
            return False
        taken = {one.job: self.lives[one.job].free[: one.pictures] for one in shares}
        now = time.monotonic()
        seat.taken, seat.began, seat.seconds = taken, now, None
        for job, indices in taken.items():
            live = self.lives[job]
            live.underway.update(dict.fromkeys(indices, 0.0))
            self.served[live.job.owner] = now
        while len(self.served) > OWNERS:
            del self.served[min(self.served, key=lambda owner: self.served[owner])]
        self.wake()  # another may do what this one left
        portions: list[Portion] = []
        try:
            portions = await self._portions(taken)
            if portions:
                await self._drawn(seat, portions)
        finally:
            self._let_go(seat)
        if portions and not seat.there:  # what the dead one had is likely to be wanted again
            seat.errands.append(Errand(model_of(portions[0].job.request), portions[0].request))
        return True

    def _shares(self, seat: Seat) -> tuple[Share, ...]:
        """What a free painter draws next.

        Several that are free share it out. What another free one has the model of is left to that.
        """
        waiting = [live.entry() for live in self.lives.values() if not live.ending]
        waiting = [one for one in waiting if one.pictures]
        others = [one for one in self.seats if one is not seat and one.state == "free"]
        each = -(-sum(one.pictures for one in waiting) // (len(others) + 1))
        shares = turn(
            waiting,
            served=self.served,
            now=time.monotonic(),
            batch=min(self.settings.batch, max(each, 1)),
            loaded=seat.painter.loaded,
            patience=self.settings.patience,
        )
        if not shares:
            return ()
        model = model_of(self.lives[shares[0].job].job.request)
        if model in seat.painter.loaded:
            return shares
        return () if any(model in one.painter.loaded for one in others) else shares

    async def _portions(self, taken: Mapping[str, tuple[int, ...]]) -> list[Portion]:
        """What is drawn of jobs, once they are begun; a job that cannot be begun fails."""
        found = []
        for job, indices in taken.items():
            try:
                portion = self.resolve(self.lives[job].job, indices)
            except SafelightError as error:
                await self._failed(job, failure_of(error))
                continue
            if await self._started(portion):
                found.append(portion)
        return found

    async def _started(self, portion: Portion) -> bool:
        """Whether a job could be begun, or had been; it may be cancelled meanwhile."""
        live = self.lives[portion.job.id]
        if live.job.state is State.QUEUED:
            now = time.time()
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

    async def _drawn(self, seat: Seat, portions: Sequence[Portion]) -> None:
        """Have a turn drawn, and see what became of its jobs."""
        lives = [self.lives[portion.job.id] for portion in portions]
        first = portions[0].job.request
        next_turn = Turn(tuple(portions), model_of(first))
        now = time.monotonic()
        seat.began = now
        seat.seconds = self.pace.seconds(first, str(first.model), next_turn.pictures)
        self.metrics.batch_pictures.observe(next_turn.pictures)
        for live in lives:
            live.last_step = now
        self.reorder()
        died: PainterDied | None = None
        try:
            await self._loop.run_in_executor(seat.thread, seat.painter.draw, next_turn, self)
        except PainterDied as error:
            died = error
            self._dead(seat)
        except Exception as error:  # the painter tells its failures; this one it did not foresee
            log.exception("the painter failed")
            for live in lives:
                await self._failed(live.job.id, failure_of(error))
        self._let_go(seat)
        await self._after(next_turn, lives, time.monotonic() - now, died)

    def _let_go(self, seat: Seat) -> None:
        """A seat's turn is over: what it did not finish of it may be drawn again."""
        for job, indices in seat.taken.items():
            live = self.lives.get(job)
            if live is not None:
                live.since = time.monotonic()
                for index in indices:
                    live.underway.pop(index, None)
        seat.taken = {}

    async def _after(
        self, done: Turn, lives: Sequence[Live], seconds: float, died: PainterDied | None
    ) -> None:
        """What becomes of the jobs of a turn that was drawn, or whose painter died."""
        whole = not done.portions[0].teaches  # a lesson takes longer than its picture did
        for portion, live in zip(done.portions, lives, strict=True):
            missing = set(portion.indices) & set(live.job.left)
            whole &= not missing
            if live.ending:
                continue
            if not live.job.left:
                await self._complete(live)
            elif missing and died is not None:
                if died.begun:
                    await self._again(live)
            elif missing and not self._halted:
                told = "the painter gave nothing for it"
                await self._failed(live.job.id, Failure("internal", told, 500))
        if whole:
            first = done.portions[0].job.request
            self.pace.measured(first, str(first.model), done.pictures, seconds)
        self.reorder()

    async def _again(self, live: Live) -> None:
        """A job whose painter died waits for another, once, and shares its turns with nobody: if it
        is to blame, it harms no other any more."""
        if live.job.attempts >= ATTEMPTS:
            await self._failed(live.job.id, DIED)
            return
        log.warning("a job is begun again: its painter died", extra={"job": live.job.id})
        live.kind = None
        if live.underway:  # another draws a part of it, and goes on
            live.job = live.job.changed(attempts=live.job.attempts + 1)
        else:
            progress = 1 - len(live.job.left) / live.job.request.count
            live.job = live.job.changed(state=State.QUEUED, step=0, steps=0, progress=progress)
        try:
            await self.on_disk(self.store.write, live.job)
        except SafelightError as error:
            await self._failed(live.job.id, failure_of(error))

    def _dead(self, seat: Seat) -> None:
        seat.there, seat.deaths = False, seat.deaths + 1
        self.metrics.deaths.inc()
        log.error("a painter died, and is begun again", extra={"replica": seat.name})

    async def _revive(self, seat: Seat) -> None:
        """Bring a painter back that died, however long that takes."""
        pause = PAUSE
        self.reorder()
        self.wake()  # the others draw what it leaves
        while not self.stopping:
            try:
                await self._loop.run_in_executor(seat.thread, seat.painter.revive)
                break
            except PainterDied as error:
                log.warning("it is not there yet", extra={"replica": seat.name, "why": str(error)})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), pause)
            pause = min(2 * pause, PATIENCE)
        seat.there = True
        log.info("a painter is there again", extra={"replica": seat.name})
        self.reorder()
        self.wake()

    # -- the rest of the desk ----------------------------------------------------------------------

    @abstractmethod
    def reorder(self) -> None:
        """Work out anew who waits behind whom, and tell those whose place changed."""

    @abstractmethod
    def tell(self, live: Live, body: Body) -> None:
        """Tell whoever follows a job; what is to last goes to the disk as well."""

    @abstractmethod
    async def on_disk(self, work: Callable[..., T], *values: object) -> T:
        """Do something with the disk on its thread, in the order of asking."""

    @abstractmethod
    async def _complete(self, live: Live) -> None:
        """Nothing of a job is left to draw: it ends."""

    @abstractmethod
    async def _failed(self, id: str, failure: Failure) -> None:
        """A job cannot be drawn: it ends, and says why."""
