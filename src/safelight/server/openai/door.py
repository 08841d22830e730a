"""OpenAI's part of the application."""

from collections.abc import Mapping

from fastapi import APIRouter, FastAPI

from safelight.server.bodies import StrictRoute
from safelight.server.openai.errors import error_body
from safelight.server.openai.images import images
from safelight.server.problems import Problem
from safelight.server.refusals import Unknown
from safelight.server.service import Service


def install(app: FastAPI, service: Service) -> None:
    """Add `/v1`, whose errors have OpenAI's shape."""
    app.state.shapes["/v1"] = _shape
    app.include_router(images(service))
    app.include_router(_models(service))


def _shape(problem: Problem) -> Mapping[str, object]:
    return error_body(problem.message, problem.status, problem.kind, problem.param)


def _models(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/models", tags=["OpenAI"], route_class=StrictRoute)

    def told(name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "safelight"}

    @router.get("", summary="The models that requests may name")
    async def models() -> dict[str, object]:
        names = [item.name for item in service.registry.on("model")]
        return {"object": "list", "data": [told(name) for name in names]}

    @router.get("/{name:path}", summary="One model")
    async def model(name: str) -> dict[str, object]:
        if not service.registry.has("model", name):
            raise Unknown(f"there is no model called {name[:80]!r}.")
        return told(service.registry.find("model", name).name)

    return router
