"""Queue, history and gallery in one SQLite file that survives kill -9 and loss of power.

Write-ahead log with synchronous FULL: what `write` returned from is on the disk. All of one call is
one transaction. Methods may be called from any thread; each takes the lock for one statement or
transaction. Reads go over a connection of their own and never wait for a writer's disk.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from safelight.errors import OutputError, SafelightError
from safelight.printable import shown
from safelight.server.jobs import BODIES, Event, Failure, Hold, Job, Judged, State
from safelight.server.kept import Kept
from safelight.server.refusals import NoSpace, NotNow
from safelight.tasks.request import Request

VERSION = 1
SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, owner TEXT NOT NULL, state TEXT NOT NULL,
    door TEXT NOT NULL, tag TEXT NOT NULL, hold TEXT NOT NULL, request TEXT NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL, deadline REAL,
    attempts INTEGER NOT NULL, warnings TEXT NOT NULL, failure TEXT, reason TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX jobs_by_number ON jobs (number);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE INDEX jobs_by_tag ON jobs (tag, number) WHERE tag <> '';
CREATE TABLE events (
    job TEXT NOT NULL, number INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE pictures (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL, idx INTEGER NOT NULL,
    owner TEXT NOT NULL, created REAL NOT NULL, file TEXT NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, seed TEXT NOT NULL, prompt TEXT NOT NULL,
    negative_prompt TEXT NOT NULL, model TEXT NOT NULL, size INTEGER NOT NULL,
    sha256 TEXT NOT NULL, warnings TEXT NOT NULL
) STRICT;
CREATE INDEX pictures_by_job ON pictures (job, idx);
CREATE INDEX pictures_by_owner ON pictures (owner, row);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
WORDS = "CREATE VIRTUAL TABLE words USING fts5 (prompt, model, tokenize = 'unicode61')"
JOB = "id, number, owner, state, door, tag, hold, request, created, started, finished, deadline"
JOB_COLUMNS = f"{JOB}, attempts, warnings, failure, reason"
PICTURE_COLUMNS = (
    "id, job, idx, owner, created, file, width, height, seed, prompt, negative_prompt, model, "
    "size, sha256, warnings"
)
BUSY = 10.0  # seconds


class Store:
    """One open store; only one process has it at a time."""

    def __init__(self, folder: Path) -> None:
        """Open or make the store in a folder that exists.

        Raises OutputError if it cannot be written, was written by a newer Safelight, or is open in
        another process.
        """
        path = folder / "server.sqlite"
        try:
            self._guard = _alone(folder / "server.lock")
            self._writer = _connection(path)
            self._reader = _connection(path)
        except sqlite3.Error as error:
            raise _failed(folder, error) from None
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        try:
            self._prepare(path)
        except sqlite3.Error as error:
            raise _failed(folder, error) from None

    def close(self) -> None:
        """Close it; what was written stays."""
        for connection in (self._reader, self._writer, self._guard):
            with suppress(sqlite3.Error):
                connection.close()

    def _prepare(self, path: Path) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise OutputError(
                f"{shown(path.name)} was written by a newer Safelight (version {version}; this one "
                f"knows {VERSION}); take that one, or give another --out."
            )
        if version == 0:
            with self._writing() as writer:
                for statement in SCHEMA.split(";\n"):
                    writer.execute(statement)
                with suppress(sqlite3.OperationalError):  # an SQLite without FTS5
                    writer.execute(WORDS)
                writer.execute(f"PRAGMA user_version = {VERSION}")
        names = self._writer.execute("SELECT name FROM sqlite_master WHERE name = 'words'")
        self.has_words = names.fetchone() is not None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises NoSpace for a full disk, OutputError for another fault."""
        with self._write_lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise _failed(None, error) from error
                raise

    def _read(self, query: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        with self._read_lock:
            try:
                return self._reader.execute(query, tuple(values)).fetchall()
            except sqlite3.ProgrammingError:  # it was closed
                raise NotNow("the server is stopping; try again.", retry_after=10) from None

    # -- writing -----------------------------------------------------------------------------------

    def write(
        self,
        job: Job | None = None,
        *,
        events: Sequence[Event] = (),
        picture: Kept | None = None,
    ) -> None:
        """Keep a job as it is now, what happened to it, and a finished picture: all or nothing."""
        with self._writing() as writer:
            if job is not None:
                values = _job_row(job)
                marks = ", ".join("?" * len(values))
                writer.execute(
                    f"INSERT OR REPLACE INTO jobs ({JOB_COLUMNS}) VALUES ({marks})", values
                )
            if picture is not None:
                self._write_picture(writer, picture)
            writer.executemany(
                "INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?)",
                [
                    (e.job, e.number, e.at, e.kind, json.dumps(e.body.to_json()))
                    for e in events
                    if e.body.kept
                ],
            )

    def _write_picture(self, writer: sqlite3.Connection, picture: Kept) -> None:
        values = _picture_row(picture)
        marks = ", ".join("?" * len(values))
        self._forget(writer, picture.id)
        row = writer.execute(
            f"INSERT INTO pictures ({PICTURE_COLUMNS}) VALUES ({marks})", values
        ).lastrowid
        if self.has_words:
            writer.execute(
                "INSERT INTO words (rowid, prompt, model) VALUES (?, ?, ?)",
                (row, picture.prompt, picture.model),
            )

    def _forget(self, writer: sqlite3.Connection, id: str) -> None:
        if self.has_words:
            writer.execute(
                "DELETE FROM words WHERE rowid IN (SELECT row FROM pictures WHERE id = ?)", (id,)
            )
        writer.execute("DELETE FROM pictures WHERE id = ?", (id,))

    def delete_picture(self, id: str) -> None:
        """Forget a picture; its file is not touched."""
        with self._writing() as writer:
            self._forget(writer, id)

    def set_fact(self, name: str, value: object) -> None:
        """Keep a small value of JSON under a name."""
        with self._writing() as writer:
            writer.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    # -- reading -----------------------------------------------------------------------------------

    def fact(self, name: str) -> object:
        """The value kept under that name; None if there is none."""
        rows = self._read("SELECT value FROM facts WHERE name = ?", (name,))
        return json.loads(str(rows[0][0])) if rows else None

    def next_number(self) -> int:
        """The number of the next job."""
        [(last,)] = self._read("SELECT coalesce(max(number), 0) FROM jobs")
        assert isinstance(last, int)
        return last + 1

    def unfinished(self) -> list[Job]:
        """The jobs that wait or were running when the store was closed, in their order."""
        query = f"SELECT {JOB_COLUMNS} FROM jobs WHERE state IN ('queued', 'running')"
        return self._jobs(self._read(f"{query} ORDER BY number"))

    def job(self, id: str) -> Job | None:
        """The job of that id."""
        found = self._jobs(self._read(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", (id,)))
        return found[0] if found else None

    def tagged(self, tag: str, owner: str | None) -> Job | None:
        """The newest job of that tag, of one owner or of all."""
        rows = self._read(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE tag = ? AND (? IS NULL OR owner = ?) "
            "ORDER BY number DESC LIMIT 1",
            (tag, owner, owner),
        )
        found = self._jobs(rows)
        return found[0] if found else None

    def jobs(self, owner: str | None, states: Sequence[State] = (), limit: int = 100) -> list[Job]:
        """The newest jobs, of one owner or of all, in these states or in any."""
        marks = ", ".join("?" * len(states))
        chosen = f"state IN ({marks})" if states else "1"
        rows = self._read(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE {chosen} AND (? IS NULL OR owner = ?) "
            "ORDER BY number DESC LIMIT ?",
            (*map(str, states), owner, owner, limit),
        )
        return self._jobs(rows)

    def events(self, job: str, after: int = -1) -> list[Event]:
        """The kept events of a job behind number `after`."""
        rows = self._read(
            "SELECT job, number, at, kind, body FROM events WHERE job = ? AND number > ? "
            "ORDER BY number",
            (job, after),
        )
        return [_event(row) for row in rows]

    def pictures(self, job: str) -> list[Kept]:
        """The finished pictures of a job, by index."""
        query = f"SELECT {PICTURE_COLUMNS} FROM pictures WHERE job = ? ORDER BY idx"
        return [_picture(row) for row in self._read(query, (job,))]

    def picture(self, id: str) -> Kept | None:
        """The picture of that id."""
        rows = self._read(f"SELECT {PICTURE_COLUMNS} FROM pictures WHERE id = ?", (id,))
        return _picture(rows[0]) if rows else None

    def gallery(
        self, owner: str | None, search: str = "", before: str | None = None, limit: int = 50
    ) -> list[Kept]:
        """Pictures, the newest first, of one owner or of all.

        search: words of prompt or model, all of which must be there; the last may be begun only.
        before: the id of a picture; only older ones are told.
        """
        conditions, values = ["(? IS NULL OR owner = ?)"], [owner, owner]
        if before is not None:
            conditions.append("row < (SELECT row FROM pictures WHERE id = ?)")
            values.append(before)
        words = [word for word in search.split() if word][:16]
        spelled = [word for word in words if any(c.isalnum() for c in word)]
        if words and self.has_words and len(spelled) == len(words):
            conditions.append("row IN (SELECT rowid FROM words WHERE words MATCH ?)")
            values.append(" ".join(f'"{word.replace(chr(34), chr(34) * 2)}"*' for word in words))
        else:
            for word in words:
                conditions.append(r"(prompt || ' ' || model) LIKE ? ESCAPE '\'")
                values.append(f"%{_escaped(word)}%")
        rows = self._read(
            f"SELECT {PICTURE_COLUMNS} FROM pictures WHERE {' AND '.join(conditions)} "
            "ORDER BY row DESC LIMIT ?",
            (*values, limit),
        )
        return [_picture(row) for row in rows]

    def _jobs(self, rows: Sequence[tuple[object, ...]]) -> list[Job]:
        jobs = [_job(row) for row in rows]
        return [self._with_results(job) for job in jobs]

    def _with_results(self, job: Job) -> Job:
        pictures = tuple((p.index, p.id) for p in self.pictures(job.id))
        rows = self._read(
            "SELECT job, number, at, kind, body FROM events WHERE job = ? AND kind = ? "
            "ORDER BY number",
            (job.id, Judged.kind),
        )
        for row in rows:
            verdict = _event(row).body
            assert isinstance(verdict, Judged)
            job = job.judged(verdict)
        return job.changed(pictures=pictures)


def _connection(path: Path) -> sqlite3.Connection:
    made = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    made.execute("PRAGMA journal_mode = WAL")
    made.execute("PRAGMA synchronous = FULL")
    return made


def _alone(path: Path) -> sqlite3.Connection:
    """A lock that ends with the process, however that ends. Raises OutputError if it is taken."""
    lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" in str(error):
            raise OutputError(
                f"another server works in {shown(path.parent.parent)}; stop it, or give another "
                "--out."
            ) from None
        raise
    return lock


def _failed(folder: Path | None, error: sqlite3.Error) -> SafelightError:
    if "full" in str(error):
        return NoSpace("the disk of the server is full; nothing was accepted.")
    where = "" if folder is None else f" in {shown(folder)}"
    return OutputError(f"the queue cannot be kept{where}: {error}.")


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


# -- rows ------------------------------------------------------------------------------------------


def _job_row(job: Job) -> tuple[object, ...]:
    request = json.dumps(job.request.model_dump(mode="json", exclude_unset=True))
    failure = None if job.failure is None else json.dumps(asdict(job.failure))
    return (
        *(job.id, job.number, job.owner, str(job.state), job.door, job.tag, job.hold, request),
        *(job.created, job.started, job.finished, job.deadline, job.attempts),
        *(json.dumps(job.warnings), failure, job.reason),
    )


def _job(row: tuple[object, ...]) -> Job:
    (id, number, owner, state, door, tag, hold, request, created, started, finished, deadline) = (
        row[:12]
    )
    attempts, warnings, failure, reason = row[12:]
    known = None if failure is None else Failure(**json.loads(str(failure)))
    told, fault = _request(str(request))
    found = State(str(state))
    if fault is not None and not found.over:
        found, known = State.FAILED, fault
    assert isinstance(number, int) and isinstance(attempts, int) and isinstance(created, float)
    return Job(
        id=str(id),
        owner=str(owner),
        request=told,
        number=number,
        state=found,
        door=str(door),
        tag=str(tag),
        hold=_hold(str(hold)),
        created=created,
        started=_moment(started),
        finished=_moment(finished),
        deadline=_moment(deadline),
        attempts=attempts,
        warnings=tuple(json.loads(str(warnings))),
        failure=known,
        reason=str(reason),
        progress=1.0 if found is State.DONE else 0.0,
    )


def _request(text: str) -> tuple[Request, Failure | None]:
    """The request as it was kept; one of an older Safelight may not be understood any more."""
    try:
        return Request(**json.loads(text)), None
    except SafelightError as error:
        told = f"it was kept by another version of Safelight, and cannot be read: {error}"
        return Request(prompt="", seed=0), Failure("request", told, 422)


def _hold(text: str) -> Hold:
    return "connection" if text == "connection" else "server"


def _moment(value: object) -> float | None:
    return value if isinstance(value, float) else None


def _event(row: tuple[object, ...]) -> Event:
    job, number, at, kind, body = row
    assert isinstance(number, int) and isinstance(at, float)
    values = json.loads(str(body))
    told = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Event(number, str(job), at, BODIES[str(kind)](**told))


def _picture_row(p: Kept) -> tuple[object, ...]:
    # a seed may need 64 bits, and SQLite's numbers have 63
    return (
        *(p.id, p.job, p.index, p.owner, p.created, p.file, p.width, p.height, str(p.seed)),
        *(p.prompt, p.negative_prompt, p.model, p.size, p.sha256, json.dumps(p.warnings)),
    )


def _picture(row: tuple[object, ...]) -> Kept:
    values = list(row)
    values[8], values[14] = int(str(row[8])), tuple(json.loads(str(row[14])))
    return Kept(*values)  # type: ignore[arg-type]
