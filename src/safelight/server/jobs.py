"""What the server keeps of a request: the job, its states, its owner and its events.

All are frozen values: a job that goes on is another value. Times are Unix seconds.
"""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import ClassVar, Literal

from safelight.tasks.request import Request

Hold = Literal["server", "connection"]
LESSON = "lesson"  # the door of jobs that draw a picture again, step by step: its id is the tag


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self not in (State.QUEUED, State.RUNNING)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who asks: the holder of a key, or an address.

    name: never the key itself. sees_all: whether jobs and pictures of others are shown, too: so
        for everybody on a server without keys.
    """

    name: str
    sees_all: bool = True

    def sees(self, other: str) -> bool:
        """Whether what belongs to the owner of this name is shown."""
        return self.sees_all or self.name == other


LOCAL = Owner("local")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed. kind: "request", "file", "memory", "numbers", "disk", "deadline",
    "withheld", "internal". status: of HTTP, for APIs that answer with the result. id: of an entry
    in the log.
    """

    kind: str
    message: str
    status: int = 500
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One request in the server's hands.

    id: 16 hex digits. number: the order of submission. seed and exactness of `request` are chosen.
    tag: the client's own name for it, "" if it gave none. door: the API that it came through.
    hold: "connection" if it is cancelled when nobody follows it any more.
    attempts: how often it was begun; 2 if the server died meanwhile, or the replica that drew it:
        it is begun again once.
    pictures: ids of finished ones in order of index (0 to count - 1), as (index, id).
    verdicts: of a judge on its pictures, if there is one; those it withheld are not in `pictures`.
    step, steps: of the batch that is being drawn. progress: of the whole job, 0 to 1.
    position: jobs before it, itself included; 0 once it runs. eta: seconds until it is over, None
        if nothing was measured yet.
    """

    id: str
    owner: str
    request: Request
    number: int = 0
    state: State = State.QUEUED
    door: str = "native"
    tag: str = ""
    hold: Hold = "server"
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    deadline: float | None = None
    attempts: int = 0
    pictures: tuple[tuple[int, str], ...] = ()
    verdicts: "tuple[Judged, ...]" = ()
    warnings: tuple[str, ...] = ()
    failure: Failure | None = None
    reason: str = ""  # why it was cancelled
    step: int = 0
    steps: int = 0
    progress: float = 0.0
    position: int = 0
    eta: float | None = None

    @property
    def restarted(self) -> bool:
        """Whether the server or a replica died while it ran, and it was begun again."""
        return self.attempts > 1

    @property
    def left(self) -> tuple[int, ...]:
        """The indices of pictures that are neither finished nor withheld."""
        done = {index for index, _ in self.pictures} | {one.index for one in self.withheld}
        return tuple(index for index in range(self.request.count) if index not in done)

    @property
    def withheld(self) -> "tuple[Judged, ...]":
        """The verdicts on those pictures that were drawn and are not given out."""
        return tuple(one for one in self.verdicts if one.outcome == "withheld")

    def judged(self, verdict: "Judged") -> "Job":
        """The job with a verdict on one of its pictures, in place of any before."""
        others = [one for one in self.verdicts if one.index != verdict.index]
        return self.changed(verdicts=tuple(sorted((*others, verdict), key=lambda v: v.index)))

    def changed(self, **changes: object) -> "Job":
        """The same job further on."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, object]:
        """The job as the native API tells it; its request only as far as it was given."""
        told: dict[str, object] = {
            name: getattr(self, name)
            for name in ("id", "owner", "state", "door", "tag", "hold", "created", "started")
        }
        told |= {
            name: getattr(self, name)
            for name in ("finished", "deadline", "restarted", "step", "steps", "progress")
        }
        told["position"] = self.position if self.state is State.QUEUED else None
        told["eta"] = self.eta
        told["pictures"] = [{"index": index, "id": id} for index, id in self.pictures]
        told["verdicts"] = [one.to_json() for one in self.verdicts]
        told["warnings"] = list(self.warnings)
        told["reason"] = self.reason or None
        failure = self.failure
        told["error"] = None
        if failure is not None:
            told["error"] = {"kind": failure.kind, "message": failure.message, "id": failure.id}
        told["request"] = self.request.model_dump(mode="json", exclude_unset=True)
        return told


