"""Draws turns on the sampling thread: models, batches, previews, cancelling, and what goes wrong.

Everything here runs on one thread, and never on the event loop. What happens is told through a
`Listener`, which must be quick.
"""

import gc
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from traceback import clear_frames
from typing import Protocol

from safelight.checkpoints.embedding_file import embedding_for, read_embedding
from safelight.errors import (
    CheckpointError,
    FileError,
    InputError,
    NonFiniteError,
    OutputError,
    SafelightError,
)
from safelight.model import Model
from safelight.printable import shown
from safelight.server.jobs import LESSON, Failure, Job, new_id
from safelight.server.lesson_frames import Lesson, lesson_of
from safelight.server.library import Library, Loaded, released
from safelight.server.logs import log
from safelight.server.memory import SCARCE, is_below
from safelight.server.previews import fitted
from safelight.server.refusals import Refused
from safelight.server.registry import without_folders
from safelight.tasks.generate import draw_batch, settled
from safelight.tasks.joining import joined
from safelight.tasks.lesson import LessonRecording
from safelight.tasks.lookup import spoken
from safelight.tasks.named_files import renamed
from safelight.tasks.painting import Progress
from safelight.tasks.picture import Picture
from safelight.tasks.picture_file import InputPicture, open_input
from safelight.tasks.request import Request
from safelight.tasks.resizing import made_larger
from safelight.tasks.supplies import Supplies


@dataclass(frozen=True, slots=True)
class Portion:
    """What of a job is drawn in a turn.

    request: resolved, with real paths of weights. names: what the registry calls these. pictures:
        the files of the pictures that it names by ids.
    """

    job: Job
    request: Request
    indices: tuple[int, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)

    @property
    def teaches(self) -> bool:
        """Whether its one picture is drawn again for its lesson, and is not a new one."""
        return self.job.door == LESSON


@dataclass(frozen=True, slots=True)
class Turn:
    """One batch of pictures, of one or of several jobs, with the same model."""

    portions: tuple[Portion, ...]
    model: Hashable  # its key in the library

    @property
    def pictures(self) -> int:
        """How many pictures it has in all."""
        return sum(len(portion.indices) for portion in self.portions)


@dataclass(frozen=True, slots=True)
class At:
    """Where a drawing stands: step by step, `pictures` of a job at once, the first is `index`."""

    index: int
    pictures: int
    step: int
    steps: int
    preview: bytes | None


class Listener(Protocol):
    """Told by the sampling thread what happens to jobs; must return at once."""

    def stopped(self, job: str) -> bool:
        """Whether nothing more shall be drawn of a job."""
        ...

    def stepped(self, job: str, at: At) -> None:
        """A step was taken with `pictures` pictures of this job, the first of them `index`."""
        ...

    def drawn(self, job: str, index: int, picture: Picture) -> None:
        """A picture is finished; when this returns it is kept, or was withheld by a judge.

        May raise OutputError.
        """
        ...

    def taught(self, job: str, picture: Picture, lesson: Lesson) -> None:
        """The picture of a portion that `teaches` is drawn, and its lesson is made.

        May raise OutputError or Unknown.
        """
        ...

    def failed(self, job: str, failure: Failure) -> None:
        """Nothing more will come of a job."""
        ...


class Painter(Protocol):
    """Draws turns; a server of tests, or one with remote workers, has another."""

    def draw(self, turn: Turn, listener: Listener) -> None:
        """Draw a turn. All that goes wrong is told to the listener."""
        ...

    def prepare(self, model: Hashable, request: Request) -> None:
        """Load the model of a resolved request. Raises FileError or CheckpointError."""
        ...

    def revive(self) -> None:
        """Be there again after `PainterDied`, with no model loaded. Raises it if that fails."""
        ...

    def close(self) -> None:
        """The server ends: `prepare` and `revive` wait for nothing any more."""
        ...

    @property
    def loaded(self) -> frozenset[Hashable]:
        """The models that can be drawn with at once."""
        ...


class FarPainter(Painter, Protocol):
    """A painter in another process, which tells what its library counts: turns whose model was
    there, those for which one was read, and the bytes of all."""

    hits: int
    misses: int
    bytes: int


class PainterDied(Exception):
    """What draws is dead, and with it all of the turn that is not finished.

    begun: whether it had begun with the turn.
    """

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


class Stopped(Exception):
    """Nobody wants the pictures of this batch any more."""


@dataclass(frozen=True, slots=True)
class _One:
    """A picture to draw."""

    portion: Portion
    index: int
    single: Request

    @property
    def job(self) -> str:
        return self.portion.job.id


