"""A1111's part of the application."""

import base64
from collections.abc import Mapping, Sized
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from safelight.preprocessors.making import Making
from safelight.server.a1111 import lists
from safelight.server.a1111.controls import module_of, options_of
from safelight.server.a1111.drawing import drawn, progress_of
from safelight.server.a1111.fields import image_to_image, overridden, text_to_image, upscaler_of
from safelight.server.a1111.memory import memory
from safelight.server.a1111.tasks import pending_tasks, task_progress
from safelight.server.bodies import StrictRoute, object_in
from safelight.server.documents import body_of
from safelight.server.furnishing import read_of
from safelight.server.jobs import Owner
from safelight.server.native import Asking
from safelight.server.preprocessing import map_of
from safelight.server.problems import Problem
from safelight.server.refusals import NotAllowed, Unknown
from safelight.server.service import Service, drawn_or_gone
from safelight.server.uploads import decoded
from safelight.tasks.metadata.infotext import parse_infotext

UNITS = 3


def install(app: FastAPI, service: Service) -> None:
    """Add A1111's routes, whose errors have its shape."""
    for prefix in ("/sdapi", "/controlnet", "/internal"):
        app.state.shapes[prefix] = _shape
    app.include_router(_drawing(service))
    app.include_router(_lists(service))
    app.include_router(_control(service))
    app.include_router(_tools(service))
    app.include_router(_tasks(service))


def _shape(problem: Problem) -> Mapping[str, object]:
    return {"error": problem.kind, "detail": problem.message, "body": "", "errors": problem.message}


def _router(prefix: str) -> APIRouter:
    return APIRouter(prefix=prefix, tags=["A1111"], route_class=StrictRoute)


def _drawing(service: Service) -> APIRouter:
    router = _router("/sdapi/v1")

    @router.post("/txt2img", openapi_extra=body_of("TextToImage", {}))
    async def txt2img(request: HttpRequest, owner: Asking) -> JSONResponse:
        """Draw from a text."""
        return await drawn(service, request, owner, await object_in(request), text_to_image)

    @router.post("/img2img", openapi_extra=body_of("ImageToImage", {}))
    async def img2img(request: HttpRequest, owner: Asking) -> JSONResponse:
        """Draw on a picture."""
        return await drawn(service, request, owner, await object_in(request), image_to_image)

    @router.get("/progress")
    async def progress(owner: Asking, skip_current_image: bool = False) -> dict[str, object]:
        """Where the caller's drawing stands."""
        return progress_of(service, owner, image=not skip_current_image)

    @router.post("/interrupt")
    async def interrupt(owner: Asking) -> dict[str, object]:
        """Stop what is drawn for the caller, and nobody else's."""
        await service.cancel_running(owner)
        return {}

    @router.post("/skip")
    async def skip(owner: Asking) -> None:
        """As interrupt: pictures of one call are drawn together."""
        await service.cancel_running(owner)

    @router.get("/options")
    async def options() -> dict[str, object]:
        """The options that mean something here."""
        return lists.options(service)

    @router.post("/options", openapi_extra=body_of("OptionsToSet", {}))
    async def set_options(request: HttpRequest) -> None:
        """Choose the model: returns when it is loaded; other options are for single calls."""
        settings, _ = overridden(await object_in(request))
        model = settings.get("model")
        if isinstance(model, str):
            await service.use_model(model)

    return router


def _tasks(service: Service) -> APIRouter:
    router = _router("/internal")

    @router.post("/progress", openapi_extra=body_of("TaskToFollow", {}))
    async def progress(request: HttpRequest, owner: Asking) -> dict[str, object]:
        """Where the call stands that was named by force_task_id."""
        return task_progress(service, owner, await object_in(request))

    @router.get("/pending-tasks")
    async def pending(owner: Asking) -> dict[str, object]:
        """The names of the calls that wait."""
        return pending_tasks(service, owner)

    return router


def _lists(service: Service) -> APIRouter:
    router = _router("/sdapi/v1")
    found: dict[str, Any] = {
        "samplers": lists.samplers,
        "schedulers": lists.schedulers,
        "upscalers": lambda: lists.upscalers(service),
        "latent-upscale-modes": lists.latent_modes,
        "sd-models": lambda: lists.models(service),
        "sd-vae": lambda: lists.vaes(service),
        "loras": lambda: lists.loras(service),
        "embeddings": lambda: lists.embeddings(service),
        "hypernetworks": lambda: lists.hypernetworks(service),
        "face-restorers": list,
        "realesrgan-models": list,
        "prompt-styles": list,
        "extensions": list,
        "cmd-flags": dict,
        "scripts": lambda: {"txt2img": ["controlnet"], "img2img": ["controlnet"]},
        "script-info": lambda: [
            {"name": "controlnet", "is_alwayson": True, "is_img2img": False, "args": []}
        ],
        "memory": memory,
    }

    def offer(name: str, answer: Any) -> None:
        @router.get(f"/{name}", operation_id=f"a1111_{name.replace('-', '_')}", name=name)
        async def listed() -> Any:
            return answer()

    for name, answer in found.items():
        offer(name, answer)

    def refresher(name: str) -> None:
        @router.post(f"/refresh-{name}", operation_id=f"a1111_refresh_{name}", name=name)
        async def refresh() -> None:
            """List the files anew."""
            await service.refresh()

    for name in ("checkpoints", "vae", "loras"):
        refresher(name)

    @router.post("/unload-checkpoint")
    @router.post("/reload-checkpoint")
    async def keep() -> dict[str, object]:
        """Nothing: models make room for one another by themselves."""
        return {}

    return router


