"""The one object that every API talks to: submit, follow, cancel, fetch.

All of it is called on the event loop; nothing here waits for the sampling thread or the disk but
what is `async`. An API (a door) turns its own fields into a `Request`, calls `submit`, and turns
events or results into its own answer; it checks nothing that `submit` checks.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from safelight.errors import RequestError, SafelightError
from safelight.server.desk import Desk
from safelight.server.following import Streams, drawn_or_gone
from safelight.server.gallery import Gallery
from safelight.server.incoming import let_in, portion_of, request_of
from safelight.server.jobs import Event, Hold, Job, Owner, State, new_id
from safelight.server.judge import Judge
from safelight.server.kept import Kept, Upload
from safelight.server.kinds import model_of
from safelight.server.library import Library
from safelight.server.live import Live
from safelight.server.logs import log
from safelight.server.memory import LEAST, is_below
from safelight.server.merging import Merged
from safelight.server.metrics import Metrics
from safelight.server.painter import FarPainter, LocalPainter, Painter, Portion
from safelight.server.pictures import Pictures
from safelight.server.refusals import NotNow, TooMany, Unknown
from safelight.server.registry import Registry, listed
from safelight.server.room import check_room
from safelight.server.safety import safety_judge
from safelight.server.seats import STATES, seats_of
from safelight.server.settings import ServerSettings
from safelight.server.snapshot import Asked, Snapshot
from safelight.server.starting import (
    check_computing,
    check_readable,
    check_writable,
    default_model,
)
from safelight.server.store import Store
from safelight.server.uploads import Uploads
from safelight.tasks.request import Request

__all__ = [
    "Asked",
    "Kept",
    "Service",
    "Snapshot",
    "Upload",
    "drawn_or_gone",
]

T = TypeVar("T")
ASIDE = 16  # pieces of other work that may wait
TAG_LIMIT = 200
PRIVATE = ".safelight"  # folder of the queue, uploads and thumbnails in the output folder


class Service(Pictures):
    """Queue, worker, models, pictures and history behind all APIs.

    Methods raise `refusals.Refused` (with a status) and the `InputError`s of a request that is
    wrong; the messages of both may be shown to the client.
    """

    settings: ServerSettings
    registry: Registry
    metrics: Metrics
    model: str | None  # the name of what is drawn with unless a request names another

    def __init__(
        self,
        settings: ServerSettings,
        *,
        painter: Painter | None = None,
        replicas: Sequence[FarPainter] = (),
        judge: Judge | None = None,
    ) -> None:
        """painter: what draws in place of this machine's models: a test's. replicas: what draws
        with models of their own, in place of this process. judge: looks at finished pictures before
        they are kept."""
        self.settings = settings
        self.registry = Registry([])
        self.metrics = Metrics()
        self.model = None
        self.loading: str | None = None
        self.started = time.time()
        self.library = Library(
            settings.model_bytes, previews=settings.previews > 0, loading=self._loads
        )
        self._own_painter = painter is None
        own = LocalPainter(self.library, batch=settings.batch, preview_every=settings.previews)
        self._seats = seats_of(
            tuple(replicas) or (painter or own,), far=bool(replicas), threads=settings.threads
        )
        self._counted: Sequence[FarPainter | Library] = tuple(replicas) or (self.library,)
        self._judge = judge
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._asides = 0
        self._listing = Merged(self._list)
        self._streams = Streams(settings.limits.streams)
        self._desk: Desk | None = None
        self._stopping = False
        self._ready = False
        self._first: asyncio.Task[None] | None = None

    # -- start and end -----------------------------------------------------------------------------

    async def start(self, *, load: bool = True) -> None:
        """Open the store, restore the queue, list the models, and begin to draw.

        load: whether the model is read now; `ready` tells when it is. Raises OutputError for a
        folder that cannot be written or is in use, FileError, CheckpointError or RequestError for
        a model that is not there or is none by its header, or such a safety checker.
        """
        out = self.settings.out
        private = out / PRIVATE
        if self._own_painter and self.settings.ray_address is None:
            await asyncio.to_thread(check_computing, self.settings)
        await asyncio.to_thread(check_writable, private)
        self._judge = self._judge or await asyncio.to_thread(safety_judge, self.settings)
        self._store = await asyncio.to_thread(Store, private)
        try:
            self._gallery = Gallery(
                out, private / "thumbnails", metadata=self.settings.save_metadata
            )
            self._uploads = Uploads(private / "uploads", self.settings.limits)
            await self.refresh()
            self.model = default_model(self.settings, self.registry, needed=self._own_painter)
            if load and self.model is not None and self._own_painter:
                await asyncio.to_thread(
                    check_readable, self.registry.find("model", self.model).path
                )
            self._desk = Desk(
                self.settings,
                store=self._store,
                gallery=self._gallery,
                seats=self._seats,
                judge=self._judge,
                metrics=self.metrics,
                resolve=self._portion,
                clean=lambda text: self.registry.without_paths(text),
            )
            await self._desk.begin()
        except BaseException:
            self._store.close()
            raise
        if load and self.model is not None:
            loads = self._prepare(Request(prompt="", model=self.model, seed=0))
            self._first = asyncio.create_task(self._first_load(loads))
        else:
            self._ready = True

    async def stop(self, grace: float | None = None) -> None:
        """Accept nothing more, let what runs finish within `grace` seconds or stop it at its next
        step, and close the store. What waits is kept for the next start."""
        self._stopping = True
        if self._desk is not None:
            for live in self._desk.waiting():  # nobody needs to wait for what is not begun any more
                live.close()
            await self._desk.end(self.settings.grace if grace is None else grace)
            for live in self._desk.lives.values():
                live.close()
            self._desk = None
            await asyncio.to_thread(self._store.close)
        if self._first is not None:
            await self._first
        for seat in self._seats:
            seat.thread.shutdown(wait=True)
        self._aside.shutdown(wait=False, cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Whether jobs are accepted and drawn at once."""
        return self._ready and not self._stopping

    @property
    def stopping(self) -> bool:
        """Whether no jobs are accepted any more."""
        return self._stopping

    def refuse_new(self) -> None:
        """Accept no jobs from now on: the server is about to stop."""
        self._stopping = True

    # -- requests ----------------------------------------------------------------------------------

    def asked(self, settings: Mapping[str, object], *, lenient: bool = False) -> Asked:
        """A request from the values of a JSON body; unknown fields become one warning.

        Names of models, LoRAs and the like are names that `registry` lists; pictures are ids of
        uploads or of the gallery: `submit` checks them. lenient: unknown fields are not warned of.
        Raises RequestError.
        """
        request, warnings = request_of(settings)
        return Asked(request, () if lenient else warnings)

    async def submit(
        self,
        request: Request,
        owner: Owner,
        *,
        hold: Hold = "server",
        seconds: float | None = None,
        door: str = "native",
        tag: str = "",
        warnings: Sequence[str] = (),
    ) -> Job:
        """Put a request into the queue; it is on the disk when this returns.

        Checks limits, names and pictures, and chooses the seed. seconds: the deadline from now.
        Raises InputError, NotAllowed, Unknown, TooMany (429, with retry_after) or NotNow (503).
        """
        desk = self._open()
        if is_below(LEAST):
            raise NotNow("the server is short of memory; try again later.", retry_after=30)
        check_room(self.settings.limits, owner.name, *desk.jobs())
        most = self.settings.limits.seconds
        if seconds is not None and not 0 < seconds <= most:
            raise RequestError(f"seconds must be above 0 and at most {most:g}; got {seconds:g}.")
        checked = await asyncio.to_thread(
            let_in,
            request,
            owner,
            settings=self.settings,
            registry=self.registry,
            model=self.model,
            pictures=self.picture_path,
        )
        desk = self._open()
        check_room(self.settings.limits, owner.name, *desk.jobs())
        now = time.time()
        desk.number += 1
        job = Job(
            id=new_id(),
            owner=owner.name,
            request=checked,
            number=desk.number - 1,
            door=door,
            tag=tag[:TAG_LIMIT],
            hold=hold,
            created=now,
            deadline=now + (most if seconds is None else seconds),
            warnings=tuple(warnings),
        )
        live = await desk.add(job)
        log.info(
            "job accepted",
            extra={"job": job.id, "owner": owner.name, "door": door, **self._said(checked)},
        )
        return live.job

    async def upload(self, data: bytes, owner: Owner) -> Upload:
        """Keep a picture (PNG, JPEG or WebP) that requests will name by its id.

        Raises TooLarge, FileError or NotNow.
        """
        self._open()
        return await asyncio.to_thread(self._uploads.add, data)

    def job(self, id: str, owner: Owner) -> Job:
        """The job as it is now. Raises Unknown."""
        live = self._live(id)
        found = live.job if live is not None else self._store.job(id)
        if found is None or not owner.sees(found.owner):
            raise Unknown("there is no job of that id.")
        return found

    def tagged(self, tag: str, owner: Owner) -> Job | None:
        """The newest job that this owner gave that name (A1111's force_task_id)."""
        if not tag:
            return None
        own = [one.job for one in self._lives() if one.job.tag == tag[:TAG_LIMIT]]
        own = [job for job in own if owner.sees(job.owner)]
        if own:
            return max(own, key=lambda job: job.number)
        return self._store.tagged(tag[:TAG_LIMIT], None if owner.sees_all else owner.name)

    def jobs(
        self, owner: Owner, *, mine: bool = False, states: Sequence[State] = (), limit: int = 100
    ) -> list[Job]:
        """Jobs that the owner may see, the newest first."""
        name = owner.name if mine or not owner.sees_all else None
        live = {
            one.job.id: one.job
            for one in self._lives()
            if (name is None or one.job.owner == name) and (not states or one.job.state in states)
        }
        kept = {job.id: job for job in self._store.jobs(name, states, limit)}
        # the value in memory is the newer one, and tells whether the job is still in these states
        known = {one.job.id for one in self._lives()}
        merged = live | {id: job for id, job in kept.items() if id not in known}
        return sorted(merged.values(), key=lambda job: -job.number)[:limit]

    async def cancel(self, id: str, owner: Owner, reason: str = "cancelled by its owner") -> Job:
        """Cancel a job: one that waits never starts, one that runs stops before the next step.

        A job that is over stays as it is. Raises Unknown.
        """
        job = self.job(id, owner)
        live = self._live(id)
        if live is None or self._desk is None:
            return job
        await self._desk.cancel(live, reason)
        return live.job

    async def cancel_running(self, owner: Owner) -> list[Job]:
        """Cancel what runs now of this owner alone (A1111's interrupt)."""
        desk = self._open(stopping=True)
        own = [one for one in desk.running() if one.job.owner == owner.name]
        for live in own:
            await desk.cancel(live, "interrupted by its owner")
        return [live.job for live in own]

    def events(self, id: str, owner: Owner, after: int = -1) -> AsyncIterator[Event]:
        """What happened to a job since event `after`, then what happens, until its last event.

        Raises Unknown at once.
        """
        job = self.job(id, owner)
        live = self._live(id)
        return live.follow(after) if live is not None else self._replayed(job, after)

    async def _replayed(self, job: Job, after: int) -> AsyncIterator[Event]:
        for event in await asyncio.to_thread(self._store.events, job.id, after):
            yield event

    async def finished(self, id: str, owner: Owner) -> Job:
        """The job when it is over, whatever became of it; as it is if the server stops before."""
        job, live = self.job(id, owner), self._live(id)
        if live is None:
            return job
        async for _ in live.follow():
            pass
        return live.job

    @asynccontextmanager
    async def following(self, id: str, owner: Owner) -> AsyncIterator[Job]:
        """While it is entered somebody follows the job: see `Hold`. Counts as a stream.

        Raises Unknown, or TooMany if the owner has too many streams.
        """
        job = self.job(id, owner)
        live = self._live(id)
        self._streams.begin(owner.name)
        self.metrics.streams.inc()
        if live is not None:
            live.followers += 1
        try:
            yield job
        finally:
            self.metrics.streams.dec()
            self._streams.end(owner.name)
            if live is not None:
                live.followers -= 1
                live.followed_until = time.time()

    def preview(self, id: str, owner: Owner) -> bytes | None:
        """The newest preview of a job that runs, a JPEG."""
        self.job(id, owner)
        live = self._live(id)
        return None if live is None else live.preview

    def snapshot(self, owner: Owner) -> Snapshot:
        """Queue and worker as they are now, of what the owner may see; positions are among all."""
        seen = [one.job for one in self._lives() if owner.sees(one.job.owner)]
        waiting = sorted(
            (job for job in seen if job.state is State.QUEUED), key=lambda job: job.position
        )
        running = [job for job in seen if job.state is State.RUNNING]
        etas = [one.job.eta for one in self._lives() if not one.job.state.over]
        known = [eta for eta in etas if eta is not None]
        return Snapshot(
            running=tuple(running),
            waiting=tuple(waiting),
            model=self.model,
            loading=self.loading,
            ready=self.ready,
            stopping=self._stopping,
            eta=max(known, default=0.0) if len(known) == len(etas) else None,
            painters=tuple(seat.to_json() for seat in self._seats),
        )

    # -- models and other work ---------------------------------------------------------------------

    async def use_model(self, name: str) -> None:
        """Load a model and draw with it from now on unless a request names another.

        The old one stays if the new one cannot be read: raises Unknown, FileError or
        CheckpointError then.
        """
        self._open()
        item = self.registry.find("model", name)
        loads = self._prepare(Request(prompt="", model=item.name, seed=0))
        for fault in await asyncio.gather(*loads, return_exceptions=True):
            if fault is not None:
                raise fault
        self.model = item.name

    async def refresh(self) -> None:
        """List the models anew, once for all who ask meanwhile; what was listed stays if that
        fails."""
        await self._listing.done()

    async def _list(self) -> None:
        given = self.settings.model
        path = None
        if given is not None and Path(given).expanduser().exists():
            path = Path(given).expanduser()
        self.registry = await asyncio.to_thread(listed, self.settings.folders, path)

    async def aside(self, work: Callable[[], T]) -> T:
        """Do other work of some seconds (a preprocessor, a CLIP) off the event loop, one at a time.

        Raises TooMany if too much of it waits, and what `work` raises.
        """
        self._open()
        if self._asides >= ASIDE:
            raise TooMany("too much other work waits; try again.", retry_after=2)
        self._asides += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._aside, work)
        finally:
            self._asides -= 1

    def measure(self) -> None:
        """Bring those metrics up to date that are read and not told."""
        self.metrics.cache_hits.set(sum(one.hits for one in self._counted))
        self.metrics.cache_misses.set(sum(one.misses for one in self._counted))
        self.metrics.model_bytes.set(sum(one.bytes for one in self._counted))
        states = [seat.state for seat in self._seats]
        for state in STATES:
            self.metrics.painters.labels(state).set(states.count(state))

    # -- within ------------------------------------------------------------------------------------

    def _open(self, *, stopping: bool = False) -> Desk:
        if self._desk is None or (self._stopping and not stopping):
            told = "the server is stopping" if self._stopping else "the server is starting"
            raise NotNow(f"{told}; try again in a moment.", retry_after=10)
        return self._desk

    def _lives(self) -> list[Live]:
        return [] if self._desk is None else list(self._desk.lives.values())

    def _live(self, id: str) -> Live | None:
        return None if self._desk is None else self._desk.lives.get(id)

    def _portion(self, job: Job, indices: tuple[int, ...]) -> Portion:
        owner = Owner(job.owner, sees_all=True)  # it was checked when the job came
        return portion_of(
            job,
            indices,
            settings=self.settings,
            registry=self.registry,
            pictures=lambda id: self.picture_path(id, owner),
        )

    async def _first_load(self, loads: "Sequence[asyncio.Future[None]]") -> None:
        """Wait for the model that is drawn with; a server that cannot load it serves all else, and
        where several load it the first can begin."""
        for load in asyncio.as_completed(loads):
            try:
                await load
            except SafelightError as error:
                log.error("the model cannot be loaded", extra={"reason": self.clean(str(error))})
            except Exception:
                log.exception("the model cannot be loaded")
            self._ready = True

    def _prepare(self, request: Request) -> "list[asyncio.Future[None]]":
        portion = self._portion(Job("", "", request), ())
        return self._open().prepare(model_of(request), portion.request)

    def clean(self, text: str) -> str:
        """A message without paths."""
        return self.registry.without_paths(text)

    def _loads(self, name: str | None) -> None:
        self.loading = name
        log.info("loading a model" if name else "loaded", extra={} if not name else {"file": name})

    def _said(self, request: Request) -> dict[str, object]:
        """What the log tells of a request: prompts only if the owner wants them there."""
        told: dict[str, object] = {
            "width": request.width,
            "height": request.height,
            "steps": request.steps,
            "count": request.count,
        }
        if self.settings.log_prompts:
            told |= {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
        return told