class LocalPainter:
    """Draws on this machine, with the models of a library."""

    def __init__(self, library: Library, *, batch: int, preview_every: int) -> None:
        """batch: pictures computed at once. preview_every: steps; 0: none."""
        self.library, self.batch, self.preview_every = library, batch, preview_every

    def draw(self, turn: Turn, listener: Listener) -> None:
        """Draw a turn: batches of what fits together, each job's failure its own."""
        drawing = [p for p in turn.portions if p.request.needs_model]
        for portion in turn.portions:
            if not portion.request.needs_model:
                self._guarded([portion.job.id], listener, lambda p=portion: _larger(p, listener))
        if not drawing:
            return
        loaded: list[Loaded] = []
        jobs = [portion.job.id for portion in drawing]
        self._guarded(
            jobs, listener, lambda: loaded.append(self.library.of(turn.model, drawing[0].request))
        )
        if loaded:
            self._draw_with(turn.model, loaded[0], drawing, listener)

    def prepare(self, model: Hashable, request: Request) -> None:
        """Load the model of a resolved request. Raises FileError or CheckpointError."""
        self.library.of(model, request)

    def revive(self) -> None:
        """It lives as long as the server."""

    def close(self) -> None:
        """Nothing here waits for anything."""

    @property
    def loaded(self) -> frozenset[Hashable]:
        """The models in memory."""
        return self.library.loaded

    def _draw_with(
        self, key: Hashable, loaded: Loaded, portions: Sequence[Portion], listener: Listener
    ) -> None:
        supplies = loaded.supplies(_opened(portions))
        ones: list[_One] = []
        for portion in portions:
            self._guarded(
                [portion.job.id],
                listener,
                lambda p=portion: ones.extend(_settled(p, loaded.model, supplies)),
            )
        for batch in joined([one.single for one in ones], loaded.model, self.batch):
            self._batch(key, loaded, [ones[k] for k in batch], supplies, listener)

    def _batch(
        self,
        key: Hashable,
        loaded: Loaded,
        ones: Sequence[_One],
        supplies: Supplies,
        listener: Listener,
    ) -> None:
        """Draw one batch. If it fails, its jobs are drawn apart, for one must not harm another; if
        memory does not do for several pictures of a job, these are."""
        ones = [one for one in ones if not listener.stopped(one.job)]
        jobs = list(dict.fromkeys(one.job for one in ones))
        if not jobs:
            return
        if is_below(SCARCE):
            self._relieve(key)
        if len(ones) == 1:
            work = partial(self._drawn, loaded, ones, supplies, listener)
            self._guarded(jobs, listener, work, keep=key)
            return
        try:
            self._drawn(loaded, ones, supplies, listener)
        except Stopped:
            return
        except (Refused, OutputError) as error:
            _failed(jobs, error, listener)
        except Exception as error:
            if len(jobs) == 1 and not _is_memory(error):
                _failed(jobs, error, listener)
                return
            log.warning("a batch failed and is drawn apart", extra={"fault": repr(error)[:200]})
            self._relieve(key)
            keys = [one.job if len(jobs) > 1 else one.index for one in ones]
            for part in dict.fromkeys(keys):
                own = [one for one, its in zip(ones, keys, strict=True) if its == part]
                self._batch(key, loaded, own, supplies, listener)

    def _drawn(
        self, loaded: Loaded, ones: Sequence[_One], supplies: Supplies, listener: Listener
    ) -> None:
        watching = _Watching(ones, loaded, listener, self.preview_every)
        if ones[0].portion.teaches:
            self._taught(loaded, ones[0], supplies, watching)
            return
        pictures = draw_batch(loaded.model, [one.single for one in ones], supplies, watching.watch)
        for one, picture in zip(ones, pictures, strict=True):
            if listener.stopped(one.job):
                continue
            listener.drawn(one.job, one.index, _renamed(picture, one.portion, loaded.notes))

    def _taught(self, loaded: Loaded, one: _One, supplies: Supplies, watching: "_Watching") -> None:
        """Draw a picture while each step is kept, then make a lesson of that."""
        model = loaded.model
        recording = LessonRecording(model, one.single)

        def watch(progress: Progress) -> None:
            recording.watch(progress)
            watching.watch(progress)

        (picture,) = draw_batch(recording.on(model), [one.single], supplies, watch)
        preview = loaded.preview or fitted(model.codec, model.placement)
        lesson = lesson_of(model, preview, recording.moments, one.single, watching.check)
        told = _renamed(picture, one.portion, loaded.notes)
        watching.listener.taught(one.job, told, lesson)

    def _guarded(
        self, jobs: Sequence[str], listener: Listener, work: "Work", *, keep: Hashable | None = None
    ) -> None:
        """Do work for jobs; what it raises is told as their failure, once memory was freed.

        keep: the model that goes on: to read it again takes more memory than it holds.
        """
        try:
            work()
        except Stopped:
            return
        except Exception as error:
            if _is_memory(error):
                clear_frames(error.__traceback__)  # they hold what was too much
                self._relieve(keep)
            _failed(jobs, error, listener)

    def _relieve(self, keep: Hashable | None) -> None:
        """Free what can be read again: all models but one."""
        self.library.free(keep)
        gc.collect()
        released()


