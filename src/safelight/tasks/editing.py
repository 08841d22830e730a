"""Drawing on a picture: image to image, inpainting, instruct-pix2pix, depth to image.

Each differs from drawing from text in what it starts from (`Stage`) and in how its pixels are put
back (`Work`); the sampling is the same. Shapes: B pictures, C latent channels, h w latent height
and width, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.canvas.latent_mask import latent_mask
from safelight.engines.sentinel import Sentinel
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.aids import Aids
from safelight.tasks.equipping import equipped
from safelight.tasks.painting import Pass, Tally, as_images, decoded, encoded, painted
from safelight.tasks.picture import to_uint8
from safelight.tasks.request import Request
from safelight.tasks.stage import Stage
from safelight.tasks.supplies import Supplies
from safelight.tasks.work import Work
from safelight.tasks.x4 import small_stage

Pixels = NDArray[np.uint8]


class Edited(NamedTuple):
    """Pixels (h, w, 3) of each picture of a batch, the pass they took and what helped."""

    pixels: list[Pixels]
    result: Pass
    aids: Aids


def edited_once(
    model: Model,
    batch: Sequence[Request],
    work: Work,
    supplies: Supplies,
    sentinel: Sentinel,
    tally: Tally,
) -> Edited:
    """The pictures of a batch at working size, drawn on one picture.

    Nothing is drawn where nothing may change: at strength 0, or under an empty mask.
    """
    request = batch[0]
    if model.family.task == "upscale":
        stage = small_stage(model, batch, work, supplies)
    else:
        stage = stage_of(model, request, work, supplies, sentinel)
    aids = equipped(model, request, stage, supplies, work)
    drawn = painted(model, batch, sentinel, tally, stage, aids)
    if stage.strength == 0:
        return Edited([work.pixels] * len(batch), drawn, aids)
    images = [decoded(model, drawn.latents[k : k + 1], r, sentinel) for k, r in enumerate(batch)]
    return Edited([to_uint8(image)[0] for image in images], drawn, aids)


def stage_of(
    model: Model, request: Request, work: Work, supplies: Supplies, sentinel: Sentinel
) -> Stage:
    """What the model starts from. Raises RequestError for a model that cannot use it."""
    source = request.source
    assert source is not None
    idle = source.strength == 0 or (work.mask is not None and not work.mask.any())
    plain = Stage(
        latents=_latents(model, request, work, sentinel),
        strength=0.0 if idle else source.strength,
        rule=source.strength_rule,
        # Diffusers does so where it repaints, and not where it changes a whole picture
        afresh=work.mask is not None
        and source.strength_rule == "diffusers"
        and source.strength == 1,
    )
    place = None
    if work.place is not None:
        rule = "average" if _is_soft(request) else "cover"
        small = latent_mask(work.place, model.codec.factor, rule)
        place = torch.from_numpy(small)[None, None].to(model.device)
    match model.family.task:
        case "text" | "refine":
            return _on_mask(plain, request, place)
        case "inpaint":
            # such a model is told what to keep: it is not held to it as well
            begun = replace(_on_mask(plain, request, place), place=None, soft=False)
            return replace(begun, extra=masked_picture(model, request, work, place, sentinel))
        case "depth":
            depth = depth_map(model, request, supplies)
            return replace(_on_mask(plain, request, place), extra=depth)
        case "edit":
            return _told_picture(model, work, plain, sentinel)
        case _:
            raise RequestError(
                f"{request.model or 'the model'} is {model.family.label}, which does not draw "
                "over a picture; take a text-to-image or inpainting model."
            )


def _on_mask(stage: Stage, request: Request, place: Tensor | None) -> Stage:
    """The stage with its mask, and the masked part as it is to begin (A1111's masked contents)."""
    if place is None or stage.latents is None:
        return stage
    content = "original" if request.mask is None else request.mask.content
    if request.extend is not None and request.extend.fill == "noise":
        content = "noise"
    latents = stage.latents * (1 - place) if content == "nothing" else stage.latents
    noisy = place if content == "noise" else None
    return replace(stage, latents=latents, place=place, soft=_is_soft(request), noisy=noisy)


def _told_picture(model: Model, work: Work, stage: Stage, sentinel: Sentinel) -> Stage:
    """InstructPix2Pix draws from noise alone, and is told the picture besides the words."""
    if work.place is not None:
        raise RequestError(
            "InstructPix2Pix changes the whole picture; leave the mask out, or take another model."
        )
    raw = _raw(model, work, sentinel)
    if stage.strength == 0:
        return replace(stage, extra=raw, bare=torch.zeros_like(raw))
    return Stage(extra=raw, bare=torch.zeros_like(raw))


def masked_picture(
    model: Model, request: Request, work: Work, place: Tensor | None, sentinel: Sentinel
) -> Tensor:
    """What an inpainting model is told: the mask, and the latents of the picture without it.

    (1, 1 + C, h, w). Masked pixels are grey, which is 0; without a mask all are.
    """
    images = as_images([torch.from_numpy(work.pixels)])
    if work.place is None:
        images = torch.zeros_like(images)
    else:
        images = images * torch.from_numpy(work.place < 0.5)
    latents = encoded(model, images, request, sentinel)
    mask = torch.ones_like(latents[:, :1]) if place is None else (place >= 0.5).to(latents)
    return torch.cat([mask, latents], dim=1)


def depth_map(model: Model, request: Request, supplies: Supplies) -> Tensor:
    """(1, 1, h, w) in [-1, 1], near is 1: the request's map at the size of the latents.

    Raises RequestError if there is none, or if it is all of one depth.
    """
    if request.depth is None:
        raise RequestError(
            f"{model.family.label} draws along a depth map; give one with depth: a grey picture "
            "in which near is bright."
        )
    assert request.width is not None and request.height is not None
    grey = supplies.picture(request.depth, "depth map").pixels.mean(axis=2)
    size = (request.height // model.codec.factor, request.width // model.codec.factor)
    depth = torch.from_numpy(grey).float()[None, None]
    small = F.interpolate(depth, size, mode="bicubic", align_corners=False)
    low, high = small.min(), small.max()
    if high - low < 1e-3:
        raise RequestError(f"the depth map {request.depth} is all of one depth.")
    return (2 * (small - low) / (high - low) - 1).to(model.device)


def _latents(model: Model, request: Request, work: Work, sentinel: Sentinel) -> Tensor:
    """The picture's latents, stretched where the picture was not (A1111's latent resize)."""
    latents = encoded(model, as_images([torch.from_numpy(work.source_pixels)]), request, sentinel)
    size = [side // model.codec.factor for side in work.pixels.shape[:2]]
    if list(latents.shape[2:]) == size:
        return latents
    return F.interpolate(latents, size, mode="bilinear", align_corners=False)


def _raw(model: Model, work: Work, sentinel: Sentinel) -> Tensor:
    """The picture's latents as the autoencoder gives them, without the codec's scale."""
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    weight = next(model.codec.autoencoder.parameters())
    images = as_images([torch.from_numpy(work.pixels)]).to(model.device, weight.dtype)

    def encode() -> Tensor:
        own = model.codec.autoencoder
        return own.posterior(own.moments(images)).mode().float()

    return sentinel.run("VAE encoder", coder, encode)


def _is_soft(request: Request) -> bool:
    return request.mask is not None and request.mask.soft
