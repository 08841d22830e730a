"""The side of a `Desk` that takes lessons in: kept with their pictures, which stay as they are."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

from safelight.server.gallery import Gallery
from safelight.server.jobs import Drawn, Judged
from safelight.server.judge import Judge
from safelight.server.lesson_frames import Lesson
from safelight.server.live import Live
from safelight.server.refusals import Unknown
from safelight.server.store import Store
from safelight.tasks.picture import Picture

OTHERWISE = (
    "the picture came out otherwise than when it was first drawn, so the lesson is of the one that "
    "was drawn now: its model was changed, or other software, another engine or a batch drew it."
)


class Teaching(ABC):
    """What a `Desk` does with lessons; see there."""

    lives: dict[str, Live]
    store: Store
    gallery: Gallery
    judge: Judge | None
    _loop: asyncio.AbstractEventLoop

    def taught(self, job: str, picture: Picture, lesson: Lesson) -> None:
        """A lesson is drawn, of the picture whose id is the job's tag: it is kept, or was withheld
        by a judge, when this returns. Raises Unknown if its picture was deleted meanwhile."""
        kept = self.store.picture(self.lives[job].job.tag)
        if kept is None:
            raise Unknown("the picture was deleted while its lesson was drawn.")
        if self.judge is not None:
            verdict = self.judge(picture.pixels)
            told = Judged(0, verdict.outcome, verdict.words)
            self._loop.call_soon_threadsafe(self._on_verdict, job, told)
            if not verdict.shown:
                return
        first = self.gallery.opened(kept).recipe.result.pixels_sha256
        same = picture.recipe.result.pixels_sha256 == first
        self.gallery.lessons.save(kept.id, lesson, same=same)
        body = Drawn(0, kept.id, kept.seed, kept.width, kept.height)
        warnings = picture.warnings if same else (*picture.warnings, OTHERWISE)
        self._loop.call_soon_threadsafe(self._on_picture, job, body, warnings)

    @abstractmethod
    def _on_picture(self, id: str, body: Drawn, warnings: Sequence[str]) -> None:
        """Tell of a picture that is kept, on the event loop."""

    @abstractmethod
    def _on_verdict(self, id: str, verdict: Judged) -> None:
        """Tell of a verdict, on the event loop."""
