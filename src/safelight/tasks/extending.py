"""Outpainting: a picture grows beyond its borders, window by window.

Each window is an inpainting of its own, which sees what the windows before it drew.
"""

from collections.abc import Iterator

import numpy as np

from safelight.canvas.arrays import Mask, Pixels, size_of
from safelight.canvas.continuation import CONTINUATIONS, edged
from safelight.canvas.extension import Extension, Placement, on_canvas, overlapped, placed, unknown
from safelight.canvas.masks import hardened
from safelight.canvas.seam import seam
from safelight.canvas.windows import Window, windows
from safelight.model import Model
from safelight.tasks.recipe import Figure
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.tasks.work import MOST, Work, finished, seam_figure


def placement_of(request: Request, model: Model, supplies: Supplies) -> Placement:
    """Where the picture lies on the canvas that it grows into. Raises RequestError if too large."""
    assert request.source is not None and request.extend is not None
    opened = supplies.picture(request.source.picture)
    wanted = request.extend
    sides = Extension(wanted.left, wanted.right, wanted.top, wanted.bottom)
    return placed(size_of(opened.pixels), sides, model.codec.factor)


def window_size(request: Request, model: Model, supplies: Supplies) -> tuple[int, int]:
    """Width and height of what is drawn at once: the whole canvas, or of a large one a part."""
    size = placement_of(request, model, supplies).size
    side = model.family.native_size
    if size[0] * size[1] <= MOST * side * side:
        return size
    return min(size[0], side), min(size[1], side)


class Canvas:
    """What is known of the picture so far, and what is missing."""

    def __init__(self, request: Request, model: Model, supplies: Supplies) -> None:
        source, extend = request.source, request.extend
        assert source is not None and extend is not None
        assert request.width is not None and request.height is not None
        opened = supplies.picture(source.picture)
        self.extend = extend
        self.placement = placement_of(request, model, supplies)
        self.factor = model.codec.factor
        self.missing = unknown(self.placement)
        frame = on_canvas(opened.pixels, self.placement)
        self.frame = CONTINUATIONS.get(extend.fill, edged)(frame, self.missing)
        self.original = self.frame
        working = (request.width, request.height)
        self.overlap = min(working) // 8 if extend.overlap is None else extend.overlap
        self.windows = windows(self.placement, working, self._shared(working))
        self.notes = (*opened.notes, *self.placement.notes)

    def work(self, window: Window) -> Work:
        """A window made ready to be drawn: all that is missing in it, and a band of the known."""
        mask = overlapped(self._within(window), self.overlap)
        pixels = np.ascontiguousarray(window.region.of(self.frame))
        return Work(
            pixels=pixels,
            source_pixels=pixels,
            frame=self.frame,
            region=window.region,
            place=np.ascontiguousarray(window.region.of(hardened(mask, 1e-6))),
            mask=mask,
            factor=self.factor,
        )

    def painted(self, request: Request, work: Work, drawn: Pixels) -> None:
        """Take over what was drawn in a window: it is known from now on."""
        self.frame, _ = finished(request, work, drawn)
        self.missing = self.missing.copy()
        self.missing[work.region.slices] = 0

    def result(self) -> tuple[Pixels, tuple[Figure, ...]]:
        """The grown picture, and how far its old border stands out."""
        mask = overlapped(unknown(self.placement), self.overlap)
        found = seam(self.frame, mask)
        whole = np.ascontiguousarray(self.placement.result.of(self.frame))
        return whole, (seam_figure(found),)

    def _within(self, window: Window) -> Mask:
        """What is missing, in this window alone."""
        mask = np.zeros_like(self.missing)
        mask[window.region.slices] = window.region.of(self.missing)
        return mask

    def _shared(self, working: tuple[int, int]) -> int:
        """Columns or rows that a window shares with what is known: enough to go on from."""
        size = min(working[0], self.placement.size[0]), min(working[1], self.placement.size[1])
        return min(max(self.overlap, min(size) // 4, 1), min(size) // 2)


def turns(request: Request, canvas: Canvas) -> Iterator[tuple[Window, Request]]:
    """Each window with its request: the next seed, and the words of its side if it has its own."""
    assert request.seed is not None and request.extend is not None
    for number, window in enumerate(canvas.windows):
        words = getattr(request.extend, f"{window.side}_prompt")
        prompt = request.prompt if words is None else words
        yield window, request.replace(seed=request.seed + number, prompt=prompt)


def settled_extension(request: Request) -> Request:
    """The request at full strength if it says no other: a border has little of its own to keep."""
    source = request.source
    if request.extend is None or source is None or "strength" in source.model_fields_set:
        return request
    return request.replace(source=source.replace(strength=1.0))
