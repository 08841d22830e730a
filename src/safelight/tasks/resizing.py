"""Making a picture larger without drawing: no model and no noise, yet a recipe that replays.

Sizes are (width, height).
"""

import time

import torch

from safelight.canvas.arrays import size_of
from safelight.engines.placement import dtype_name, resolve_device
from safelight.errors import RequestError
from safelight.tasks.enlarging import Size, brought_to, upscaler_of, used_upscalers
from safelight.tasks.large import is_plain
from safelight.tasks.picture import Picture
from safelight.tasks.picture_file import PIXEL_LIMIT, InputPicture
from safelight.tasks.recipe import Recipe, Result, Software, pixels_sha256
from safelight.tasks.request import Request
from safelight.tasks.software import software_on
from safelight.tasks.supplies import Supplies, used_picture
from safelight.tasks.windows import wrap_of

NOTHING = "none"  # the sampler and the schedule of a picture that was not drawn


def made_larger(request: Request, supplies: Supplies | None = None) -> Picture:
    """The picture that a request without `source.redraw` asks for; its count has no say.

    A network's own scale is taken if neither scale nor size is given. Raises FileError or
    CheckpointError for a file that cannot be used, RequestError if no size is known or the request
    asks for a drawing.
    """
    source = request.source
    if source is None or source.redraw:
        raise RequestError("a drawing needs a model; without one, pictures are only made larger.")
    began = time.perf_counter()
    supplies, device = supplies or Supplies(), resolve_device(request.device)
    opened = supplies.picture(source.picture)
    size = _size(request, opened, supplies, device)
    pixels = brought_to(
        opened.pixels,
        size,
        source.resize,
        source.upscaler,
        supplies,
        device,
        wrap=wrap_of(request),
    )
    notes = _notes(source.picture, opened)
    settled = request.replace(seed=max(request.seed or 0, 0), subseed=None).spelled_out()
    recipe = Recipe(
        request=settled.replace(count=1, batch=1),
        files=(
            used_picture("source", source.picture, opened),
            *used_upscalers(request),
        ),
        software=_software(request, supplies, device),
        result=Result(
            pixels_sha256=pixels_sha256(pixels),
            steps=0,
            sampler=NOTHING,
            schedule=NOTHING,
            warnings=notes,
            size=size,
        ),
        seconds=round(time.perf_counter() - began, 3),
    )
    return Picture(pixels, recipe, notes)


def _size(request: Request, opened: InputPicture, supplies: Supplies, device: torch.device) -> Size:
    source, own = request.source, size_of(opened.pixels)
    assert source is not None
    sides = (request.width, request.height)
    scale = source.scale
    if scale is not None and sides != (None, None):
        raise RequestError(
            "source.scale, and width and height, both say how large; leave one of them out."
        )
    if scale is None and sides == (None, None):
        if source.upscaler is None or is_plain(source.upscaler):
            raise RequestError("say how large: source.scale 2, or a width and height.")
        scale = upscaler_of(source.upscaler, supplies, device).scale
    if scale is not None:
        size = (max(round(own[0] * scale), 1), max(round(own[1] * scale), 1))
    else:
        width, height = sides
        assert width is not None or height is not None
        size = (
            width or max(round(own[0] * (height or 1) / own[1]), 1),
            height or max(round(own[1] * (width or 1) / own[0]), 1),
        )
    if size[0] * size[1] > PIXEL_LIMIT:
        raise RequestError(
            f"{size[0]} x {size[1]} is too large: pictures of up to {PIXEL_LIMIT} pixels are made."
        )
    return size


def _notes(name: str, opened: InputPicture) -> tuple[str, ...]:
    notes = [f"{name}: {note}" for note in opened.notes]
    if opened.alpha is not None and opened.alpha.min() < 255:
        notes.append(f"{name} is transparent in places, which is not kept.")
    return tuple(notes)


def _software(request: Request, supplies: Supplies, device: torch.device) -> Software:
    source = request.source
    assert source is not None
    if source.upscaler is None or is_plain(source.upscaler):
        return software_on(device, "uint8")
    return software_on(device, dtype_name(upscaler_of(source.upscaler, supplies, device).dtype))
