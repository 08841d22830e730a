"""Maps for control networks: the preprocessors there are, and what each makes of a picture."""

from io import BytesIO
from pathlib import Path

from fastapi import APIRouter, FastAPI
from PIL import Image
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from safelight.preprocessors.making import Making
from safelight.preprocessors.table import PREPROCESSORS, Preprocessor
from safelight.server.bodies import StrictRoute, object_in
from safelight.server.native import Asking
from safelight.server.refusals import NotAllowed
from safelight.server.service import Service
from safelight.tasks.picture_file import open_input


def install(app: FastAPI, service: Service) -> None:
    """Add /api/preprocessors and /api/preprocess."""
    router = APIRouter(prefix="/api", tags=["control"], route_class=StrictRoute)

    @router.get("/preprocessors")
    async def preprocessors() -> dict[str, object]:
        """What makes maps of pictures, with options, and the kinds of control it serves."""
        return {"preprocessors": [_told(how) for how in PREPROCESSORS.values()]}

    @router.post("/preprocess", response_class=Response)
    async def preprocess(request: HttpRequest, owner: Asking) -> Response:
        """The map of a picture, a PNG: {"picture": id, "preprocessor", "options", "resolution"}."""
        given = await object_in(request)
        picture = given.get("picture")
        if not isinstance(picture, str):
            raise NotAllowed("picture must be the id of a picture.")
        path = service.picture_path(picture, owner)
        making = _making(given)

        data = await service.aside(lambda: map_of(path, making))
        return Response(data, media_type="image/png")

    app.include_router(router)


def map_of(path: Path, making: Making) -> bytes:
    """The map of a picture's file, as a PNG. Raises RequestError."""
    buffer = BytesIO()
    Image.fromarray(making.map_of(open_input(path).pixels).pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _told(how: Preprocessor) -> dict[str, object]:
    return {
        "name": how.name,
        "label": how.label,
        "meaning": how.meaning,
        "serves": list(how.serves),
        "takes_resolution": how.scaled,
        "needs_mask": how.masked,
        "options": [
            {
                "name": option.name,
                "meaning": option.meaning,
                "default": option.default,
                "takes": option.wanted,
                "choices": list(option.choices),
            }
            for option in how.options
        ],
    }


def _making(given: dict[str, object]) -> Making:
    """How the map is to be made. Raises RequestError, NotAllowed."""
    name, options = given.get("preprocessor", "none"), given.get("options", {})
    resolution = given.get("resolution")
    if not isinstance(name, str) or not isinstance(options, dict):
        raise NotAllowed("preprocessor must be a name, and options an object.")
    if resolution is not None and (isinstance(resolution, bool) or not isinstance(resolution, int)):
        raise NotAllowed("resolution must be a whole number of pixels.")
    return Making(name, options, resolution)
