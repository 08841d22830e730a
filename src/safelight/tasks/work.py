"""The pixel side of drawing on a picture: what is drawn on, and how the result goes back into it.

H W: of the picture that is given back; h w: of what is drawn, the request's size.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from safelight.canvas.arrays import Mask, Pixels, size_of
from safelight.canvas.colour import corrected, matched
from safelight.canvas.continuation import continued
from safelight.canvas.feather import feathered
from safelight.canvas.fill import bled
from safelight.canvas.masks import (
    blurred,
    by_transparency,
    grown,
    hardened,
    inverted,
    read_mask,
    shrunk,
)
from safelight.canvas.paste import pasted
from safelight.canvas.region import Region, only_masked, whole
from safelight.canvas.resize import mask_resized_by, resized, resized_by
from safelight.canvas.seam import Seam, seam
from safelight.clip.heat_map import THRESHOLD, text_mask
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.edits import Mask as MaskSettings
from safelight.tasks.enlarging import brought_to
from safelight.tasks.recipe import Figure, UsedFile
from safelight.tasks.request import Request
from safelight.tasks.seeing import clip_files, clip_of
from safelight.tasks.supplies import Supplies
from safelight.tasks.windows import wrap_of

CONTENTS = {"fill": bled, "context": continued}  # the others are made of latents
MOST = 2.25  # times the area that a model was made for: larger pictures are worked on at that area


@dataclass(frozen=True, eq=False)
class Work:
    """A picture made ready to be drawn on.

    pixels: (h, w, 3) at the size that is drawn, masked content filled in.
    source_pixels: the same, or the picture at its own size where latents are resized instead.
    place: (h, w) which of them are painted.
    frame: (H, W, 3) what the result is put into; mask: (H, W) how much of each pixel it replaces;
        region: where in the frame the drawn pixels belong.
    """

    pixels: Pixels
    source_pixels: Pixels
    frame: Pixels
    region: Region
    place: Mask | None = None
    mask: Mask | None = None
    factor: int = 8  # pixels in a latent's width
    notes: tuple[str, ...] = ()
    files: tuple[UsedFile, ...] = ()  # of weights that made the mask


def working_size_of(request: Request, model: Model, supplies: Supplies) -> tuple[int, int]:
    """Width and height to draw at if the request leaves them open.

    The picture's own size, or `scale` of it, in whole latents; the model's for a masked area, and
    with the picture's aspect for pictures of more than `MOST` times its area that are seen as a
    whole. Four times its own for a model that draws so. Raises RequestError for another scale.
    """
    assert request.source is not None
    side, factor = model.family.native_size, model.codec.factor
    if request.mask is not None and request.mask.area == "masked":
        return side, side
    picture = supplies.picture(request.source.picture)
    width, height = size_of(picture.pixels)
    scale = request.source.scale or 1.0
    if model.family.task == "upscale":
        scale = float(factor)
        if request.source.scale not in (None, scale):
            raise RequestError(
                f"{model.family.label} makes pictures {factor} times as large; leave source.scale "
                "out, or make it another size with an upscaler of pixels."
            )
        if request.source.loops > 1:
            raise RequestError(
                f"{model.family.label} makes a picture larger once; leave source.loops out."
            )
        return _whole(width * scale, 2 * factor), _whole(height * scale, 2 * factor)
    if request.source.scale is not None or request.tiles is not None:
        return _whole(width * scale, factor), _whole(height * scale, factor)
    if width * height > MOST * side * side:
        scale = side / (width * height) ** 0.5
    up = request.mask is not None and scale == 1
    return _whole(width * scale, factor, up=up), _whole(height * scale, factor, up=up)


def work_of(request: Request, model: Model, supplies: Supplies) -> Work:
    """The request's picture and mask, ready to be drawn on.

    Raises FileError for a file that cannot be used, RequestError for a mask of another size.
    """
    source = request.source
    assert source is not None and request.width is not None and request.height is not None
    size = (request.width, request.height)
    opened = supplies.picture(source.picture)
    notes = [f"{source.picture}: {note}" for note in opened.notes]
    if request.mask is None:
        if opened.alpha is not None and opened.alpha.min() < 255:
            notes.append(
                f"{source.picture} is transparent in places, which is not looked at; "
                "mask-alpha paints there."
            )
        if source.resize == "latent":
            own = whole_latents(opened.pixels, model.codec.factor)
            at_size = resized(opened.pixels, size)
            return Work(at_size, own, at_size, whole(size), notes=tuple(notes))
        pixels = brought_to(
            opened.pixels,
            size,
            source.resize,
            source.upscaler,
            supplies,
            model.device,
            wrap=wrap_of(request),
        )
        return Work(pixels, pixels, pixels, whole(size), notes=tuple(notes))
    frame = opened.pixels
    found = mask_of(request, request.mask, model, supplies)
    mask = found.mask
    notes += found.notes
    if source.resize in ("crop", "fill"):
        frame = resized_by(source.resize, frame, size)
        mask = mask_resized_by(source.resize, mask, size)
    if not mask.any():
        notes.append("the mask is empty: nothing is painted.")
    elif mask.all() and mask.min() == 1:
        notes.append("the mask covers the whole picture: all of it is painted.")
    work = masked(frame, mask, request.mask, size, model.codec.factor, tuple(notes))
    return replace(work, files=found.files)


def masked(
    frame: Pixels,
    mask: Mask,
    wanted: MaskSettings,
    size: tuple[int, int],
    factor: int,
    notes: tuple[str, ...],
) -> Work:
    """A picture and the mask of what is painted of it, at the size that is drawn."""
    laid = soft_edged(mask, wanted)
    region = whole(size_of(frame))
    if wanted.area == "masked":
        region = only_masked(mask, size, wanted.padding) or region
    content = CONTENTS[wanted.content](frame, mask) if wanted.content in CONTENTS else frame
    cut, place = region.of(content), region.of(mask if wanted.soft else laid)
    missing = _missing(region.size, size, factor)
    if missing is None:
        pixels, place = resized(cut, size), mask_resized_by("just", place, size)
    else:
        pixels, place = np.pad(cut, (*missing, (0, 0)), mode="edge"), np.pad(place, missing)
    hard = place if wanted.soft else hardened(place, 1 / 255)
    return Work(
        pixels=np.ascontiguousarray(pixels),
        source_pixels=np.ascontiguousarray(pixels),
        frame=frame,
        region=region,
        place=hard,
        mask=laid,
        factor=factor,
        notes=notes,
    )


class FoundMask(NamedTuple):
    """A mask (H, W) at the size of its picture, what to say of it, and what was looked with."""

    mask: Mask
    notes: tuple[str, ...] = ()
    files: tuple[UsedFile, ...] = ()


def mask_of(request: Request, wanted: MaskSettings, model: Model, supplies: Supplies) -> FoundMask:
    """The mask that a request asks for, at the size of its picture, grown and inverted.

    Raises RequestError for a mask of another size than the picture's, or a text that names nothing
    in it.
    """
    assert request.source is not None
    opened = supplies.picture(request.source.picture)
    if wanted.picture is not None:
        given = supplies.picture(wanted.picture, "mask")
        if given.pixels.shape != opened.pixels.shape:
            raise RequestError(
                f"the mask {wanted.picture} has {given.pixels.shape[1]} x {given.pixels.shape[0]} "
                f"pixels and {request.source.picture} {opened.pixels.shape[1]} x "
                f"{opened.pixels.shape[0]}; draw it on that picture."
            )
        found = FoundMask(read_mask(given.pixels, given.alpha, wanted.reading))
    elif wanted.text is not None:
        pair = clip_of(request, model, supplies, "a mask by text")
        seen = text_mask(pair, opened.pixels, wanted.text, threshold=wanted.threshold or THRESHOLD)
        found = FoundMask(seen.mask, (*pair.notes, *seen.warnings), clip_files(pair))
    else:
        if opened.alpha is None:
            raise RequestError(
                f"{request.source.picture} has no transparency to be its mask; give the mask as a "
                "picture."
            )
        found = FoundMask(by_transparency(opened.pixels, opened.alpha))
    mask = inverted(found.mask) if wanted.invert else found.mask
    mask = grown(mask, wanted.grow) if wanted.grow >= 0 else shrunk(mask, -wanted.grow)
    return found._replace(mask=mask)


def soft_edged(mask: Mask, wanted: MaskSettings) -> Mask:
    """How much of each pixel is replaced: the mask with its soft border.

    A soft mask's greys are already mixed where it was painted: all that is not black is replaced.
    """
    if wanted.soft:
        mask = hardened(mask, 1 / 255)
    if wanted.edge == "across":
        return blurred(mask, wanted.blur)
    return feathered(mask, wanted.blur)


def finished(request: Request, work: Work, drawn: Pixels) -> tuple[Pixels, tuple[Figure, ...]]:
    """The picture that is given back, of drawn pixels (h, w, 3), and what was measured on it."""
    source = request.source
    assert source is not None
    if source.colour_correction and drawn is not work.pixels:
        drawn = corrected(drawn, work.pixels)
    if work.mask is None:
        return drawn, ()
    if not work.mask.any():
        return work.frame.copy(), ()
    width, height = work.region.size
    if _missing(work.region.size, size_of(drawn), work.factor) is not None:
        drawn = drawn[:height, :width]
    elif size_of(drawn) != work.region.size:
        drawn = resized(drawn, work.region.size)
    whole_frame = work.frame.copy()
    whole_frame[work.region.slices] = drawn
    if request.mask is not None and request.mask.match_colour:
        whole_frame = matched(whole_frame, work.frame, work.mask)
    result = pasted(work.frame, whole_frame, work.mask)
    found = seam(result, work.mask, work.frame)
    return result, (seam_figure(found),)


def seam_figure(found: Seam) -> Figure:
    """A seam as a recipe remembers it."""
    return Figure(name="seam", value=round(found.ratio, 3), words=found.words)


def redrawn(work: Work, pixels: Pixels) -> Work:
    """The same work begun from pixels (h, w, 3) that were drawn."""
    return replace(work, pixels=pixels, source_pixels=pixels)


def whole_latents(pixels: Pixels, factor: int) -> Pixels:
    """The picture at the nearest size that is a whole number of latents."""
    width, height = size_of(pixels)
    return resized(pixels, (_whole(width, factor), _whole(height, factor)))


def _whole(length: float, factor: int, *, up: bool = False) -> int:
    cells = -(-length // factor) if up else round(length / factor)
    return max(int(cells), 1) * factor


def _missing(
    inner: tuple[int, int], outer: tuple[int, int], factor: int
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Rows and columns to add to fill up the last latent; None if the sizes are further apart."""
    right, below = outer[0] - inner[0], outer[1] - inner[1]
    if 0 <= right < factor and 0 <= below < factor:
        return (0, below), (0, right)
    return None
