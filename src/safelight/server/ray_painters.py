"""Painters whose drawing is done by replicas, each in a process of its own, on Ray.

A replica is a Ray actor with a model library of its own. It is an actor of this server's and no
deployment of Ray Serve: a deployment's handle chooses the replica by itself, so that nothing could
be told to the one that draws a job (to leave it out of its batch, say); its actors are detached,
and would keep their memory on a joined cluster when the server is killed; and the requests that its
proxy would take in are here already, in a queue that outlives the process.

Every painter has one replica and one turn at a time; the desk gives turns to whichever is free.
A replica that gives no sign of life is killed: the desk hears of it as of one that died.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event
from typing import Any, Literal, Protocol

from safelight.bulk.ray_cluster import ray_cluster
from safelight.errors import FileError, RequestError, SafelightError
from safelight.server.jobs import Failure
from safelight.server.lesson_frames import Lesson
from safelight.server.logs import log
from safelight.server.painter import Listener, PainterDied, Turn, failure_of
from safelight.server.ray_replica import How, Replica
from safelight.server.ray_wire import (
    Alive,
    Begun,
    Given,
    Message,
    Over,
    Pixels,
    SentTurn,
    Step,
    Taught,
    key_of,
    key_text,
    picture_from,
    request_text,
    sent_portion,
)
from safelight.server.settings import SILENCE, ServerSettings
from safelight.tasks.request import Request

POLL = 0.05  # seconds between looks whether somebody has cancelled
USUAL = 2  # replicas


class Gone(Exception):
    """The replica is dead, or cannot be reached any more."""


class Hung(Gone):
    """The replica is not dead, and gives no sign of life."""


class Answers(Protocol):
    """A replica's answer, which comes bit by bit and ends with `Over`."""

    def next(self, seconds: float) -> Message | None:
        """The next message; None if there was none for so long. Raises Gone."""
        ...


class Line(Protocol):
    """The way to one replica."""

    def hello(self) -> Answers: ...

    def draw(self, sent: SentTurn) -> Answers: ...

    def prepare(self, model: str, request: str) -> Answers: ...

    def stop(self, turn: int, jobs: list[str]) -> None: ...

    def cut(self, process: int | None) -> None:
        """End the replica, if it is not dead yet. process: its id, if it is known that it hangs."""
        ...


class _Waiting:
    """How long a replica has said nothing, and whether that is too long."""

    def __init__(self, seconds: float, *, known: bool) -> None:
        """seconds: that it may say nothing. known: whether it ever said anything: one that was
        just begun may wait for its place on the cluster, and Ray tells if it dies there."""
        self._seconds, self._known = seconds, known
        self._heard = time.monotonic()

    def heard(self, message: Message | None) -> None:
        """It said something, or nothing. Raises Hung if it has said nothing for too long."""
        if message is not None:
            self._known, self._heard = True, time.monotonic()
        elif self._known and time.monotonic() - self._heard > self._seconds:
            raise Hung(f"it gave no sign of life for {self._seconds:g} seconds")


class RemotePainter:
    """Has a replica draw; begins a new one in the place of one that died or hangs."""

    def __init__(self, begin: Callable[[], Line], *, silence: float = SILENCE) -> None:
        """begin: starts a replica; it need not be there yet when this returns. silence: seconds
        that one may give no sign of life, or go on with a turn that nobody wants any more."""
        self._begin, self._silence = begin, silence
        self._line: Line | None = None
        self._process: int | None = None  # of the replica, once it has said anything
        self._turns = 0
        self._closed = Event()
        self.loaded: frozenset[Hashable] = frozenset()
        self.hits, self.misses, self.bytes = 0, 0, 0

    def draw(self, turn: Turn, listener: Listener) -> None:
        """Have a turn drawn. Raises PainterDied if the replica does."""
        self._turns += 1
        portions = []
        for portion in turn.portions:
            try:
                portions.append(sent_portion(portion))
            except FileError as error:
                listener.failed(portion.job.id, failure_of(error))
        if not portions:
            return
        sent = SentTurn(self._turns, key_text(turn.model), tuple(portions))
        begun = False
        try:
            line = self._there()
            answers, told = line.draw(sent), set[str]()
            jobs, unwanted_since = {one.job for one in portions}, time.monotonic()
            for message in self._until_over(answers):
                begun = begun or message is not None
                if message is not None:
                    _heard(message, listener)
                unwanted = {job for job in jobs if listener.stopped(job)} - told
                if unwanted:
                    line.stop(sent.number, sorted(unwanted))
                    told |= unwanted
                    unwanted_since = time.monotonic()
                if told == jobs and time.monotonic() - unwanted_since > self._silence:
                    raise Hung("it goes on with what nobody wants any more")
        except Gone as error:
            self._lost(error)
            raise PainterDied(str(error), begun=begun) from None

    def prepare(self, model: Hashable, request: Request) -> None:
        """Have a model read.

        Raises FileError or RequestError, or PainterDied if the replica does, or the server ends.
        """
        over = self._over(lambda line: line.prepare(key_text(model), request_text(request)))
        if over.fault is not None:
            raise _error_of(over.fault)

    def revive(self) -> None:
        """Have a new replica in the place of one that died. Raises PainterDied if it dies too."""
        self._over(lambda line: line.hello())

    def _over(self, ask: Callable[[Line], Answers]) -> Over:
        try:
            messages = self._until_over(ask(self._there()))
            while True:
                try:
                    next(messages)
                except StopIteration as end:
                    over: Over = end.value
                    return over
                if self._closed.is_set():
                    raise Gone("the server ends")
        except Gone as error:
            self._lost(error)
            raise PainterDied(str(error), begun=False) from None

    def _until_over(self, answers: Answers) -> Generator[Message | None, None, Over]:
        """What a replica says; None where it says nothing for a moment. Returns its last word.

        Raises Gone, and Hung if it says nothing for too long.
        """
        waiting = _Waiting(self._silence, known=self._process is not None)
        while not isinstance(message := answers.next(POLL), Over):
            waiting.heard(message)
            if isinstance(message, Begun):
                self._process = message.process
            yield message
        self.loaded = frozenset(key_of(text) for text in message.models)
        self.hits, self.misses, self.bytes = message.hits, message.misses, message.size
        return message

    def close(self) -> None:
        """Wait for nothing any more."""
        self._closed.set()

    def _there(self) -> Line:
        if self._line is None:
            self._line = self._begin()
        return self._line

    def _lost(self, why: Gone) -> None:
        line, self._line = self._line, None
        process, self._process = self._process, None
        self.loaded, self.bytes = frozenset(), 0
        if line is not None:  # it may live, and be out of reach: nothing shall be drawn twice
            line.cut(process if isinstance(why, Hung) else None)


