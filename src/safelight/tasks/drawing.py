"""All passes of a drawing: from requests that differ in their seeds to finished pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safelight.engines.sentinel import Sentinel
from safelight.model import Model
from safelight.tasks.aids import Aids
from safelight.tasks.editing import Edited, edited_once
from safelight.tasks.enlarging import used_upscalers
from safelight.tasks.equipping import equipped
from safelight.tasks.extending import Canvas, turns, window_size
from safelight.tasks.named_files import named_files
from safelight.tasks.painting import Pass, Tally, decoded, painted
from safelight.tasks.picture import to_uint8
from safelight.tasks.plan import Plan
from safelight.tasks.recipe import Figure, UsedFile
from safelight.tasks.request import Request
from safelight.tasks.second_pass import drawn_twice
from safelight.tasks.stage import NOTHING
from safelight.tasks.supplies import Supplies, used_picture
from safelight.tasks.work import finished, redrawn, work_of, working_size_of

__all__ = ["Drawn", "OnePicture", "drawn", "drawn_apart", "working_size"]


@dataclass(frozen=True, eq=False)
class OnePicture:
    """Finished pixels (H, W, 3), and what was measured on them."""

    pixels: NDArray[np.uint8]
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """The pictures of a batch, one for each request."""

    pictures: list[OnePicture]
    plan: Plan  # of the last pass
    files: tuple[UsedFile, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()  # what is said beside them, and warns of nothing


def drawn_apart(request: Request) -> bool:
    """Whether a request's pictures cannot share a batch: each goes on from its own."""
    return request.source is not None and (request.source.loops > 1 or request.extend is not None)


def working_size(request: Request, model: Model, supplies: Supplies) -> tuple[int, int]:
    """Width and height that are drawn unless the request says: its picture's, or the model's."""
    if request.source is None:
        return model.family.native_size, model.family.native_size
    if request.extend is not None:
        return window_size(request, model, supplies)
    return working_size_of(request, model, supplies)


def drawn(
    model: Model, batch: Sequence[Request], supplies: Supplies, sentinel: Sentinel, tally: Tally
) -> Drawn:
    """The pictures of settled requests. Raises RequestError, FileError or NonFiniteError."""
    if batch[0].source is None:
        return _from_text(model, batch, supplies, sentinel, tally)
    if batch[0].extend is not None:
        return _grown(model, batch, supplies, sentinel, tally)
    return _from_picture(model, batch, supplies, sentinel, tally)


def _from_text(
    model: Model, batch: Sequence[Request], supplies: Supplies, sentinel: Sentinel, tally: Tally
) -> Drawn:
    draw = drawn_once if batch[0].hires is None else drawn_twice
    made = draw(model, batch, supplies, sentinel, tally)
    figures, notes = effects(made.result, made.aids)
    pictures = [OnePicture(pixels, figures) for pixels in made.pixels]
    files = (*made.aids.files, *used_files(batch[0], supplies))
    told = (*made.aids.notes, *notes)
    return Drawn(pictures, made.result.plan, files, told, made.aids.outfit.facts)


def drawn_once(
    model: Model, batch: Sequence[Request], supplies: Supplies, sentinel: Sentinel, tally: Tally
) -> Edited:
    """The pictures of a batch drawn from noise alone, and what that took."""
    aids = equipped(model, batch[0], NOTHING, supplies)
    result = painted(model, batch, sentinel, tally, NOTHING, aids)
    images = [decoded(model, result.latents[k : k + 1], r, sentinel) for k, r in enumerate(batch)]
    return Edited([to_uint8(image)[0] for image in images], result, aids)


def _from_picture(
    model: Model, batch: Sequence[Request], supplies: Supplies, sentinel: Sentinel, tally: Tally
) -> Drawn:
    request = batch[0]
    assert request.source is not None
    work = work_of(request, model, supplies)
    tally.passes = request.source.loops
    for turn in range(request.source.loops):
        turned = [_turn(r, turn) for r in batch]
        drawn = edited_once(model, turned, work, supplies, sentinel, tally)
        if turn + 1 < request.source.loops:
            work = redrawn(work, drawn.pixels[0])
    figures, notes = effects(drawn.result, drawn.aids)
    pictures = []
    for pixels in drawn.pixels:
        whole, own = finished(request, work, pixels)
        pictures.append(OnePicture(whole, (*own, *figures)))
    return Drawn(
        pictures,
        drawn.result.plan,
        (*work.files, *drawn.aids.files, *used_files(request, supplies)),
        (*work.notes, *drawn.aids.notes, *notes),
        drawn.aids.outfit.facts,
    )


def _grown(
    model: Model, batch: Sequence[Request], supplies: Supplies, sentinel: Sentinel, tally: Tally
) -> Drawn:
    (request,) = batch
    canvas = Canvas(request, model, supplies)
    tally.passes = len(canvas.windows)
    notes: list[str] = [*canvas.notes]
    for window, turned in turns(request, canvas):
        work = canvas.work(window)
        drawn = edited_once(model, [turned], work, supplies, sentinel, tally)
        canvas.painted(turned, work, drawn.pixels[0])
        figures, told = effects(drawn.result, drawn.aids)
        notes += [note for note in (*drawn.aids.notes, *told) if note not in notes]
    pixels, own = canvas.result()
    files = (*drawn.aids.files, *used_files(request, supplies))
    grown = OnePicture(pixels, (*own, *figures))
    facts = drawn.aids.outfit.facts
    return Drawn([grown], drawn.result.plan, files, tuple(notes), facts)


def effects(result: Pass, aids: Aids) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """What CLIP guidance cost and how much each control changed the prediction, with a warning for
    a control that did nothing."""
    cost = result.plan.cost
    if cost.calls:
        seconds = Figure(name="CLIP guidance seconds", value=round(cost.seconds, 3))
        figures, notes = _controls_effects(result, aids)
        return (*figures, seconds), notes
    return _controls_effects(result, aids)


def _controls_effects(result: Pass, aids: Aids) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    if result.plan.gauge is None:
        return (), ()
    measured = {effect.net: effect for effect in result.plan.gauge.effects}
    figures, notes = [], []
    for control in aids.controls:
        label, effect = aids.labels[control.net], measured.get(control.net)
        if effect is None:
            notes.append(f"control {label} acted in no step: its start and end leave none.")
        elif effect.none:
            notes.append(f"control {label} changed nothing in the prediction.")
        if effect is not None:
            value = round(min(effect.change, 1e6), 6)
            figures.append(Figure(name=f"change by control {label}", value=value))
    return tuple(figures), tuple(notes)


def _turn(request: Request, turn: int) -> Request:
    """The request of one loop: the next seed, and a strength on the way to the last."""
    source = request.source
    assert source is not None and request.seed is not None
    if source.last_strength is None or source.loops == 1:
        strength = source.strength
    else:
        share = turn / (source.loops - 1)
        strength = source.strength + share * (source.last_strength - source.strength)
    return request.replace(
        seed=request.seed + turn, source=source.replace(strength=strength, loops=1)
    )


def used_files(request: Request, supplies: Supplies) -> tuple[UsedFile, ...]:
    """The pictures and upscalers that a request names, as its recipe remembers them."""
    pictures = [file for file in named_files(request) if file.is_picture]
    used = (used_picture(file.role, file.name, supplies.picture(file.name)) for file in pictures)
    return (*used, *used_upscalers(request))
