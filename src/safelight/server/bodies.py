"""Bodies read strictly: JSON without NaN, of bounded depth; pictures raw, in forms or in base64."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

LARGE = 2**18  # bytes from which a body is read off the event loop
DEPTH = 64


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
    _check_depth(value)
    return value


async def object_in(request: HttpRequest) -> dict[str, object]:
    """The body as a JSON object; an empty body is an empty one. Raises HTTPException."""
    value = await request.json() if await request.body() else {}
    if not isinstance(value, dict):
        raise HTTPException(422, "the body must be a JSON object.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise HTTPException(422, "the body holds NaN or an infinity, which JSON does not have.")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise HTTPException(422, "the body holds a number that is too large.")
    return number


def _check_depth(value: object) -> None:
    layer: list[object] = [value]
    for _ in range(DEPTH):
        layer = [
            inner
            for one in layer
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, Mapping) else one)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return
    raise HTTPException(422, "the body is nested too deeply.")
