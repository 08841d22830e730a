"""The endpoints of OpenAI's images API, on the service that every API here talks to."""

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import FormData, UploadFile

from safelight.server.bodies import StrictRoute, form_in, object_in
from safelight.server.jobs import Drawn, Failed, Job, Owner, State, Stepped
from safelight.server.native import Asking
from safelight.server.openai.errors import WITHHELD, Wrong, error_body, failed_body
from safelight.server.openai.fields import (
    FORMATS,
    Task,
    Wanted,
    wanted,
    with_mask,
    with_picture,
)
from safelight.server.refusals import WrongMedia
from safelight.server.service import Service, drawn_or_gone
from safelight.text.bpe import Tokenizer

Json = dict[str, Any]
FIELDS, PICTURES = 64, 16  # parts of a form
GONE = 499  # nobody reads it: the client hung up
MEDIA = "application/json", "multipart/form-data"


def images(service: Service) -> APIRouter:
    """The routes below `/v1/images`."""
    router = APIRouter(prefix="/v1/images", tags=["OpenAI"], route_class=StrictRoute)
    door = _Door(service)

    @router.post("/generations", summary="Draw from a text", openapi_extra=GENERATIONS)
    async def generations(request: Request, who: Asking) -> Any:
        return await door.answered("generate", request, who, await object_in(request), {})

    @router.post("/edits", summary="Draw on a picture", openapi_extra=_form(mask=True))
    async def edits(request: Request, who: Asking) -> Any:
        return await door.from_form("edit", request, who)

    @router.post("/variations", summary="Draw a picture anew", openapi_extra=_form(mask=False))
    async def variations(request: Request, who: Asking) -> Any:
        return await door.from_form("vary", request, who)

    return router


@dataclass(frozen=True)
class _Door:
    service: Service

    async def from_form(self, task: Task, request: Request, owner: Owner) -> Any:
        """The answer to a call whose pictures are parts of a form."""
        if not request.headers.get("content-type", "").startswith(MEDIA[1]):
            raise WrongMedia(f"this endpoint takes {MEDIA[1]}.")
        async with form_in(request, files=PICTURES, fields=FIELDS) as form:
            fields, pictures = await _parts(form)
        return await self.answered(task, request, owner, fields, pictures)

    async def answered(
        self,
        task: Task,
        request: Request,
        owner: Owner,
        fields: Mapping[str, object],
        pictures: Mapping[str, list[bytes]],
    ) -> Any:
        want = wanted(task, fields)
        settings = await self._pictured(task, want.settings, pictures, owner)
        asked = self.service.asked(settings)
        notes = (*want.notes, *asked.warnings)
        job = await self.service.submit(
            asked.request, owner, hold="connection", door="openai", warnings=notes
        )
        head = {"X-Job-Id": job.id}
        if want.stream:
            stream = self._streamed(task, job, want, owner)
            return StreamingResponse(stream, media_type="text/event-stream", headers=head)
        over = await drawn_or_gone(self.service, job, owner, request.is_disconnected)
        if over is None:
            return JSONResponse(error_body("the client is gone.", GONE, "gone"), GONE)
        if over.state is not State.DONE:
            return _failure(over, head)
        base = str(request.base_url)
        return JSONResponse(await self._answer(over, want, owner, base), headers=head)

    async def _pictured(
        self,
        task: Task,
        settings: Mapping[str, object],
        pictures: Mapping[str, list[bytes]],
        owner: Owner,
    ) -> dict[str, object]:
        """The settings with the pictures of the call, which are kept first."""
        if task == "generate":
            return dict(settings)
        given = pictures.get("image", [])
        if len(given) != 1:
            told = "is missing" if not given else f"is one picture here; got {len(given)}"
            raise Wrong(f"image {told}.", "image")
        source = await self.service.upload(given[0], owner)
        made = with_picture(task, settings, source.id)
        if masks := pictures.get("mask", []):
            mask = await self.service.upload(masks[0], owner)
            if (mask.width, mask.height) != (source.width, source.height):
                raise Wrong(
                    f"mask is {mask.width}x{mask.height} and image {source.width}x{source.height}; "
                    "they must be of one size.",
                    "mask",
                )
            made = with_mask(made, mask.id)
        return made

    async def _answer(self, job: Job, want: Wanted, owner: Owner, base: str) -> Json:
        data = []
        for _, picture in job.pictures:
            if want.link:
                data.append({"url": f"{base}api/pictures/{picture}"})
            else:
                data.append({"b64_json": await self._coded(picture, want, owner)})
        answer = {"created": int(job.created), "data": data, **await self._told(job, want, owner)}
        if job.warnings:
            answer["warnings"] = list(job.warnings)
        if job.verdicts:
            answer["verdicts"] = [one.to_json() for one in job.verdicts]
        return answer

    async def _told(self, job: Job, want: Wanted, owner: Owner) -> Json:
        """Size, format and usage, as the last part of every answer."""
        first = await self.service.picture(job.pictures[0][1], owner)
        return {
            "background": "opaque",
            "output_format": want.form,
            "quality": "auto",
            "size": f"{first.width}x{first.height}",
            "usage": usage(job, (first.width, first.height)),
        }

    async def _coded(self, picture: str, want: Wanted, owner: Owner) -> str:
        if want.form == "png":
            data = await self.service.picture_bytes(picture, owner)
        else:
            opened = await self.service.opened(picture, owner)
            suffix, quality = FORMATS[want.form], want.quality
            data = await self.service.aside(lambda: opened.encoded(suffix, quality=quality))
        return base64.b64encode(data).decode()

    async def _streamed(
        self, task: Task, job: Job, want: Wanted, owner: Owner
    ) -> AsyncIterator[str]:
        """Server-sent events: pictures on the way, evenly over the steps, then the finished one."""
        word = "image_edit" if task == "edit" else "image_generation"
        sent = 0
        size: str | None = None
        async with self.service.following(job.id, owner):
            async for event in self.service.events(job.id, owner):
                body = event.body
                if isinstance(body, Stepped) and body.preview and sent < want.partials:
                    if body.progress < (sent + 1) / (want.partials + 1):
                        continue
                    yield _event(
                        {
                            "type": f"{word}.partial_image",
                            "partial_image_index": sent,
                            "b64_json": base64.b64encode(body.preview).decode(),
                            "created_at": int(event.at),
                            "size": size or _size_of(job),
                            "quality": "auto",
                            "background": "opaque",
                            "output_format": "jpeg",
                        }
                    )
                    sent += 1
                elif isinstance(body, Drawn):
                    size = f"{body.width}x{body.height}"
                elif isinstance(body, Failed):
                    yield _event(failed_body(body.message, 500, body.error))
                elif event.last and event.kind == "done":
                    over = self.service.job(job.id, owner)
                    yield _event(
                        {
                            "type": f"{word}.completed",
                            "b64_json": await self._coded(over.pictures[0][1], want, owner),
                            "created_at": int(time.time()),
                            **await self._told(over, want, owner),
                        }
                    )
                elif event.last:
                    yield _event(error_body(f"the job was {event.kind}.", 500, event.kind))


