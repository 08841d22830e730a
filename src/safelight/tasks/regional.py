"""Prompts that count in places: where each of a request's regions lies, and what is drawn there.

Shapes: h w latent height and width.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from safelight.canvas.masks import read_mask
from safelight.canvas.resize import mask_resized_by
from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.guidance import regions
from safelight.diffusion.guidance.areas import Area, Box, parse_box, region_masks
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.large import Region
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.tasks.windows import wrap_of

FEATHER = 8  # an edge goes from 1 to 0 over an eighth of the smaller side unless told


def places_of(request: Request, model: Model, supplies: Supplies) -> tuple[Tensor, ...]:
    """How much each region's prompt counts at each latent, (1, 1, h, w); last that of the rest.

    Empty without regions. Raises RequestError for a box that cannot be read or reaches outside,
    FileError for a mask that cannot be used.
    """
    if not request.regions:
        return ()
    assert request.width is not None and request.height is not None
    size = (request.width, request.height)
    if model.network.observer is not None:
        raise RequestError(
            "word maps follow one prompt, and regions have their own; leave the regions out."
        )
    feather = min(size) // FEATHER if request.feather is None else request.feather
    wrap = wrap_of(request)
    masks = region_masks(
        [_area(region, size, supplies) for region in request.regions],
        *size,
        factor=model.codec.factor,
        feather=feather,
        weights=[region.weight for region in request.regions],
        background=request.background,
        wrap_x=wrap.x,
        wrap_y=wrap.y,
    )
    for number, mask in enumerate(masks[:-1]):
        if not mask.any():
            raise RequestError(
                f"regions.{number} is empty: its place holds nothing of the picture."
            )
    return tuple(mask.to(model.device) for mask in masks)


def requests_of(request: Request) -> list[Request]:
    """The request of each region, with its own words; last that of the rest, which is its own."""
    own = [
        request.replace(
            prompt=region.prompt,
            negative_prompt=request.negative_prompt
            if region.negative_prompt is None
            else region.negative_prompt,
            regions=(),
            feather=None,
            background=0.0,
        )
        for region in request.regions
    ]
    return [*own, request]


def side_by_side(
    places: Sequence[Tensor], draw: Callable[[int, Tensor | None], Denoise]
) -> Denoise:
    """The denoisers of all regions as one; `draw` makes that of a number and the place it has.

    A prompt that has no place at all is not asked. Without regions, the last is all.
    """
    if not places:
        return draw(-1, None)
    seen = [number for number, place in enumerate(places) if place.any()]
    return regions([(draw(number, places[number][0, 0]), places[number]) for number in seen])


def unplaced(request: Request, places: Sequence[Tensor]) -> tuple[str, ...]:
    """What to say of a prompt of the picture that regions leave no place."""
    if not places or places[-1].any() or not request.prompt.strip():
        return ()
    return ("the prompt of the picture has no place: its regions cover all of it.",)


def in_parts(regions_: Sequence[Region], size: tuple[int, int]) -> tuple[Region, ...]:
    """The same regions with their boxes in parts of the picture of this size, not in pixels.

    Raises RequestError for a box that cannot be read.
    """
    return tuple(
        region
        if region.box is None
        else region.replace(box=_parts(parse_box(region.box, *size), size))
        for region in regions_
    )


def _parts(box: Box, size: tuple[int, int]) -> str:
    width, height = size
    edges = (box.left / width, box.top / height, box.right / width, box.bottom / height)
    return ",".join(f"{edge:.9f}" for edge in edges)


def _area(region: Region, size: tuple[int, int], supplies: Supplies) -> Area:
    if region.box is not None:
        return parse_box(region.box, *size)
    assert region.mask is not None, "checked by the region"
    given = supplies.picture(region.mask, "region mask")
    return mask_resized_by("just", read_mask(given.pixels, given.alpha), size)
