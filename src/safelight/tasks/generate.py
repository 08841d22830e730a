"""Text to pictures: settle the request, plan a batch, take the steps, finish each picture."""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from safelight.diffusion.samplers import resolve_sampler
from safelight.engines.placement import dtype_name
from safelight.engines.sentinel import Sentinel, watch
from safelight.errors import NonFiniteError, RequestError
from safelight.model import Model
from safelight.models.tiling import Bands
from safelight.tasks.picture import Picture, to_uint8
from safelight.tasks.plan import Plan, plan
from safelight.tasks.recipe import Recipe, Result, Software, UsedFile, pixels_sha256
from safelight.tasks.request import Request

LARGE = 1536 * 1536  # pixels above which the autoencoder works in bands unless told otherwise


@dataclass(frozen=True)
class Progress:
    """Where a drawing stands, after each step."""

    first: int  # number of the batch's first picture, from 0
    pictures: int  # in this batch
    step: int  # from 1
    steps: int
    denoised: Tensor  # (B, C, h, w) the estimate of the clean latents


Watch = Callable[[Progress], None]


def generate(
    model: Model, requests: Request | Sequence[Request], *, watch_steps: Watch | None = None
) -> Iterator[Picture]:
    """Draw pictures; each is given out as soon as it is finished.

    A request with `count` n gives n pictures; several requests are drawn one after another.
    Picture k has the noise of seed + k whatever the batch, and the same bits too if the request is
    exact, which it is by default in float32 on the CPU.
    Raises RequestError where settings and model do not fit, NonFiniteError for a model that makes
    NaN in float32 too.
    """
    given = [requests] if isinstance(requests, Request) else list(requests)
    singles = [single for request in given for single in settled(request, model)]
    done = 0
    for batch in batches(singles):
        try:
            with watch() as sentinel:
                pictures = _batch(model, batch, sentinel, done, watch_steps)
        except NonFiniteError as error:
            raise NonFiniteError(f"{_source(model, batch[0])}: {error}") from None
        yield from pictures
        done += len(batch)


def settled(request: Request, model: Model) -> list[Request]:
    """The request as single pictures with nothing left open.

    The model states its size, and may state steps, sampler, schedule and guidance scale; seed,
    type, exactness and bands are chosen here. Raises RequestError if the size does not suit the
    model's autoencoder, or what was given does not go with the model's sampler.
    """
    if model.family.hint.stated:
        request = request.suited(model.family.hint.settings())
    side = model.family.native_size
    width, height = request.width or side, request.height or side
    for name, length in (("width", width), ("height", height)):
        _check_side(name, length, model)
    exact = request.exact
    if exact is None:
        exact = model.device.type == "cpu" and model.dtype == torch.float32
    tile = request.tile_vae if request.tile_vae is not None else width * height > LARGE
    whole = (
        request.resolved()
        .spelled_out()
        .replace(
            width=width,
            height=height,
            exact=exact,
            tile_vae=tile,
            dtype=dtype_name(model.dtype),
        )
    )
    return [
        whole.single(k).replace(batch=1 if exact else request.batch) for k in range(whole.count)
    ]


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
    return 1 if alone else request.batch


@torch.no_grad()
def _batch(
    model: Model,
    batch: Sequence[Request],
    sentinel: Sentinel,
    first: int,
    watch_steps: Watch | None,
) -> list[Picture]:
    began = time.perf_counter()
    drawing = plan(model, batch, sentinel)
    planned = len(drawing.sigmas) - 1
    x, taken = drawing.x, 0
    for taken, step in enumerate(drawing.steps(), start=1):
        x = step.x
        if watch_steps is not None:
            watch_steps(Progress(first, len(batch), taken, max(taken, planned), step.denoised))
    images = [decoded(model, x[k : k + 1], r, sentinel) for k, r in enumerate(batch)]
    seconds = (time.perf_counter() - began) / len(batch)
    return [
        _picture(model, r.replace(batch=len(batch)), drawing, to_uint8(image)[0], taken, seconds)
        for r, image in zip(batch, images, strict=True)
    ]


def decoded(model: Model, latents: Tensor, request: Request, sentinel: Sentinel) -> Tensor:
    """Latents (B, C, h, w) as images (B, 3, H, W), watched for NaN."""
    tile = Bands() if request.tile_vae else None
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    return sentinel.run("VAE decoder", coder, lambda: model.codec.decode(latents, tile=tile))


def software(model: Model) -> Software:
    """What computes the pictures here."""
    device = model.device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type} {processor()}".strip()
    return Software.here(
        torch=torch.__version__,
        device=name,
        dtype=dtype_name(model.dtype),
        threads=torch.get_num_threads(),
    )


def processor() -> str:
    """The processor's model name and what torch uses of it."""
    capability = torch.backends.cpu.get_cpu_capability()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next(line for line in file if line.startswith("model name"))
        name = line.partition(":")[2].strip()
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({capability})"


def _picture(
    model: Model,
    request: Request,
    drawing: Plan,
    pixels: NDArray[np.uint8],
    steps: int,
    seconds: float,
) -> Picture:
    warnings = (*drawing.wording.warnings, *map(str, drawing.sentinel.incidents), *model.notes)
    recipe = Recipe(
        request=request,
        files=tuple(
            UsedFile(role=f.role, name=f.path.name, sha256=f.sha256, size=f.size)
            for f in model.files
        ),
        software=software(model),
        result=Result(
            pixels_sha256=pixels_sha256(pixels),
            steps=steps,
            sampler=drawing.sampler.label,
            schedule=drawing.schedule,
            warnings=tuple(w[:2000] for w in warnings[:100]),
        ),
        seconds=round(seconds, 3),
    )
    return Picture(pixels, recipe, warnings)


def _source(model: Model, request: Request) -> str:
    """The files that a model came from, as the request names them."""
    name = request.model or (str(model.files[0].path) if model.files else model.family.label)
    return f"{name} with {request.vae}" if request.vae else name


def _kind(request: Request) -> Request:
    return request.replace(seed=0, subseed=None)


def _check_side(name: str, length: int, model: Model) -> None:
    factor = model.codec.factor
    if length % factor:
        below = length - length % factor
        raise RequestError(
            f"{name} must be a multiple of {factor} for this model; got {length}. "
            f"The nearest are {below} and {below + factor}."
        )