class Work(Protocol):
    """Something to do."""

    def __call__(self) -> object: ...


class _Watching:
    """Tells the jobs of one batch of its steps, and ends it when nobody wants it any more."""

    def __init__(
        self, ones: Sequence[_One], loaded: Loaded, listener: Listener, every: int
    ) -> None:
        self.loaded, self.listener, self.every = loaded, listener, every
        self.rows: dict[str, list[int]] = {}  # of each job, in the batch
        for row, one in enumerate(ones):
            self.rows.setdefault(one.job, []).append(row)
        self.ones = ones
        self.shown = 0

    def check(self) -> dict[str, list[int]]:
        """The rows of the jobs that are still wanted. Raises Stopped if none is."""
        wanted = {j: rows for j, rows in self.rows.items() if not self.listener.stopped(j)}
        if not wanted:
            raise Stopped
        return wanted

    def watch(self, progress: Progress) -> None:
        wanted = self.check()
        steps = max(progress.steps, progress.step)
        shows = self.every > 0 and progress.step % self.every == 0 and progress.step < steps
        for job, rows in wanted.items():
            preview = None
            # a batch that is drawn one after another shows the only one that is there
            row = rows[0] if progress.pictures == len(self.ones) else 0
            if shows and self.loaded.preview is not None and row < len(progress.denoised):
                # where several jobs share a batch, many wait: none shall for a finer preview
                quick = len(self.rows) > 1
                preview = self.loaded.preview.jpeg(progress.denoised[row], quick=quick)
            index = self.ones[rows[0]].index
            self.listener.stepped(job, At(index, len(rows), progress.step, steps, preview))


def _renamed(picture: Picture, portion: Portion, notes: tuple[str, ...]) -> Picture:
    """The picture as the server tells of it: files by the registry's names, no folders."""
    recipe = picture.recipe
    names = portion.names
    told = renamed(recipe.request, lambda file: names.get(file.name, file.name))
    warnings = []
    for text in dict.fromkeys((*picture.warnings, *notes)):
        for path, name in names.items():
            text = text.replace(path, name)
        warnings.append(without_folders(text))
    kept = tuple(text[:2000] for text in warnings[:100])
    recipe = recipe.replace(request=told, result=recipe.result.replace(warnings=kept))
    return Picture(picture.pixels, recipe, tuple(warnings))


def _settled(portion: Portion, model: Model, supplies: Supplies) -> list[_One]:
    request = _worded(portion.request, model)
    singles = settled(request, model, supplies)
    return [_One(portion, index, singles[index]) for index in portion.indices]


def _worded(request: Request, model: Model) -> Request:
    """The request with only those learned words that its prompts say and this model can read."""
    names = [one.word for one in request.embeddings if one.word is not None]
    if not names:
        return request
    said = spoken(request, model.text.tokenizer, names)
    kept = [
        one
        for one in request.embeddings
        if one.word is None or (one.word in said and _fits(one.file, model))
    ]
    return request.replace(embeddings=tuple(kept))


def _fits(file: str, model: Model) -> bool:
    try:
        embedding_for(model, read_embedding(Path(file)))
    except CheckpointError:
        return False
    return True


def _larger(portion: Portion, listener: Listener) -> None:
    supplies = Supplies(_opened=_opened([portion]))
    for index in portion.indices:
        if not listener.stopped(portion.job.id):
            picture = made_larger(portion.request, supplies)
            listener.drawn(portion.job.id, index, _renamed(picture, portion, ()))


def _opened(portions: Sequence[Portion]) -> dict[str, InputPicture]:
    """The pictures of requests, by the ids that these name them by."""
    return {id: open_input(path) for p in portions for id, path in p.pictures.items()}


def _failed(jobs: Sequence[str], error: Exception, listener: Listener) -> None:
    failure = failure_of(error)
    if failure.status >= 500:
        failure = replace(failure, id=new_id())
        log.error("drawing failed", exc_info=error, extra={"id": failure.id, "jobs": list(jobs)})
    for job in jobs:
        listener.failed(job, failure)


def failure_of(error: Exception) -> Failure:
    """What a client is told of an error, and the status that says so."""
    if _is_memory(error):
        return Failure(
            "memory",
            "the server ran out of memory; ask for a smaller size or fewer pictures at once.",
            507,
        )
    told = shown(str(error), 2000)
    match error:
        case Refused():
            return Failure(error.kind, told, error.status)
        case FileError() | CheckpointError():
            return Failure("file", told, 422)
        case InputError():
            return Failure("request", told, 422)
        case NonFiniteError():
            return Failure("numbers", told, 500)
        case OutputError():
            return Failure("disk", "the server could not keep the picture: its disk failed.", 507)
        case SafelightError():
            return Failure("failed", told, 500)
    return Failure("internal", "something went wrong in the server; its log knows more.", 500)


def _is_memory(error: BaseException) -> bool:
    """Torch has a class of its own for a GPU's memory, and none for the CPU's."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
