"""A server whose pictures cost nothing: a painter that draws flat colours, step by step."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from cli_tiny import tiny_model
from safelight.errors import FileError
from safelight.server.jobs import Failure
from safelight.server.lesson_frames import Lesson, lesson_of
from safelight.server.painter import At, Listener, Portion, Turn, failure_of
from safelight.server.previews import fitted
from safelight.server.service import Service
from safelight.server.settings import ServerSettings
from safelight.tasks.lesson import Moment
from safelight.tasks.picture import Picture
from safelight.tasks.recipe import Recipe, Result, Software, pixels_sha256
from safelight.tasks.request import Request
from safelight.tasks.word_recording import TextMaps
from safelight.text.word_maps import WordMap

T = TypeVar("T")


def picture_of(request: Request, index: int = 0) -> Picture:
    """A flat picture whose colour is that of its seed."""
    single = request.spelled_out().single(index)
    side = 64
    single = single.replace(
        width=single.width or side, height=single.height or side, model=None, exact=False
    )
    assert single.seed is not None
    colour = [(single.seed * k) % 251 for k in (1, 7, 49)]
    assert single.width is not None and single.height is not None
    pixels = np.full((single.height, single.width, 3), colour, dtype=np.uint8)
    recipe = Recipe(
        request=single,
        software=Software.here(torch="0", device="none", dtype="fp32", threads=1),
        result=Result(
            pixels_sha256=pixels_sha256(pixels), steps=single.steps, sampler="none", schedule="none"
        ),
    )
    return Picture(pixels, recipe)


def taught(portion: Portion) -> Lesson:
    """A lesson of a picture's steps and words, of a model that knows nothing: all is noise."""
    model, request = tiny_model(0), picture_of(portion.request).recipe.request
    draw = torch.Generator().manual_seed(request.seed or 0)
    words = request.prompt.replace("(", " ").split()

    def latents() -> torch.Tensor:
        return torch.randn(4, 8, 8, generator=draw)

    def heat(word: str) -> WordMap:
        return WordMap(word, torch.rand(8, 8, generator=draw).numpy(), 1 / len(words))

    moments = [
        Moment(
            sigma=14.6 / step**1.5,
            time=999.0 / step,
            calls=1,
            x=latents() * 14.6 / step**1.5,
            denoised=latents(),
            difference=latents() if request.cfg_scale != 1 else None,
            texts=(TextMaps(request.prompt, tuple(map(heat, words))),),
        )
        for step in range(1, request.steps + 1)
    ]
    return lesson_of(model, fitted(model.codec), moments, request)


class FakePainter:
    """Draws flat pictures; `step` seconds for each step, or held until `go` is set.

    turns: the jobs of every turn, in order, and how many pictures of each.
    """

    def __init__(self, step: float = 0.0, *, held: bool = False) -> None:
        self.step, self.turns = step, list[dict[str, int]]()
        self.go = threading.Event()
        self.begun = threading.Event()
        self.fails: Callable[[Request], Exception | None] = lambda request: None
        self.models: set[Hashable] = set()
        self.prepared: list[str | None] = []
        if not held:
            self.go.set()

    @property
    def loaded(self) -> frozenset[Hashable]:
        return frozenset(self.models)

    def prepare(self, model: Hashable, request: Request) -> None:
        self.prepared.append(request.model)
        if request.model is not None and "broken" in request.model:
            raise FileError(f"{request.model} is truncated")
        self.models.add(model)

    def revive(self) -> None:
        pass

    def close(self) -> None:
        pass

    def draw(self, turn: Turn, listener: Listener) -> None:
        self.models.add(turn.model)
        self.turns.append({p.job.id: len(p.indices) for p in turn.portions})
        self.begun.set()
        self.go.wait(20)
        wanted = list(turn.portions)
        steps = max(p.request.steps for p in wanted)
        for step in range(1, steps + 1):
            time.sleep(self.step)
            wanted = [p for p in wanted if not listener.stopped(p.job.id)]
            if not wanted:
                return
            for portion in wanted:
                preview = b"\xff\xd8" + bytes([step]) if step % 2 == 0 else None
                at = At(portion.indices[0], len(portion.indices), step, steps, preview)
                listener.stepped(portion.job.id, at)
        for portion in wanted:
            error = self.fails(portion.request)
            if error is not None:
                listener.failed(portion.job.id, failure_of(error))
                continue
            if portion.teaches:
                listener.taught(portion.job.id, picture_of(portion.request), taught(portion))
                continue
            for index in portion.indices:
                listener.drawn(portion.job.id, index, picture_of(portion.request, index))


def settings(out: Path, **changes: object) -> ServerSettings:
    return ServerSettings(**({"out": out, "batch": 4, "grace": 5.0} | changes))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def serving(
    out: Path, painter: FakePainter | None = None, **changes: object
) -> AsyncIterator[Service]:
    """A started service with a model called "plain"."""
    service = Service(settings(out, **changes), painter=painter or FakePainter())
    await service.start(load=False)
    if service.model is None or service.registry.has("model", "plain"):
        service.model = "plain"
    try:
        yield service
    finally:
        if painter is not None:
            painter.go.set()
        await service.stop()


def run(work: Callable[[], Coroutine[Any, Any, T]], seconds: float = 20.0) -> T:
    """The result of a coroutine function, which must come within some seconds."""

    async def timed() -> T:
        return await asyncio.wait_for(work(), seconds)

    return asyncio.run(timed())


__all__ = ["Failure", "FakePainter", "picture_of", "run", "serving", "settings"]