def _control(service: Service) -> APIRouter:
    router = _router("/controlnet")

    @router.get("/version")
    async def version() -> dict[str, int]:
        return {"version": 3}

    @router.get("/model_list")
    async def model_list(update: bool = False) -> dict[str, object]:
        if update:
            await service.refresh()
        return {"model_list": lists.control_models(service)}

    @router.get("/module_list")
    async def module_list() -> dict[str, object]:
        modules, details = lists.control_modules(), lists.control_details()
        return {"module_list": modules, "module_detail": details}

    @router.get("/control_types")
    async def control_types() -> dict[str, object]:
        return {"control_types": lists.control_types(service)}

    @router.get("/settings")
    async def settings() -> dict[str, object]:
        return {"control_net_unit_count": UNITS}

    @router.post("/detect", openapi_extra=body_of("PictureToDetect", {}))
    async def detect(request: HttpRequest, owner: Asking) -> dict[str, object]:
        """The maps that a preprocessor makes of pictures."""
        given = await object_in(request)
        images = given.get("controlnet_input_images") or given.get("controlnet_images")
        if not isinstance(images, list) or not images:
            raise NotAllowed("No image selected")
        check_number(images, service)
        name = module_of(given.get("controlnet_module"))
        unit = {
            "threshold_a": given.get("controlnet_threshold_a"),
            "threshold_b": given.get("controlnet_threshold_b"),
        }
        making = Making(name, options_of(name, unit))
        made = [await _map(service, str(image), making, owner) for image in images]
        return {"info": "Success", "images": made}

    return router


def _tools(service: Service) -> APIRouter:
    router = _router("/sdapi/v1")

    @router.post("/extra-single-image", openapi_extra=body_of("PictureToEnlarge", {}))
    async def single(request: HttpRequest, owner: Asking) -> dict[str, object]:
        """A picture made larger."""
        given = await object_in(request)
        image = await _larger(service, request, given, given.get("image"), owner)
        return {"image": image, "html_info": ""}

    @router.post("/extra-batch-images", openapi_extra=body_of("PicturesToEnlarge", {}))
    async def several(request: HttpRequest, owner: Asking) -> dict[str, object]:
        """Pictures made larger."""
        given = await object_in(request)
        items = given.get("imageList")
        if not isinstance(items, list):
            raise NotAllowed("imageList must be a list of {data, name}.")
        check_number(items, service)
        images = [i.get("data") for i in items if isinstance(i, Mapping)]
        return {
            "images": [await _larger(service, request, given, image, owner) for image in images],
            "html_info": "",
        }

    @router.post("/png-info", openapi_extra=body_of("PictureToRead", {}))
    async def png_info(request: HttpRequest, owner: Asking) -> dict[str, object]:
        """The settings that a picture carries."""
        image = (await object_in(request)).get("image")
        upload = await service.upload(_bytes(service, image), owner)
        path = service.upload_path(upload.id)
        found = await service.aside(lambda: read_of(path))
        texts = found["texts"]
        assert isinstance(texts, Mapping)
        info = str(texts.get("parameters", ""))
        told = dict(parse_infotext(info).fields) if info else {}
        return {"info": info, "items": dict(texts), "parameters": told}

    @router.post("/interrogate", openapi_extra=body_of("PictureToRead", {}))
    async def interrogate(request: HttpRequest) -> dict[str, object]:
        """No model here writes captions."""
        raise Unknown("Model not found")

    return router


def check_number(pictures: Sized, service: Service) -> None:
    """Raise NotAllowed for more pictures than the server draws for one job."""
    most = service.settings.limits.count
    if len(pictures) > most:
        raise NotAllowed(f"{len(pictures)} pictures are too many; up to {most} are taken at once.")


async def _larger(
    service: Service,
    http: HttpRequest,
    given: Mapping[str, object],
    image: object,
    owner: Owner,
) -> str:
    """A picture made larger by a job without a model, as base64."""
    upload = await service.upload(_bytes(service, image), owner)
    source: dict[str, object] = {"picture": upload.id, "redraw": False}
    name = upscaler_of(given.get("upscaler_1"))
    if name is not None:
        source["upscaler"] = name
    settings: dict[str, object] = {"prompt": "", "source": source}
    if given.get("resize_mode") == 1:
        settings["width"] = given.get("upscaling_resize_w", 512)
        settings["height"] = given.get("upscaling_resize_h", 512)
        source["resize"] = "crop" if given.get("upscaling_crop", True) else "just"
    else:
        source["scale"] = given.get("upscaling_resize", 2)
    asked = service.asked(settings)
    job = await service.submit(
        asked.request, owner, hold="connection", door="a1111", warnings=asked.warnings
    )
    over = await drawn_or_gone(service, job, owner, http.is_disconnected)
    if over is None:
        raise ClientDisconnect
    if not over.pictures:
        raise NotAllowed(over.failure.message if over.failure else "it was cancelled.")
    return base64.b64encode(await service.picture_bytes(over.pictures[0][1], owner)).decode()


async def _map(service: Service, image: str, making: Making, owner: Owner) -> str:
    upload = await service.upload(_bytes(service, image), owner)
    path = service.upload_path(upload.id)
    return base64.b64encode(await service.aside(lambda: map_of(path, making))).decode()


def _bytes(service: Service, image: object) -> bytes:
    if not isinstance(image, str) or not image:
        raise NotAllowed("image must be a picture in base64.")
    return decoded(image, service.settings.limits)
