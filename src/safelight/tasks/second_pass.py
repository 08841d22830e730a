"""The hires fix: a first pass, made larger, and a second one that draws over it.

A1111's rules: the second pass runs all of its steps at the end of a longer schedule, from fresh
noise of the same seeds at the new size; schedules in the prompt go on from the first pass; a
refiner helps the second pass alone.

Shapes: B pictures, C latent channels, h w latent height and width, H W pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from safelight.engines.sentinel import Sentinel
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.layers import Wrap
from safelight.tasks.editing import Edited
from safelight.tasks.enlarging import Pixels, enlarged_to
from safelight.tasks.equipping import equipped
from safelight.tasks.large import DOUBLE, LATENT_UPSCALERS, Hires
from safelight.tasks.painting import Pass, Tally, as_images, decoded, encoded, painted
from safelight.tasks.picture import to_uint8
from safelight.tasks.regional import in_parts
from safelight.tasks.request import Request
from safelight.tasks.stage import NOTHING, Stage
from safelight.tasks.supplies import Supplies
from safelight.tasks.windows import check_seamless, windows_of, wrap_of
from safelight.upscalers.latent import Growth, enlarged_latents, growth, second_steps

SIDE = 8  # sides of a request are multiples of it, whatever the autoencoder


def check_large(request: Request, model: Model) -> int:
    """How many pixels the largest pass has, once all is known to fit.

    Raises RequestError for windows, boxes, a second pass or a seamless size that cannot be drawn.
    """
    assert request.width is not None and request.height is not None
    windows_of(request, model)
    sizes = [(request.width, request.height)]
    if request.hires is not None:
        second = second_of(request, model)
        assert second.width is not None and second.height is not None
        sizes.append((second.width, second.height))
    in_parts(request.regions, sizes[0])
    for width, height in sizes:
        check_seamless(request, model, width, height)
    return max(width * height for width, height in sizes)


def growth_of(request: Request, model: Model) -> Growth:
    """What the first pass grows to. Raises RequestError where that is too small to be drawn."""
    hires = request.hires
    assert hires is not None and request.width is not None and request.height is not None
    size, factor = (request.width, request.height), max(model.codec.factor, SIDE)
    if hires.size is None:
        return growth(size, scale=hires.scale or DOUBLE, factor=factor)
    return growth(size, width=hires.size[0], height=hires.size[1], factor=factor)


def second_of(request: Request, model: Model) -> Request:
    """The request of the second pass. Raises RequestError for regions that would be cut."""
    hires, grown = request.hires, growth_of(request, model)
    assert hires is not None and request.width is not None and request.height is not None
    if request.regions and grown.frame != grown.size:
        raise RequestError(
            "hires.size cuts the picture, and regions say places in all of it; give hires.scale."
        )
    size = (request.width, request.height)
    feather = request.feather
    if feather is not None:
        feather = round(feather * grown.frame[0] / size[0])
    changes: dict[str, object] = dict(_given(hires))
    return request.replace(
        **changes,
        hires=None,
        width=grown.frame[0],
        height=grown.frame[1],
        steps=second_steps(request.steps, hires.steps),
        regions=in_parts(request.regions, size),
        feather=feather,
    )


def drawn_twice(
    model: Model,
    batch: Sequence[Request],
    supplies: Supplies,
    sentinel: Sentinel,
    tally: Tally,
) -> Edited:
    """The pictures of a batch with a second pass, and what that took.

    At strength 0 there is none: the first one's pictures come back larger.
    """
    hires = batch[0].hires
    assert hires is not None
    again = hires.strength > 0
    tally.passes = 1 + again
    firsts = [r.replace(hires=None, refiner=None if again else r.refiner) for r in batch]
    seconds = [second_of(r, model) for r in batch]
    aids = equipped(model, firsts[0], NOTHING, supplies)
    first = painted(model, firsts, sentinel, tally, NOTHING, aids)
    grown = growth_of(batch[0], model)
    if hires.upscaler in LATENT_UPSCALERS:
        wrap = wrap_of(batch[0])
        latents = _larger_latents(first.latents, grown, hires.upscaler, model.codec.factor, wrap)
    else:
        small = [
            decoded(model, first.latents[k : k + 1], r, sentinel) for k, r in enumerate(firsts)
        ]
        pixels = [_larger(to_uint8(image)[0], grown, batch[0], model, supplies) for image in small]
        if not again:
            return Edited([_middle(one, grown) for one in pixels], first, aids)
        images = [as_images([torch.from_numpy(one)]) for one in pixels]
        coded = [encoded(model, image, seconds[0], sentinel) for image in images]
        latents = grown.cut(torch.cat(coded), model.codec.factor)
    if again:
        stage = Stage(latents, hires.strength, "a1111_exact", earlier_steps=batch[0].steps)
        aids = equipped(model, seconds[0], stage, supplies)
        second = _with_warnings(painted(model, seconds, sentinel, tally, stage, aids), first)
    else:
        second = Pass(latents, first.plan)
    made = [decoded(model, second.latents[k : k + 1], r, sentinel) for k, r in enumerate(seconds)]
    return Edited([to_uint8(image)[0] for image in made], second, aids)


def _given(hires: Hires) -> Iterator[tuple[str, object]]:
    """The settings that the second pass has of its own."""
    for name in ("prompt", "negative_prompt", "cfg_scale", "sampler", "schedule"):
        value = getattr(hires, name)
        if value is not None:
            yield name, value


def _larger_latents(latents: Tensor, grown: Growth, name: str, factor: int, wrap: Wrap) -> Tensor:
    """Latents (B, C, h, w) interpolated to what they grow to, and cut."""
    width, height = (side // factor for side in grown.size)
    if latents.shape[2:] == (height, width):
        return grown.cut(latents, factor)
    # three of them side by side: what is between meets its other end on both sides
    across, down = 3 if wrap.x else 1, 3 if wrap.y else 1
    several = latents.repeat(1, 1, down, across)
    larger = enlarged_latents(several, height * down, width * across, name)
    top, left = height * (down // 2), width * (across // 2)
    return grown.cut(larger[:, :, top : top + height, left : left + width], factor)


def _larger(
    pixels: Pixels, grown: Growth, request: Request, model: Model, supplies: Supplies
) -> Pixels:
    assert request.hires is not None
    return enlarged_to(
        pixels,
        grown.size,
        request.hires.upscaler,
        supplies,
        model.device,
        wrap=wrap_of(request),
    )


def _middle(pixels: Pixels, grown: Growth) -> Pixels:
    """The middle of pixels of `size` that is the frame."""
    (width, height), (along, down) = grown.frame, grown.size
    top, left = (down - height) // 2, (along - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _with_warnings(second: Pass, first: Pass) -> Pass:
    """The second pass, with what was to be said of the first."""
    wording = second.plan.wording
    warnings = dict.fromkeys((*first.plan.wording.warnings, *wording.warnings))
    told = replace(wording, warnings=tuple(warnings))
    return Pass(second.latents, replace(second.plan, wording=told))