def new_id() -> str:
    """16 hex digits that nobody can guess."""
    return secrets.token_hex(8)


# -- events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Body:
    """What happened; a class for each kind."""

    kind: ClassVar[str] = ""
    kept: ClassVar[bool] = True  # survives the server; steps do not

    def to_json(self) -> dict[str, object]:
        """Plain values by name; pictures as data URIs."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class Queued(Body):
    """It waits: position 1 is next. Told again whenever the position changes."""

    kind: ClassVar[str] = "queued"
    kept: ClassVar[bool] = False
    position: int
    eta: float | None = None


@dataclass(frozen=True, slots=True)
class Started(Body):
    """It runs. restarted: it ran before, and the server or a replica died."""

    kind: ClassVar[str] = "started"
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class Stepped(Body):
    """A step is done. index, pictures: the first of its pictures in this batch, and how many.

    progress: of the whole job, 0 to 1. preview: a JPEG of picture `index`, every few steps.
    """

    kind: ClassVar[str] = "step"
    kept: ClassVar[bool] = False
    step: int
    steps: int
    index: int = 0
    pictures: int = 1
    progress: float = 0.0
    eta: float | None = None
    preview: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Drawn(Body):
    """A picture is finished, and kept under this id."""

    kind: ClassVar[str] = "picture"
    index: int
    picture: str
    seed: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Judged(Body):
    """A judge looked at picture `index`.

    outcome: "passed", "labelled" or "withheld"; words: why.
    """

    kind: ClassVar[str] = "verdict"
    index: int
    outcome: str
    words: str = ""


@dataclass(frozen=True, slots=True)
class Warned(Body):
    """Something to know about the result."""

    kind: ClassVar[str] = "warning"
    text: str


@dataclass(frozen=True, slots=True)
class Failed(Body):
    """The last event of a job that failed; pictures that were finished are kept."""

    kind: ClassVar[str] = "failed"
    error: str
    message: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Cancelled(Body):
    """The last event of a job that was cancelled; pictures that were finished are kept."""

    kind: ClassVar[str] = "cancelled"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done(Body):
    """The last event of a job that came to its end. seconds: since it was started."""

    kind: ClassVar[str] = "done"
    seconds: float
    pictures: tuple[str, ...] = ()


BODIES: Mapping[str, type[Body]] = {
    body.kind: body
    for body in (Queued, Started, Stepped, Drawn, Judged, Warned, Failed, Cancelled, Done)
}
LAST = (Failed, Cancelled, Done)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job. number: growing within the job; the SSE id."""

    number: int
    job: str
    at: float
    body: Body

    @property
    def kind(self) -> str:
        """The word for it: "queued", "started", "step", "picture", "warning", ..."""
        return self.body.kind

    @property
    def last(self) -> bool:
        """Whether nothing follows it."""
        return isinstance(self.body, LAST)

    def to_json(self) -> dict[str, object]:
        """The event as clients are told it."""
        return {"type": self.kind, "job": self.job, "at": self.at, **self.body.to_json()}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return f"data:image/jpeg;base64,{base64.b64encode(value).decode()}"
    return list(value) if isinstance(value, tuple) else value


def last_word(job: Job) -> Body:
    """The last event of a job that is over."""
    if job.state is State.DONE:
        took = (job.finished or 0) - (job.started or job.finished or 0)
        return Done(round(max(took, 0), 3), tuple(id for _, id in job.pictures))
    if job.failure is not None:
        return Failed(job.failure.kind, job.failure.message, job.failure.id)
    return Cancelled(job.reason)
