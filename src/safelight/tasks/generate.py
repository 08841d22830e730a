"""Text to pictures: settle the request, plan a batch, take the steps, finish each picture."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from safelight.diffusion.samplers import resolve_sampler
from safelight.engines.placement import dtype_name
from safelight.engines.sentinel import Sentinel, watch
from safelight.errors import NonFiniteError, RequestError
from safelight.model import Model
from safelight.tasks.controlling import settled_controls
from safelight.tasks.drawing import Drawn, OnePicture, drawn, drawn_apart, working_size
from safelight.tasks.engaging import check_encodes, check_engine
from safelight.tasks.extending import settled_extension
from safelight.tasks.judging import judged
from safelight.tasks.lookup import looked_up
from safelight.tasks.painting import Tally, Watch
from safelight.tasks.picture import Picture
from safelight.tasks.recipe import Recipe, Result, Software, UsedFile, pixels_sha256
from safelight.tasks.request import Request
from safelight.tasks.resizing import made_larger
from safelight.tasks.reusing import check_thrift, saved_figures
from safelight.tasks.second_pass import check_large
from safelight.tasks.seeing import clip_of, seen_with
from safelight.tasks.software import software_on
from safelight.tasks.stable_name import stable_name
from safelight.tasks.supplies import Supplies

LARGE = 1536 * 1536  # pixels above which the autoencoder works in bands unless told otherwise


def generate(
    model: Model | None,
    requests: Request | Sequence[Request],
    *,
    watch_steps: Watch | None = None,
    supplies: Supplies | None = None,
) -> Iterator[Picture]:
    """Draw pictures; each is given out as soon as it is finished.

    `supplies` opens the pictures and further models that requests name, and keeps them for the
    next call; without it they are opened anew. A request with `count` n gives n pictures; several
    requests are drawn one after another. A request that only makes a picture larger needs no model
    (`Request.needs_model`), and gives one picture. Picture k has the noise of seed + k whatever the
    batch, and the same bits too if the request is exact, which it is by default in float32 on the
    CPU.
    Raises RequestError where settings and model do not fit, FileError for a file that cannot be
    used, NonFiniteError for a model that makes NaN in float32 too.
    """
    given = [requests] if isinstance(requests, Request) else list(requests)
    supplies = supplies or Supplies()
    if model is None or not any(request.needs_model for request in given):
        yield from (made_larger(request, supplies) for request in given)
        return
    singles = [single for request in given for single in settled(request, model, supplies)]
    done = 0
    for batch in batches(singles):
        yield from _drawn(model, batch, supplies, watch_steps, done)
        done += len(batch)


def draw_batch(
    model: Model,
    batch: Sequence[Request],
    supplies: Supplies,
    watch_steps: Watch | None = None,
) -> list[Picture]:
    """The pictures of settled single requests that may share a batch (`joining.joined`).

    What the watcher raises ends the drawing and leaves nothing behind. Raises as `generate`.
    """
    return _drawn(model, list(batch), supplies, watch_steps, 0)


def _drawn(
    model: Model,
    batch: list[Request],
    supplies: Supplies,
    watch_steps: Watch | None,
    done: int,
) -> list[Picture]:
    """The pictures of one batch, `done` ones after the first."""
    if batch[0].best_of > 1:
        return [_best(model, request, supplies, watch_steps, done) for request in batch]
    try:
        with watch(model.placement) as sentinel:
            tally = Tally(done, len(batch), watch_steps)
            return _batch(model, batch, supplies, sentinel, tally)
    except NonFiniteError as error:
        raise NonFiniteError(f"{_source(model, batch[0])}: {error}") from None


def _best(
    model: Model, request: Request, supplies: Supplies, watch_steps: Watch | None, done: int
) -> Picture:
    """Of the pictures with the next seeds the one that a CLIP finds to fit its prompt best.

    Its recipe is its own, with what the CLIP thought of it and among how many.
    """
    pair = clip_of(request, model, supplies, "the best of several")
    single = request.replace(best_of=1, count=request.best_of)
    if not seen_with(request):  # the CLIP chooses, and does not draw
        single = single.replace(clip=None)
    candidates = [
        picture
        for batch in batches(settled(single, model, supplies))
        for picture in _drawn(model, batch, supplies, watch_steps, done)
    ]
    scores = judged(
        [picture.pixels for picture in candidates],
        request.prompt,
        pair,
        dialect=request.dialect,
        steps=request.steps,
    )
    best = candidates[scores.best]
    result = best.recipe.result
    warnings = (*best.warnings, *scores.notes)
    told = result.replace(
        figures=(*result.figures, *scores.figures(scores.best)),
        warnings=tuple(w[:2000] for w in warnings[:100]),
    )
    return replace(best, recipe=best.recipe.replace(result=told), warnings=warnings)


def settled(request: Request, model: Model, supplies: Supplies | None = None) -> list[Request]:
    """The request as single pictures with nothing left open.

    A picture to start from, or else the model, states the size; the model may also state steps,
    sampler, schedule and guidance scale; seed, type, exactness and bands are chosen here; names in
    prompts get their files. Raises RequestError if the size does not suit the model's autoencoder,
    what was given does not go with it or with the model's sampler, or a name leads to several
    files, and FileError for one that leads to none.
    """
    supplies = supplies or Supplies()
    check_engine(model, request)
    check_encodes(model, request)
    request = settled_controls(_named(request, model, supplies))
    if model.family.hint.stated:
        request = request.suited(model.family.hint.settings())
    request = settled_extension(request)
    own = working_size(request, model, supplies)
    width, height = request.width or own[0], request.height or own[1]
    for name, length in (("width", width), ("height", height)):
        _check_side(name, length, model)
    exact = request.exact
    if exact is None:
        exact = model.device.type == "cpu" and model.dtype == torch.float32
    check_scale(request, own)
    check_thrift(model, request)
    largest = check_large(request.replace(width=width, height=height), model)
    tile = request.tile_vae if request.tile_vae is not None else largest > LARGE
    whole = (
        request.resolved()
        .spelled_out()
        .replace(
            model=stable_name(model) or request.model,
            width=width,
            height=height,
            exact=exact,
            tile_vae=tile,
            dtype=dtype_name(model.dtype),
            engine=model.engine,
            offload="none" if model.placement is None else model.placement.kind,
        )
    )
    return [
        whole.single(k).replace(batch=1 if exact else request.batch) for k in range(whole.count)
    ]


def _named(request: Request, model: Model, supplies: Supplies) -> Request:
    """The request with the files of all names in its prompts; what there is to say is kept."""
    found = looked_up(request, model)
    supplies.kept(_names_key(request), lambda: found.notes)
    return found.request


def _names_key(request: Request) -> tuple[object, ...]:
    return ("names", request.prompt, request.negative_prompt)


def batches(singles: Sequence[Request]) -> Iterator[list[Request]]:
    """Neighbours that differ in nothing but their seeds, as many at once as they allow."""
    batch: list[Request] = []
    for single in singles:
        if batch and (len(batch) >= batch_limit(single) or _kind(single) != _kind(batch[0])):
            yield batch
            batch = []
        batch.append(single)
    if batch:
        yield batch


def batch_limit(request: Request) -> int:
    """How many pictures may share a batch: one if they must not touch each other's bits."""
    alone = request.exact or resolve_sampler(request.sampler).couples_batch
    return 1 if alone or drawn_apart(request) else request.batch