def usage(job: Job, size: tuple[int, int]) -> Json:
    """What a job used: tokens of the text, and places of the latents of what was drawn."""
    text = len(_TOKENS.encode(job.request.prompt))
    places = job.request.count * (size[0] // 8) * (size[1] // 8)
    given = 0 if job.request.source is None else places // job.request.count
    return {
        "input_tokens": text + given,
        "output_tokens": places,
        "total_tokens": text + given + places,
        "input_tokens_details": {"text_tokens": text, "image_tokens": given},
    }


_TOKENS = Tokenizer()


async def _parts(form: FormData) -> tuple[dict[str, object], dict[str, list[bytes]]]:
    """Texts by name, and pictures by name: `image`, `image[]` and `image[0]` are one."""
    fields: dict[str, object] = {}
    pictures: dict[str, list[bytes]] = {}
    for name, value in form.multi_items():
        plain = name.partition("[")[0]
        if isinstance(value, UploadFile):
            pictures.setdefault(plain, []).append(await value.read())
        elif plain in ("image", "mask"):
            # a part without a file name arrives as text
            pictures.setdefault(plain, []).append(value.encode("latin-1", "replace"))
        else:
            fields[name] = value
    return fields, pictures


def _failure(job: Job, headers: Mapping[str, str]) -> JSONResponse:
    failure = job.failure
    if failure is None:
        told = error_body(job.reason or "the job was cancelled.", 409, "cancelled")
        return JSONResponse(told, 409, {**headers, "X-Should-Retry": "false"})
    status = 400 if failure.kind == WITHHELD else failure.status
    return JSONResponse(failed_body(failure.message, status, failure.kind), status, dict(headers))


def _size_of(job: Job) -> str:
    request = job.request
    return f"{request.width}x{request.height}" if request.width and request.height else "auto"


def _event(values: Json) -> str:
    return f"data: {json.dumps(values)}\n\n"


GENERATIONS: Json = {
    "requestBody": {
        "content": {
            MEDIA[0]: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "prompt": {"type": "string", "minLength": 1, "maxLength": 20_000},
                        "model": {"type": "string"},
                        "n": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
                        "size": {"type": "string", "default": "auto"},
                        "response_format": {"enum": ["b64_json", "url"], "default": "b64_json"},
                        "output_format": {"enum": ["png", "jpeg", "webp"], "default": "png"},
                        "output_compression": {"type": "integer", "minimum": 0, "maximum": 100},
                        "stream": {"type": "boolean", "default": False},
                        "partial_images": {"type": "integer", "minimum": 0, "maximum": 3},
                    },
                    "required": ["prompt"],
                },
                "example": {"prompt": "a red apple on a blue background", "seed": 7, "n": 1},
            }
        }
    }
}


def _form(*, mask: bool) -> Json:
    """The parts of a form, for the OpenAPI document."""
    file = {"type": "string", "format": "binary"}
    parts: Json = {
        "image": file,
        "n": {"type": "integer"},
        "size": {"type": "string"},
        "response_format": {"type": "string", "enum": ["b64_json", "url"]},
    }
    required = ["image"]
    if mask:
        parts |= {"prompt": {"type": "string"}, "mask": file, "stream": {"type": "boolean"}}
        required.append("prompt")
    schema = {"type": "object", "properties": parts, "required": required}
    return {"requestBody": {"required": True, "content": {MEDIA[1]: {"schema": schema}}}}
