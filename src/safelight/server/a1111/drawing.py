"""txt2img and img2img: the job of a call, and the answer that A1111's clients read."""

import base64
import json
import time
from collections.abc import Callable, Mapping
from functools import partial

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from safelight.preprocessors.making import Making
from safelight.server.a1111.fields import Drawing, Values
from safelight.server.jobs import Job, Owner, State
from safelight.server.preprocessing import map_of
from safelight.server.refusals import Refused
from safelight.server.service import Service, drawn_or_gone
from safelight.server.uploads import decoded
from safelight.tasks.metadata.infotext import infotext
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request
from safelight.version import __version__

HIDDEN = ("init_images", "mask")
Read = Callable[[Values], Drawing]


async def drawn(
    service: Service, http: HttpRequest, owner: Owner, given: Values, read: Read
) -> JSONResponse:
    """The answer to a call. Raises what reading, submitting and drawing raise."""
    drawing = read(given)
    settings = dict(drawing.settings)
    for place, text in drawing.pictures.items():
        upload = await service.upload(decoded(text, service.settings.limits), owner)
        settings = _placed(settings, place, upload.id)
    asked = service.asked(settings)
    job = await service.submit(
        asked.request,
        owner,
        hold="connection",
        door="a1111",
        tag=drawing.task,
        warnings=(*drawing.notes, *asked.warnings),
    )
    over = await drawn_or_gone(service, job, owner, http.is_disconnected)
    if over is None:
        return JSONResponse({"detail": "the client went away"}, 499)
    if over.state is State.FAILED:
        failure = over.failure
        raise _Failed(
            failure.message if failure else "it failed", failure.status if failure else 500
        )
    pictures = [await service.opened(id, owner) for _, id in over.pictures]
    images: list[str] = []
    if drawing.send and pictures:
        for _, id in over.pictures:
            images.append(_text(await service.picture_bytes(id, owner)))
        images += await _maps(service, over.request, drawing, owner)
    hidden = () if given.get("include_init_images") else HIDDEN
    echo = {name: value for name, value in given.items() if name not in hidden}
    info = json.dumps(info_of(over, pictures, service))
    body: dict[str, object] = {"images": images, "parameters": echo, "info": info}
    body["warnings"] = list(over.warnings)
    if over.verdicts:
        body["verdicts"] = [one.to_json() for one in over.verdicts]
    return JSONResponse(body, headers={"X-Job-Id": job.id})


class _Failed(Refused):
    """The job failed."""

    kind = "failed"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _placed(settings: Mapping[str, object], place: str, id: str) -> dict[str, object]:
    """The settings with an upload where a picture is named by its place."""
    made: dict[str, object] = {}
    for name, value in settings.items():
        if name == "picture" and value == place:
            made[name] = id
        elif isinstance(value, Mapping):
            made[name] = _placed(value, place, id)
        elif isinstance(value, list):
            made[name] = [_placed(v, place, id) if isinstance(v, Mapping) else v for v in value]
        else:
            made[name] = value
    return made


async def _maps(service: Service, request: Request, drawing: Drawing, owner: Owner) -> list[str]:
    """The maps of those controls that want them back, after the pictures."""
    found = []
    for number in drawing.maps:
        control = request.controls[number]
        picture = control.picture or (request.source.picture if request.source else None)
        if picture is None or control.preprocessor is None:
            continue
        path = service.picture_path(picture, owner)
        making = Making(control.preprocessor, control.options, control.resolution)
        found.append(_text(await service.aside(partial(map_of, path, making))))
    return found


def info_of(job: Job, pictures: list[Picture], service: Service) -> dict[str, object]:
    """What A1111 tells of a drawing, by its names and of its types: no nulls where it has none."""
    recipes = [picture.recipe.without_folders() for picture in pictures]
    request = recipes[0].request if recipes else job.request
    model, vae = (recipes[0].file(role) if recipes else None for role in ("model", "vae"))
    seeds = [recipe.request.seed for recipe in recipes] or [job.request.seed]
    subseeds = [recipe.request.subseed or 0 for recipe in recipes] or [0]
    texts = [infotext(recipe) for recipe in recipes]
    count = max(len(recipes), 1)
    return {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * count,
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [request.negative_prompt] * count,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": subseeds[0],
        "all_subseeds": subseeds,
        "subseed_strength": request.subseed_strength,
        "width": request.width,
        "height": request.height,
        "sampler_name": request.sampler,
        "cfg_scale": request.cfg_scale,
        "steps": request.steps,
        "batch_size": count,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": request.model or service.model or "",
        "sd_model_hash": model.sha256[:10] if model is not None else "",
        "sd_vae_name": vae.name if vae is not None else None,
        "sd_vae_hash": vae.sha256[:10] if vae is not None else None,
        "seed_resize_from_w": request.resize_from[0] if request.resize_from else -1,
        "seed_resize_from_h": request.resize_from[1] if request.resize_from else -1,
        "denoising_strength": request.source.strength if request.source else None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.gmtime(job.created)),
        "clip_skip": request.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"safelight {__version__}",
    }


def progress_of(service: Service, owner: Owner, *, image: bool) -> dict[str, object]:
    """Where the owner's running job stands, in A1111's terms; idle is exactly 0."""
    now = service.snapshot(owner)
    job = next(iter(now.running), None)
    preview = service.preview(job.id, owner) if job is not None and image else None
    return {
        "progress": min(job.progress, 1.0) if job is not None else 0.0,
        "eta_relative": (job.eta or 0.0) if job is not None else 0.0,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": job.tag or job.id if job is not None else "",
            "job_count": len(now.running) + len(now.waiting),
            "job_no": 0,
            "job_timestamp": time.strftime(
                "%Y%m%d%H%M%S", time.gmtime(job.created if job is not None else 0)
            ),
            "sampling_step": job.step if job is not None else 0,
            "sampling_steps": job.steps if job is not None else 0,
        },
        "current_image": None if preview is None else _text(preview),
        "textinfo": f"In queue: {len(now.waiting)}" if now.waiting else None,
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
