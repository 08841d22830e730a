"""What runs in a replica's process: a painter with models of its own, which does as it is sent.

Asked for a turn or a model it answers with a stream of messages; what is cancelled meanwhile comes
by a call of its own. Drawing has one thread, as on a server without replicas; while that computes,
the stream says again and again that the process is there.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Lock

from safelight.server.jobs import Failure, new_id
from safelight.server.lesson_frames import Lesson
from safelight.server.library import Library
from safelight.server.logs import log
from safelight.server.painter import At, LocalPainter, Painter, failure_of
from safelight.server.ray_wire import (
    Alive,
    Begun,
    Given,
    Message,
    Over,
    SentTurn,
    Step,
    Taught,
    key_of,
    key_text,
    received,
    request_from,
    sent_picture,
)
from safelight.server.starting import set_threads
from safelight.tasks.picture import Picture

BEAT = 2.0  # seconds without a message after which a replica says that it is there


@dataclass(frozen=True, slots=True)
class How:
    """How a replica draws: see `ServerSettings`."""

    threads: int
    batch: int
    model_bytes: int
    preview_every: int


class Worker:
    """A painter that is spoken to by messages. Its methods are called on several threads."""

    def __init__(
        self,
        painter: Painter,
        library: Library | None,
        *,
        threads: int | None,
        beat: float = BEAT,
    ) -> None:
        """library: whose figures are told, if there is one. threads: of torch. beat: seconds
        without a message after which `Alive` is one."""
        self._painter, self._library, self._beat = painter, library, beat
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="sampling", initializer=set_threads, initargs=(threads,)
        )
        self._stopped: set[tuple[int, str]] = set()
        self._lock = Lock()

    def hello(self) -> Iterator[Message]:
        """That it is there."""
        yield Begun(os.getpid())
        yield self._over()

    def draw(self, sent: SentTurn) -> Iterator[Message]:
        """Draw a turn; all that happens, as it happens."""
        yield Begun(os.getpid())
        posted = _Posted(self, sent.number, self._beat)
        with TemporaryDirectory(prefix="safelight-") as folder:
            turn = received(sent, Path(folder))
            drawn = self._thread.submit(self._painter.draw, turn, posted)
            drawn.add_done_callback(posted.close)
            yield from posted
        if (error := drawn.exception()) is not None:
            yield from (Given(one.job, _said(error)) for one in sent.portions)
        with self._lock:
            self._stopped = {one for one in self._stopped if one[0] > sent.number}
        yield self._over()

    def prepare(self, model: str, request: str) -> Iterator[Message]:
        """Read the model of a resolved request."""
        yield Begun(os.getpid())
        read = self._thread.submit(self._painter.prepare, key_of(model), request_from(request))
        while wait([read], self._beat).not_done:
            yield Alive()
        error = read.exception()
        yield replace(self._over(), fault=None if error is None else _said(error))

    def stop(self, turn: int, jobs: Sequence[str]) -> None:
        """Draw nothing more of jobs in a turn, which may not have begun yet."""
        with self._lock:
            self._stopped |= {(turn, job) for job in jobs}

    def is_stopped(self, turn: int, job: str) -> bool:
        """Whether nothing more shall be drawn of a job."""
        return (turn, job) in self._stopped

    def _over(self) -> Over:
        models = tuple(key_text(key) for key in self._painter.loaded)
        if self._library is None:
            return Over(models)
        library = self._library
        return Over(models, library.hits, library.misses, library.bytes)


class Replica(Worker):
    """A worker that draws on its machine."""

    def __init__(self, how: How) -> None:
        library = Library(how.model_bytes, previews=how.preview_every > 0)
        painter = LocalPainter(library, batch=how.batch, preview_every=how.preview_every)
        super().__init__(painter, library, threads=how.threads)


class _Posted:
    """The painter's listener: what it hears becomes messages, in order."""

    def __init__(self, worker: Worker, turn: int, beat: float) -> None:
        self._worker, self._turn, self._beat = worker, turn, beat
        self._messages: SimpleQueue[Message | None] = SimpleQueue()

    def __iter__(self) -> Iterator[Message]:
        while True:
            try:
                message = self._messages.get(timeout=self._beat)
            except Empty:
                message = Alive()
            if message is None:
                return
            yield message

    def close(self, done: "Future[None]") -> None:
        self._messages.put(None)

    def stopped(self, job: str) -> bool:
        return self._worker.is_stopped(self._turn, job)

    def stepped(self, job: str, at: At) -> None:
        self._messages.put(Step(job, at))

    def drawn(self, job: str, index: int, picture: Picture) -> None:
        self._messages.put(sent_picture(job, index, picture))

    def taught(self, job: str, picture: Picture, lesson: Lesson) -> None:
        told = json.dumps(lesson.told)
        self._messages.put(Taught(sent_picture(job, 0, picture), told, dict(lesson.pictures)))

    def failed(self, job: str, failure: Failure) -> None:
        self._messages.put(Given(job, failure))


def _said(error: BaseException) -> Failure:
    assert isinstance(error, Exception)
    failure = failure_of(error)
    if failure.status >= 500:
        failure = replace(failure, id=new_id())
        log.error("a replica failed", exc_info=error, extra={"id": failure.id})
    return failure
