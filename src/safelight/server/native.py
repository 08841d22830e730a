"""The native API, /api: jobs with ids, positions and events; pictures; what there is to draw with.

Settings of a job are those of `Request`, by name, as the body of POST /api/jobs; pictures in them
are ids of uploads or of the gallery, or base64. Unknown settings are left out and told in
`warnings`.
"""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, Query
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from safelight.server.bodies import StrictRoute, form_in, object_in
from safelight.server.documents import EXAMPLES, body_of
from safelight.server.incoming import pictured
from safelight.server.jobs import Owner, State
from safelight.server.refusals import NotAllowed
from safelight.server.service import Service
from safelight.server.sse import after_of, streamed
from safelight.server.uploads import decoded
from safelight.tasks.request import Request

MEDIA = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}  # content never changes


def owner_of(request: HttpRequest) -> Owner:
    """Who asks, as the guards found out."""
    owner = request.scope["state"]["owner"]
    assert isinstance(owner, Owner)
    return owner


Asking = Annotated[Owner, Depends(owner_of)]


def install(app: FastAPI, service: Service) -> None:
    """Add the jobs, pictures and gallery of /api."""
    app.include_router(_jobs(service))
    app.include_router(_pictures(service))


def _jobs(service: Service) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["jobs"], route_class=StrictRoute)

    @router.post(
        "/jobs",
        status_code=202,
        openapi_extra=body_of("Request", EXAMPLES),
        responses={429: {"description": "The queue is full."}},
    )
    async def submit(
        request: HttpRequest,
        owner: Asking,
        hold: Literal["server", "connection"] = "server",
        seconds: Annotated[float | None, Query(gt=0, le=7 * 86400, allow_inf_nan=False)] = None,
        tag: Annotated[str, Query(max_length=200)] = "",
    ) -> JSONResponse:
        """Put a job into the queue: the body holds the settings.

        hold=connection cancels it when nobody follows its events any more; seconds is its deadline;
        tag is a name of your own for it.
        """
        given = await with_uploads(service, await object_in(request), owner)
        asked = service.asked(given)
        job = await service.submit(
            asked.request, owner, hold=hold, seconds=seconds, tag=tag, warnings=asked.warnings
        )
        headers = {"Location": f"/api/jobs/{job.id}", "X-Job-Id": job.id}
        return JSONResponse(job.to_json(), 202, headers)

    @router.get("/jobs")
    async def jobs(
        owner: Asking,
        mine: bool = False,
        state: Annotated[list[State] | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> dict[str, object]:
        """Jobs, the newest first; mine=true leaves out those of others."""
        found = service.jobs(owner, mine=mine, states=state or (), limit=limit)
        return {"jobs": [job.to_json() for job in found]}

    @router.get("/jobs/{id}")
    async def job(id: str, owner: Asking) -> dict[str, object]:
        """A job as it is now."""
        return service.job(id, owner).to_json()

    @router.get("/jobs/{id}/events", response_class=StreamingResponse)
    async def events(
        id: str, owner: Asking, request: HttpRequest, after: int | None = None
    ) -> StreamingResponse:
        """What happened to a job and what happens, as server-sent events, until its last.

        Last-Event-ID (or after) leaves out what you have. Types: queued (position, eta), started,
        step (step, steps, progress, preview as a data URI), picture (index, picture: its id),
        warning, and last one of done, failed, cancelled.
        """
        return streamed(service, id, owner, after_of(request))

    @router.get("/jobs/{id}/preview", response_class=Response)
    async def preview(id: str, owner: Asking) -> Response:
        """The newest preview of a job that runs, a JPEG; 204 if there is none."""
        data = service.preview(id, owner)
        headers = {"Cache-Control": "no-store"}
        return Response(data, 204 if data is None else 200, headers, "image/jpeg")

    @router.delete("/jobs/{id}")
    async def cancel(id: str, owner: Asking) -> dict[str, object]:
        """Cancel a job: it never starts, or stops before its next step; others are not touched."""
        return (await service.cancel(id, owner)).to_json()

    @router.get("/queue")
    async def queue(owner: Asking) -> dict[str, object]:
        """What runs and what waits now, in order, and what draws: this process, or replicas."""
        now = service.snapshot(owner)
        return {
            "running": [job.to_json() for job in now.running],
            "waiting": [job.to_json() for job in now.waiting],
            "model": now.model,
            "loading": now.loading,
            "ready": now.ready,
            "stopping": now.stopping,
            "eta": now.eta,
            "painters": list(now.painters),
        }

    @router.get("/painters")
    async def painters(owner: Asking) -> dict[str, object]:
        """What draws, as in /api/queue: this process or each replica, and what it does now."""
        return {"painters": list(service.snapshot(owner).painters)}

    return router


def _pictures(service: Service) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["pictures"], route_class=StrictRoute)

    @router.post(
        "/pictures",
        status_code=201,
        openapi_extra=body_of("UploadedPicture", {}, form=True, raw=True),
    )
    async def upload(request: HttpRequest, owner: Asking) -> dict[str, object]:
        """Give a picture (PNG, JPEG, WebP): as the body itself, as a form's file `picture`, or in
        JSON as base64. Its id stands for it in settings."""
        return (await service.upload(await picture_in(service, request), owner)).to_json()

    @router.get("/pictures/{id}", response_class=Response)
    async def picture(
        id: str, owner: Asking, format: Literal["png", "jpg", "webp"] | None = None
    ) -> Response:
        """A picture of the gallery (16 hex digits) as the PNG that was saved, or an upload (64)."""
        if format is not None and len(id) != 64:
            opened = await service.opened(id, owner)
            data = await service.aside(lambda: opened.encoded(f".{format}"))
        elif len(id) == 64:
            data = await service.uploaded_bytes(id)
        else:
            data = await service.picture_bytes(id, owner)
        media = next((kind for mark, kind in MEDIA.items() if data.startswith(mark)), "image/png")
        return Response(data, 200, KEPT, media)

    @router.get("/pictures/{id}/thumbnail", response_class=Response)
    async def thumbnail(
        id: str, owner: Asking, side: Annotated[int, Query(ge=16, le=1024)] = 256
    ) -> Response:
        """A small JPEG of a picture of the gallery."""
        return Response(await service.thumbnail(id, owner, side), 200, KEPT, "image/jpeg")

    @router.get("/pictures/{id}/recipe")
    async def recipe(id: str, owner: Asking) -> JSONResponse:
        """The recipe that draws a picture of the gallery again; its `request` can be submitted."""
        opened = await service.opened(id, owner)
        return JSONResponse(opened.recipe.without_folders().model_dump(mode="json"))

    @router.delete("/pictures/{id}")
    async def delete(id: str, owner: Asking) -> dict[str, object]:
        """Delete a picture of the gallery: its entry and its file."""
        await service.delete(id, owner)
        return {"deleted": id}

    @router.get("/gallery")
    async def gallery(
        owner: Asking,
        search: Annotated[str, Query(max_length=500)] = "",
        before: Annotated[str | None, Query(max_length=16)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        mine: bool = False,
    ) -> dict[str, object]:
        """Finished pictures, the newest first. search: words of the prompt or the model's name.

        For the next page give as `before` the id of the last picture of this one.
        """
        found = await service.gallery(owner, search=search, before=before, limit=limit, mine=mine)
        return {
            "pictures": [kept.to_json() for kept in found],
            "next": found[-1].id if len(found) == limit else None,
        }

    return router


async def with_uploads(
    service: Service, settings: Mapping[str, object], owner: Owner
) -> dict[str, object]:
    """The values of a JSON body in which pictures given as base64 or data URIs are uploads.

    Raises NotAllowed, TooLarge or FileError for one that cannot be used.
    """

    async def keep(text: str) -> str:
        data = await asyncio.to_thread(decoded, text, service.settings.limits)
        return (await service.upload(data, owner)).id

    return await pictured(Request, settings, keep)


async def picture_in(service: Service, request: HttpRequest) -> bytes:
    """The picture of a body: raw, a form's file `picture`, or JSON {"picture": base64}.

    Raises NotAllowed, TooLarge or HTTPException.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == "multipart/form-data":
        async with form_in(request, files=1, fields=8) as form:
            given = form.get("picture")
            if given is None or isinstance(given, str):
                raise NotAllowed("the form must hold a file called picture.")
            return await given.read()
    if media == "application/json":
        value = (await object_in(request)).get("picture")
        if not isinstance(value, str):
            raise NotAllowed("the body must be an object with picture: base64.")
        return decoded(value, service.settings.limits)
    return await request.body()