@torch.no_grad()
def _batch(
    model: Model, batch: Sequence[Request], supplies: Supplies, sentinel: Sentinel, tally: Tally
) -> list[Picture]:
    began = time.perf_counter()
    result = drawn(model, batch, supplies, sentinel, tally)
    seconds = (time.perf_counter() - began) / len(batch)
    pictures = []
    for k, (request, one) in enumerate(zip(batch, result.pictures, strict=True)):
        named: tuple[str, ...] = supplies.kept(_names_key(request), tuple)
        words = result.plan.wordings[k] if result.plan.wordings else result.plan.wording
        own = replace(
            result, plan=replace(result.plan, wording=words), notes=(*named, *result.notes)
        )
        whole = request.replace(batch=len(batch))
        one = replace(one, figures=(*one.figures, *saved_figures(tally.savings, k)))
        pictures.append(_picture(model, whole, own, one, tally.taken, seconds))
    return pictures


def software(model: Model) -> Software:
    """What computes the pictures here."""
    return software_on(model.device, dtype_name(model.dtype))


def _picture(
    model: Model,
    request: Request,
    result: Drawn,
    one: OnePicture,
    steps: int,
    seconds: float,
) -> Picture:
    drawing = result.plan
    warnings = (
        *drawing.wording.warnings,
        *result.notes,
        *map(str, drawing.sentinel.incidents),
        *model.notes,
    )
    height, width = one.pixels.shape[:2]
    recipe = Recipe(
        request=request,
        files=(
            *(
                UsedFile(role=f.role, name=f.path.name, sha256=f.sha256, size=f.size)
                for f in model.files
            ),
            *result.files,
        ),
        software=software(model),
        result=Result(
            pixels_sha256=pixels_sha256(one.pixels),
            steps=steps,
            sampler=drawing.sampler.label,
            schedule=drawing.schedule,
            warnings=tuple(w[:2000] for w in warnings[:100]),
            size=None if (width, height) == (request.width, request.height) else (width, height),
            figures=one.figures,
        ),
        seconds=round(seconds, 3),
    )
    return Picture(one.pixels, recipe, warnings, result.facts)


def _source(model: Model, request: Request) -> str:
    """The files that a model came from, as the request names them."""
    name = request.model or (str(model.files[0].path) if model.files else model.family.label)
    return f"{name} with {request.vae}" if request.vae else name


def _kind(request: Request) -> Request:
    return request.replace(seed=0, subseed=None)


def check_scale(request: Request, scaled: tuple[int, int]) -> None:
    """Raise RequestError if a width or height is given that is not the one that the scale makes."""
    source = request.source
    if source is None or source.scale is None:
        return
    given = (request.width or scaled[0], request.height or scaled[1])
    if given != scaled:
        raise RequestError(
            f"source.scale {source.scale:g} makes the picture {scaled[0]} x {scaled[1]}, and width "
            f"and height say {given[0]} x {given[1]}; leave one of them out."
        )


def _check_side(name: str, length: int, model: Model) -> None:
    factor = model.codec.factor
    if length % factor:
        below = length - length % factor
        raise RequestError(
            f"{name} must be a multiple of {factor} for this model; got {length}. "
            f"The nearest are {below} and {below + factor}."
        )
