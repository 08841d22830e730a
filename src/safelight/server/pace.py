"""How long a job will take, learnt from what was drawn."""

from collections.abc import Mapping

from safelight.tasks.large import second_pixels
from safelight.tasks.request import UNKNOWN_SIDE, Request

NEW = 0.3  # weight of a new measurement
KEYS = 256


def work_of(request: Request) -> float:
    """Megapixels x steps of one picture: what its time grows with."""
    width, height = request.width or UNKNOWN_SIDE, request.height or UNKNOWN_SIDE
    work = width * height * request.steps
    if request.hires is not None:
        second = second_pixels(request.hires, width, height)
        work += second * (request.hires.steps or request.steps)
    loops = 1 if request.source is None else request.source.loops
    return work * request.best_of * loops / 1e6


class Pace:
    """Seconds for a megapixel-step, by model and size, as a moving average."""

    def __init__(self, known: Mapping[str, float] | None = None) -> None:
        self._seconds: dict[str, float] = dict(known or {})

    def measured(self, request: Request, model: str, pictures: int, seconds: float) -> None:
        """So many pictures of this request took so long together."""
        rate = seconds / max(work_of(request) * pictures, 1e-9)
        for key in (_key(request, model), model, ""):
            old = self._seconds.pop(key, None)  # moved to the end: the last used are kept
            self._seconds[key] = rate if old is None else old + NEW * (rate - old)
        while len(self._seconds) > KEYS:
            del self._seconds[next(iter(self._seconds))]

    def seconds(self, request: Request, model: str, pictures: int) -> float | None:
        """About how long so many pictures will take; None before anything was measured."""
        for key in (_key(request, model), model, ""):
            if (rate := self._seconds.get(key)) is not None:
                return rate * work_of(request) * pictures
        return None

    def known(self) -> dict[str, float]:
        """All that was learnt, to start with it next time."""
        return dict(self._seconds)


def _key(request: Request, model: str) -> str:
    return f"{model}|{request.width}x{request.height}|{request.sampler}"
