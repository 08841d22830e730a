"""All APIs as one application behind the guards.

A further API is a module with `install(app: FastAPI, service: Service) -> None`, in DOORS. It
finds `app.state.service`, `app.state.keys`, and `app.state.shapes`, where it may put the shape of
its errors under the beginning of its paths.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from safelight.server import furnishing, lessons, native, operation, preprocessing, sessions
from safelight.server.a1111 import door as a1111
from safelight.server.documents import document
from safelight.server.furnishing import Explained
from safelight.server.guards import Guards
from safelight.server.keys import Keys
from safelight.server.openai import door as openai
from safelight.server.page import door as page
from safelight.server.problems import Shapes
from safelight.server.service import Service
from safelight.server.settings import ServerSettings
from safelight.version import __version__

# All that is reached under a path of its own, in the order in which it is installed
DOORS = (native, lessons, a1111, openai, preprocessing, page)


def create_app(
    settings: ServerSettings,
    *,
    service: Service | None = None,
    explained: Sequence[Explained] = (),
) -> FastAPI:
    """The application. service: one that is started and stopped by the caller; without it, one is
    started and stopped with the application. explained: what settings mean, for /api/settings.
    """
    own = service or Service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if service is not None:
            yield
            return
        await own.start()
        try:
            yield
        finally:
            await own.stop()

    app = FastAPI(
        title="Safelight",
        version=__version__,
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
        lifespan=lifespan,
    )
    shapes: Shapes = {}
    keys = Keys(settings.keys)
    app.state.service, app.state.keys, app.state.shapes = own, keys, shapes
    # FastAPI's own handlers repeat what was sent, and fail on NaN: the guards answer instead
    for kind in (RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _raised)
    operation.install(app, own)
    furnishing.install(app, own, explained)
    sessions.install(app, keys)
    for door in DOORS:
        door.install(app, own)
    app.add_middleware(
        Guards,
        settings=settings,
        keys=keys,
        metrics=own.metrics,
        shapes=shapes,
        public=_public,
    )
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


def _public(path: str) -> bool:
    """Whether a path is of the page, which must be there before a key is given."""
    apis = ("/api", "/sdapi", "/controlnet", "/internal", "/v1", "/metrics", "/openapi.json")
    return not path.startswith(apis)


async def _raised(request: HttpRequest, error: Exception) -> Response:
    raise error
