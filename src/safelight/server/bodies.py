"""Bodies read strictly: JSON without NaN, of bounded depth; forms that are whole, in UTF-8."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from safelight.server.refusals import WrongMedia

LARGE = 2**18  # bytes from which a body is read off the event loop
DEPTH = 64
VALUES = 10_000  # of one body, keys counted too: no client of good will sends a tenth of it
CHARSETS = (b"utf-8", b"utf8", b"us-ascii")


class StrictRequest(HttpRequest):
    """A request whose `json` takes what JSON allows, and nothing else."""

    async def json(self) -> Any:
        """The body's value. Raises HTTPException for NaN, infinities, depth, or no JSON."""
        if not hasattr(self, "_json"):
            body = await self.body()
            large = len(body) > LARGE
            self._json = await asyncio.to_thread(strict, body) if large else strict(body)
        return self._json


class StrictRoute(APIRoute):
    """A route that reads its JSON strictly: `APIRouter(route_class=StrictRoute)`."""

    def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI, given a strict request."""
        handler = super().get_route_handler()

        async def strictly(request: HttpRequest) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strictly


def strict(body: bytes) -> Any:
    """The value of a JSON text. Raises HTTPException, which never repeats what was sent."""
    try:
        value = json.loads(body, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise HTTPException(422, "the body is nested too deeply.") from None
    except ValueError:  # also bytes that are no text, and numbers of too many digits
        raise HTTPException(422, "the body is not valid JSON.") from None
    _check(value)
    return value


async def object_in(request: HttpRequest) -> dict[str, object]:
    """The body as a JSON object; an empty body is an empty one. Raises HTTPException."""
    value = await request.json() if await request.body() else {}
    if not isinstance(value, dict):
        raise HTTPException(422, "the body must be a JSON object.")
    return value


@asynccontextmanager
async def form_in(request: HttpRequest, *, files: int, fields: int) -> AsyncIterator[FormData]:
    """The parts of a form, which is there to its end; texts are UTF-8.

    Raises HTTPException for what is no sound form, WrongMedia for another encoding of texts.
    """
    _, options = parse_options_header(request.headers.get("content-type", ""))
    if options.get(b"charset", b"utf-8").lower() not in CHARSETS:
        raise WrongMedia("texts of a form must be UTF-8.")
    end = b"--" + options.get(b"boundary", b"") + b"--"
    if end not in await request.body():  # the parser takes a form that was cut off
        raise HTTPException(400, "the form has no end.")
    try:
        form = await request.form(max_files=files, max_fields=fields)
    except (MultiPartException, ValueError):
        raise HTTPException(400, "the body is no sound form.") from None
    try:
        yield form
    finally:
        await form.close()


def _no_constant(name: str) -> NoReturn:
    raise HTTPException(422, "the body holds NaN or an infinity, which JSON does not have.")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise HTTPException(422, "the body holds a number that is too large.")
    return number


def _check(value: object) -> None:
    """Raise HTTPException for too many layers or values, or for halves of surrogate pairs, which
    JSON can spell though they are no text: nothing made of them could be written or sent."""
    layer: list[object] = [value]
    seen = 0
    for _ in range(DEPTH):
        if (seen := seen + len(layer)) > VALUES:
            raise HTTPException(422, f"the body holds more than {VALUES} values.")
        if not all(one.isascii() or _is_text(one) for one in layer if isinstance(one, str)):
            raise HTTPException(422, "the body holds half of a surrogate pair.")
        layer = [
            inner
            for one in layer
            if isinstance(one, dict | list)
            for inner in ((*one, *one.values()) if isinstance(one, Mapping) else one)
        ]
        if not layer:
            return
    raise HTTPException(422, "the body is nested too deeply.")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
