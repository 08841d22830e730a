"""Lessons, /api/lessons: a picture of the gallery drawn again while every step is watched."""

import json
from typing import Annotated

from fastapi import APIRouter, FastAPI
from fastapi import Path as InPath
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from safelight.server.bodies import StrictRoute, object_in
from safelight.server.documents import body_of
from safelight.server.jobs import LESSON, Job, Owner, State
from safelight.server.native import Asking
from safelight.server.refusals import NotAllowed
from safelight.server.service import Service
from safelight.tasks.lesson import MOST_STEPS, MOST_WORDS, refuse_lesson
from safelight.tasks.request import Request

PANEL = rf"^(latents|predicted|noise|guidance|word-[0-9]{{1,{len(str(MOST_WORDS - 1))}}})$"
THE_SERVERS = ("device", "dtype", "engine", "offload", "batch")  # as they are here now


def install(app: FastAPI, service: Service) -> None:
    """Add /api/lessons."""
    router = APIRouter(prefix="/api/lessons", tags=["lessons"], route_class=StrictRoute)

    @router.post(
        "",
        status_code=202,
        openapi_extra=body_of("PictureToTeach", {}),
        responses={200: {"description": "The lesson is kept already."}},
    )
    async def teach(request: HttpRequest, owner: Asking) -> JSONResponse:
        """Draw a picture of the gallery again as it was drawn, watching: {"picture": id}.

        The answer is {"picture", "kept", "job"}. If its lesson is kept, there is no job, unless
        "again" is true; else the lesson is there when the job is done, and stays until its picture
        is deleted or newer lessons need the room.
        """
        given = await object_in(request)
        picture = given.get("picture")
        if not isinstance(picture, str):
            raise NotAllowed("picture must be the id of a picture of the gallery.", "picture")
        opened = await service.opened(picture, owner)
        if given.get("again") is not True and await service.has_lesson(picture, owner):
            return JSONResponse({"picture": picture, "kept": True, "job": None})
        job = _begun(service, picture, owner)
        if job is None:
            again = again_of(opened.recipe.without_folders().request)
            job = await service.submit(again, owner, door=LESSON, tag=picture)
        told = {"picture": picture, "kept": False, "job": job.to_json()}
        return JSONResponse(told, 202, {"Location": f"/api/jobs/{job.id}"})

    @router.get("/{picture}")
    async def lesson(picture: str, owner: Asking) -> JSONResponse:
        """The steps of a lesson with their numbers, the words, and a sentence for each panel.

        same: whether the picture that was drawn again has the pixels of the one in the gallery.
        """
        return JSONResponse(json.loads(await service.lesson(picture, owner)))

    @router.get("/{picture}/{step}/{panel}", response_class=Response)
    async def panel(
        picture: str,
        step: Annotated[int, InPath(ge=1, le=MOST_STEPS)],
        panel: Annotated[str, InPath(pattern=PANEL)],
        owner: Asking,
    ) -> Response:
        """What a panel shows at a step, a WebP: latents, predicted, noise, guidance or word-K."""
        data = await service.lesson_picture(picture, owner, step, panel)
        return Response(data, 200, {"Cache-Control": "private, max-age=300"}, "image/webp")

    app.include_router(router)


def _begun(service: Service, picture: str, owner: Owner) -> Job | None:
    """The job that draws this lesson already."""
    going = service.jobs(owner, states=(State.QUEUED, State.RUNNING))
    return next((job for job in going if (job.door, job.tag) == (LESSON, picture)), None)


def again_of(request: Request) -> Request:
    """The request of a recipe as this server is asked for it. Raises RequestError if no lesson can
    be given of it."""
    refuse_lesson(request)
    given = request.model_dump(exclude_unset=True, exclude=set(THE_SERVERS))
    return Request(**given)
