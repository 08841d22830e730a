"""The page's files, as they were built; nothing of them is made here."""

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from safelight.server.service import Service

STATIC = "static"


def install(app: FastAPI, service: Service) -> None:
    """Serve the page at `/`, if it is wanted and this installation carries it."""
    folder = built()
    if not service.settings.page or folder is None:
        return

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        # asked for anew each time: it names the files of the version that is installed
        return FileResponse(folder / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/assets", StaticFiles(directory=folder / "assets"), name="page")


def built() -> Path | None:
    """The folder of the built page; None if the package carries none."""
    folder = files(__package__).joinpath(STATIC)
    return folder if isinstance(folder, Path) and (folder / "index.html").is_file() else None