def _heard(message: Message, listener: Listener) -> None:
    match message:
        case Step(job, at):
            if not listener.stopped(job):
                listener.stepped(job, at)
        case Given(job, failure):
            listener.failed(job, failure)
        case Pixels(job, index):
            _kept(job, listener, partial(listener.drawn, job, index, picture_from(message)))
        case Taught(picture, told, shown):
            lesson = Lesson(json.loads(told), shown)
            taught = partial(listener.taught, picture.job, picture_from(picture), lesson)
            _kept(picture.job, listener, taught)
        case Begun() | Alive() | Over():
            pass


def _kept(job: str, listener: Listener, keep: Callable[[], None]) -> None:
    """Hand a result over; what cannot be kept is its job's failure."""
    if listener.stopped(job):
        return
    try:
        keep()
    except Exception as error:
        failure = failure_of(error)
        log.error("a picture was not kept", exc_info=error, extra={"jobs": [job]})
        listener.failed(job, failure)


def _error_of(fault: Failure) -> SafelightError:
    """What the painter of a replica raised, as far as it matters here."""
    if fault.kind == "file":
        return FileError(fault.message)
    if fault.kind == "request":
        return RequestError(fault.message)
    return SafelightError(fault.message)


# -- on Ray ----------------------------------------------------------------------------------------


class _RayAnswers:
    """The stream of an actor's generator."""

    def __init__(self, ray: Any, stream: Any) -> None:
        self._ray, self._stream = ray, stream

    def next(self, seconds: float) -> Message | None:
        try:
            ready, _ = self._ray.wait([self._stream], timeout=seconds)
            if not ready:
                return None
            message: Message = self._ray.get(next(self._stream))
            return message
        except self._ray.exceptions.RayTaskError as error:  # the replica lives, and made a mistake
            raise RuntimeError("a replica failed") from error
        except (self._ray.exceptions.RayError, StopIteration) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Gone(told) from None


class _RayLine:
    """One actor."""

    def __init__(self, ray: Any, actor: Any, *, here: bool) -> None:
        """here: whether it is on this machine."""
        self._ray, self._actor, self._here = ray, actor, here

    def hello(self) -> Answers:
        return self._asked("hello")

    def draw(self, sent: SentTurn) -> Answers:
        return self._asked("draw", sent)

    def prepare(self, model: str, request: str) -> Answers:
        return self._asked("prepare", model, request)

    def stop(self, turn: int, jobs: list[str]) -> None:
        with suppress(self._ray.exceptions.RayError):  # that it is dead is heard with its answers
            self._actor.stop.remote(turn, jobs)

    def cut(self, process: int | None) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)
        if process is not None and self._here:  # one that hangs may not hear that it shall end
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)

    def _asked(self, method: Literal["hello", "draw", "prepare"], *values: object) -> Answers:
        try:
            ask = getattr(self._actor, method).options(num_returns="streaming")
            return _RayAnswers(self._ray, ask.remote(*values))
        except self._ray.exceptions.RayError as error:
            raise Gone(str(error)) from None


@contextmanager
def ray_painters(settings: ServerSettings) -> Iterator[list[RemotePainter]]:
    """A painter for each replica that the settings ask for; Ray ends with the context.

    Processors and GPUs are shared out evenly; --threads says how many processors each has.
    Raises RequestError if Ray is not installed, or not there.
    """
    count = settings.replicas or USUAL
    threads = settings.threads or _share(count)
    how = How(threads, settings.batch, settings.model_bytes, settings.previews)
    with ray_cluster(settings.ray_address, cpus=count * threads) as ray:
        needs = {"num_cpus": threads, "num_gpus": _gpus(ray, settings.device, count)}
        # the third call is for what is cancelled while the first draws
        kind = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=3, **needs)(Replica)
        here = settings.ray_address is None

        def begin() -> Line:
            return _RayLine(ray, kind.remote(how), here=here)

        painters = [RemotePainter(begin, silence=settings.silence) for _ in range(count)]
        log.info("replicas", extra={"count": count, "threads": threads})
        yield painters


def _share(count: int) -> int:
    """Threads of each of so many replicas on this machine."""
    import torch

    return max(torch.get_num_threads() // count, 1)


def _gpus(ray: Any, device: str, count: int) -> float:
    """GPUs, or what part of one, each of so many replicas has. One that is named by its number is
    everybody's."""
    there = int(ray.cluster_resources().get("GPU", 0))
    if not there or device not in ("auto", "cuda"):
        return 0
    beside = -(-count // there)  # replicas on one GPU
    return 1 if beside == 1 else int(10_000 / beside) / 10_000
