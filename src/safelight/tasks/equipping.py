"""A request's further networks, opened and checked against its model."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from safelight.adapters.image_prompts import ImagePromptAdapter, place_mask, prompt_pair, tokens
from safelight.canvas.masks import read_mask
from safelight.canvas.resize import mask_resized_by, resized_by
from safelight.checkpoints.folders import find_weights
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.image_prompt_file import load_image_prompt
from safelight.checkpoints.library import find_model
from safelight.checkpoints.vision_folder import FOLDER, has_clip_vision
from safelight.clip.score import wanted as direction
from safelight.clip.words import plain_words
from safelight.condition import ImagePrompt, ReferencePicture
from safelight.diffusion.samplers import resolve_sampler
from safelight.engines.sentinel import watch
from safelight.errors import RequestError
from safelight.model import FileRecord, Model
from safelight.models.control_modes import sigma_range
from safelight.tasks.adapting import outfit_of, worded
from safelight.tasks.aids import Aids, ClipAid
from safelight.tasks.controlling import controlled
from safelight.tasks.edits import ImagePrompt as WantedPrompt
from safelight.tasks.edits import Reference
from safelight.tasks.painting import as_images, encoded
from safelight.tasks.placing import opened_beside
from safelight.tasks.plan import levels
from safelight.tasks.recipe import UsedFile
from safelight.tasks.regional import places_of
from safelight.tasks.request import Request
from safelight.tasks.seeing import clip_files, clip_of
from safelight.tasks.stage import Stage
from safelight.tasks.supplies import Supplies
from safelight.tasks.work import Work


def equipped(
    model: Model, request: Request, stage: Stage, supplies: Supplies, work: Work | None = None
) -> Aids:
    """All that helps with one pass of a request.

    Raises FileError or CheckpointError for a file that cannot be used, RequestError for what does
    not go with the model.
    """
    places = places_of(request, model, supplies)
    helped = (
        request.controls,
        request.image_prompts,
        request.references,
        request.refiner,
        request.clip_guidance,
        request.loras,
        request.embeddings,
        request.hypernetworks,
    )
    if not any(helped):
        return Aids(places=places)
    _, sigmas = levels(model, request, resolve_sampler(request.sampler), stage)
    controls = [
        controlled(request, asked, f"control_{k}", model, sigmas, supplies, work)
        for k, asked in enumerate(request.controls)
    ]
    prompts = [
        prompted(request, asked, f"image_{k}", model, sigmas, supplies)
        for k, asked in enumerate(request.image_prompts)
    ]
    references = [referred(request, asked, model, sigmas, supplies) for asked in request.references]
    clip = clip_aid(request, model, sigmas, supplies)
    outfit = outfit_of(request, model, sigmas, supplies)
    refiner = refiner_of(request, model, supplies)
    if refiner is not None:
        refiner = worded(refiner, request, supplies)
    files = [file for c in controls for file in used_files("control", c.loaded.files)]
    files += [file for p in prompts for file in p.files]
    files += outfit.files
    if clip is not None:
        files += clip_files(clip.pair)
    if refiner is not None:
        files += used_files("refiner", refiner.files)
    return Aids(
        controls=tuple(c.control for c in controls),
        negative_controls=tuple(c.control for c in controls if c.on_negative),
        images=tuple(p.positive for p in prompts),
        negative_images=tuple(p.negative for p in prompts),
        references=tuple(one for one, _ in references),
        negative_references=tuple(one for _, one in references),
        networks={c.name: c.loaded.network for c in controls},
        adapters=tuple((p.name, p.adapter) for p in prompts),
        labels={c.name: c.loaded.name for c in controls},
        places=places,
        clip=clip,
        outfit=outfit,
        refiner=refiner,
        refiner_below=0.0
        if request.refiner is None
        else switch_level(model, request.refiner.switch),
        files=tuple(files),
        notes=(
            *(note for c in controls for note in c.notes),
            *(() if clip is None else clip.pair.notes),
            *outfit.notes,
        ),
    )


def referred(
    request: Request, asked: Reference, model: Model, sigmas: Tensor, supplies: Supplies
) -> tuple[ReferencePicture, ReferencePicture]:
    """A reference for the positive and for the negative condition.

    Its noise is the same for every picture and at every level: a drawing depends on its own seed
    alone. Raises FileError for a picture that cannot be used.
    """
    assert request.width is not None and request.height is not None
    opened = supplies.picture(asked.picture, "reference").pixels
    pixels = resized_by(asked.resize, opened, (request.width, request.height))
    with watch(model.placement) as sentinel:
        images = as_images([torch.from_numpy(pixels)])
        latents = encoded(model, images, request, sentinel)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    high, low = sigma_range(sigmas.tolist(), asked.start, asked.end)
    positive = ReferencePicture(latents, noise, latents.new_ones(1), asked.weight, high, low)
    share = latents.new_full((1,), 1 - asked.fidelity)
    return positive, replace(positive, share=share)


def clip_aid(request: Request, model: Model, sigmas: Tensor, supplies: Supplies) -> ClipAid | None:
    """The CLIP that guides a request at these noise levels (N + 1,), if one is asked to.

    Raises RequestError for a prompt without words, FileError or CheckpointError for a CLIP that
    cannot be used.
    """
    guidance = request.clip_guidance
    if guidance is None:
        return None
    pair = clip_of(request, model, supplies, "CLIP guidance")
    text = guidance.text
    if text is None:
        text = plain_words(request.prompt, dialect=request.dialect, steps=request.steps)
    if not text.strip():
        raise RequestError("CLIP guidance has no words to climb towards; give clip_guidance.text.")
    high, low = sigma_range(sigmas.tolist(), guidance.start, guidance.end)
    return ClipAid(pair, direction(pair, [(text, 1.0)]), guidance, high, low)


@dataclass(frozen=True)
class Prompted:
    """One image prompt of a request: what conditions are told of it."""

    name: str
    adapter: ImagePromptAdapter
    positive: ImagePrompt
    negative: ImagePrompt
    files: tuple[UsedFile, ...]


def prompted(
    request: Request,
    wanted: WantedPrompt,
    name: str,
    model: Model,
    sigmas: Tensor,
    supplies: Supplies,
) -> Prompted:
    """An image prompt made ready for this model and these noise levels (N + 1,).

    Raises FileError or CheckpointError if its adapter or vision tower cannot be used.
    """
    assert request.width is not None and request.height is not None
    path = find_model(wanted.adapter)
    vision = None if wanted.vision is None else find_model(wanted.vision)
    adapter = supplies.kept(
        ("image prompt", path, vision, model.dtype, model.device),
        lambda: load_image_prompt(path, vision=vision, dtype=model.dtype, device=model.device),
    )
    pictures = [supplies.picture(p, "image prompt").pixels for p in wanted.pictures]
    mask = None
    if wanted.mask is not None:
        given = supplies.picture(wanted.mask, "mask")
        at_size = (request.width, request.height)
        whole = mask_resized_by("just", read_mask(given.pixels, given.alpha), at_size)
        factor = model.codec.factor
        mask = place_mask(whole, (at_size[1] // factor, at_size[0] // factor)).to(model.device)
    high, low = sigma_range(sigmas.tolist(), wanted.start, wanted.end)
    pair = prompt_pair(
        name, tokens(adapter, pictures), scale=wanted.scale, mask=mask, high=high, low=low
    )
    own, tower = adapter.files
    used = [
        UsedFile(role=role, name=file.name, sha256=sha256(file), size=file.stat().st_size)
        for role, files in (("image adapter", [own]), ("image encoder", _weights(tower)))
        for file in files
    ]
    return Prompted(name, adapter, pair.positive, pair.negative, tuple(used))


def _weights(place: Path) -> list[Path]:
    """The file of a vision tower, or those that were read of its folder."""
    if place.is_file():
        return [place]
    inner = place / FOLDER if has_clip_vision(place) else place
    return find_weights(inner, "model")


def refiner_of(request: Request, model: Model, supplies: Supplies) -> Model | None:
    """The request's second model, on the first one's device. Raises RequestError if it cannot go on
    from the first one's latents."""
    if request.refiner is None:
        return None
    path = find_model(request.refiner.model)
    second = supplies.kept(
        ("model", path, model.dtype, model.device, model.engine, id(model.placement)),
        lambda: opened_beside(path, model),
    )
    own, other = model.codec, second.codec
    if (own.channels, own.factor) != (other.channels, other.factor):
        raise RequestError(
            f"the refiner {request.refiner.model} is {second.family.label}, whose latents are not "
            f"those of {model.family.label}; take one made for it."
        )
    if second.family.extra_channels:
        raise RequestError(
            f"the refiner {request.refiner.model} is {second.family.label}, which draws from more "
            "than latents and text; take a text-to-image model or SDXL's refiner."
        )
    return second


def switch_level(model: Model, share: float) -> float:
    """The sigma below which a refiner takes over: where `share` of the training times is done.

    A1111's and Diffusers' rule: the base draws down to time T (1 - share).
    """
    time = len(model.process.sigmas) * (1 - share)
    return float(model.process.sigma_of(max(time - 0.5, 0)))


def used_files(role: str, records: tuple[FileRecord, ...]) -> tuple[UsedFile, ...]:
    """The files of a further model, as a recipe remembers them."""
    return tuple(
        UsedFile(role=role, name=f.path.name, sha256=f.sha256, size=f.size) for f in records
    )
