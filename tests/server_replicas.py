"""Replicas that live on threads of this process: all of the wire and none of Ray."""

import contextlib
import pickle
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from safelight.server.painter import Painter
from safelight.server.ray_painters import Answers, Gone, RemotePainter
from safelight.server.ray_replica import Worker
from safelight.server.ray_wire import Message, SentTurn
from safelight.server.service import Service
from server_fake import FakePainter, settings

BEAT = 0.02  # seconds


class Dying(Worker):
    """A worker whose process can be killed: then it draws nothing more. Or stopped: then it is
    there, and says and hears nothing."""

    def __init__(self, painter: Painter) -> None:
        super().__init__(painter, None, threads=None, beat=BEAT)
        self.dead, self.stopped = threading.Event(), threading.Event()
        self.turns: list[SentTurn] = []
        self.stops: list[tuple[int, Sequence[str]]] = []

    def draw(self, sent: SentTurn) -> Iterator[Message]:
        self.turns.append(sent)
        return super().draw(sent)

    def stop(self, turn: int, jobs: Sequence[str]) -> None:
        self.stops.append((turn, jobs))
        super().stop(turn, jobs)

    def is_stopped(self, turn: int, job: str) -> bool:
        return self.dead.is_set() or super().is_stopped(turn, job)


class ThreadLine:
    """The way to a worker on a thread; all that is said is pickled, as between processes."""

    def __init__(self, painter: Painter) -> None:
        self.painter, self.worker = painter, Dying(painter)
        self.cuts = list[int | None]()  # with what process it was said to hang

    def hello(self) -> Answers:
        return self._asked(self.worker.hello)

    def draw(self, sent: SentTurn) -> Answers:
        return self._asked(lambda: self.worker.draw(pickle.loads(pickle.dumps(sent))))

    def prepare(self, model: str, request: str) -> Answers:
        return self._asked(lambda: self.worker.prepare(model, request))

    def stop(self, turn: int, jobs: list[str]) -> None:
        if not self.worker.dead.is_set():
            self.worker.stop(turn, jobs)

    def cut(self, process: int | None = None) -> None:
        """What SIGKILL does."""
        self.cuts.append(process)
        self.worker.dead.set()
        if isinstance(self.painter, FakePainter):
            self.painter.go.set()  # its thread cannot be killed, and must end

    def _asked(self, method: Callable[[], Iterator[Message]]) -> Answers:
        if self.worker.dead.is_set():
            raise Gone("it was killed before")
        return _Pumped(self.worker, method)


class _Pumped:
    """What a generator gives, one after another, from a thread."""

    def __init__(self, worker: Dying, method: Callable[[], Iterator[Message]]) -> None:
        self._worker = worker
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._pump, args=(method,), daemon=True).start()

    def _pump(self, method: Callable[[], Iterator[Message]]) -> None:
        for message in method():
            if not self._worker.dead.is_set() and not self._worker.stopped.is_set():
                self._messages.put(pickle.dumps(message))

    def next(self, seconds: float) -> Message | None:
        found: Message | None = None
        with contextlib.suppress(queue.Empty):
            found = pickle.loads(self._messages.get(timeout=seconds))
        if self._worker.dead.is_set():
            raise Gone("it was killed")
        return found


class House:
    """Replicas that draw flat pictures; `lines[k]` are those that replica k had, the last lives."""

    def __init__(
        self, count: int, make: Callable[[], FakePainter] = FakePainter, *, silence: float = 20.0
    ) -> None:
        self.lines: list[list[ThreadLine]] = [[] for _ in range(count)]
        self.refuses = False  # whether new ones die at once
        self._make = make
        self.painters = [
            RemotePainter(partial(self._begun, k), silence=silence) for k in range(count)
        ]

    def _begun(self, k: int) -> ThreadLine:
        line = ThreadLine(self._make())
        self.lines[k].append(line)
        if self.refuses:
            line.cut()
        return line

    def fake(self, k: int) -> FakePainter:
        """The painter within replica k that lives now."""
        painter = self.lines[k][-1].painter
        assert isinstance(painter, FakePainter)
        return painter

    def kill(self, k: int) -> None:
        self.lines[k][-1].cut()

    def stop(self, k: int) -> None:
        """What SIGSTOP does."""
        self.lines[k][-1].worker.stopped.set()

    def all(self) -> Iterator[ThreadLine]:
        """Every replica that there ever was."""
        for lines in self.lines:
            yield from lines


@contextlib.asynccontextmanager
async def housed(out: Path, house: House, **changes: object) -> AsyncIterator[Service]:
    """A started service that replicas draw for, with a model called "plain"."""
    service = Service(settings(out, **changes), replicas=house.painters)
    await service.start(load=False)
    service.model = "plain"
    try:
        yield service
    finally:
        for line in house.all():
            if isinstance(line.painter, FakePainter):
                line.painter.go.set()
        await service.stop()
