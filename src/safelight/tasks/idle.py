"""Settings that this model, or this kind of drawing, makes no use of: they are said."""

from collections.abc import Iterator

from safelight.model import Model
from safelight.tasks.edits import Mask, Source
from safelight.tasks.request import Request
from safelight.tasks.seeing import seen_with
from safelight.tasks.settings import Settings


def idle_settings(request: Request, model: Model) -> Iterator[str]:
    """A sentence for each setting that was changed and has no say in the picture."""
    task = model.family.task
    if request.depth is not None and task != "depth":
        yield "the depth map does nothing: this model draws along none; a control network may."
    if request.image_cfg_scale != _default(Request, "image_cfg_scale") and task != "edit":
        yield "image_cfg_scale is InstructPix2Pix's alone, and does nothing with this model."
    if request.noise_level != _default(Request, "noise_level") and task != "upscale":
        yield "noise_level is the x4 upscaler's alone, and does nothing with this model."
    if request.clip is not None and request.best_of == 1 and not seen_with(request):
        yield "clip is given and nothing is seen with it: no guidance, mask by text or best of."
    if request.source is not None:
        yield from _of_source(request, task)
    if request.mask is not None:
        yield from _of_mask(request, task)


def _of_source(request: Request, task: str) -> Iterator[str]:
    source = request.source
    assert source is not None
    if task == "edit" and source.strength not in (0, _default(Source, "strength")):
        yield "strength has no say with InstructPix2Pix: image_cfg_scale holds it to the picture."
    if source.last_strength is not None and source.loops == 1:
        yield "last_strength is that of the last of several loops; there is one."
    if request.mask is not None and source.resize == "latent":
        yield "resize latent has no say under a mask: the picture keeps its size."
    if request.extend is not None and source.resize != "just":
        yield f"resize {source.resize} has no say where the picture grows: it keeps its size."
    if request.extend is not None and source.colour_correction:
        yield "colour_correction has no say where the picture grows."


def _of_mask(request: Request, task: str) -> Iterator[str]:
    mask = request.mask
    assert mask is not None
    if mask.area == "whole" and mask.padding != _default(Mask, "padding"):
        yield "mask.padding has no say: it belongs to mask.area masked."
    if mask.reading is not None and mask.picture is None:
        yield "mask.reading has no say: the mask is no picture of its own."
    if mask.soft and task == "inpaint":
        yield "mask.soft does little with this model, which is told of each latent yes or no."


def _default(group: type[Settings], name: str) -> object:
    return group.model_fields[name].default
