"""Who am I, and the page's session: a key given once becomes a cookie that scripts cannot read."""

from fastapi import APIRouter, FastAPI
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from safelight.server.bodies import StrictRoute, object_in
from safelight.server.documents import body_of
from safelight.server.keys import COOKIE, SESSION_SECONDS, Keys
from safelight.server.native import Asking
from safelight.server.refusals import Unauthorised


def install(app: FastAPI, keys: Keys) -> None:
    """Add /api/session."""
    router = APIRouter(prefix="/api", tags=["session"], route_class=StrictRoute)

    @router.get("/session")
    async def session(owner: Asking) -> dict[str, object]:
        """Whether a key is needed here, and whether one was given."""
        known = not keys.needed or owner.name != "nobody"
        return {"needed": keys.needed, "known": known, "owner": owner.name if known else None}

    @router.post("/session", openapi_extra=body_of("KeyGiven", {}))
    async def begin(request: HttpRequest) -> JSONResponse:
        """Open a session with {"key": KEY}: a cookie then stands for the key."""
        given = (await object_in(request)).get("key")
        address = request.client.host if request.client else "local"
        owner = keys.owner(given, address) if isinstance(given, str) else None
        if owner is None:
            raise Unauthorised("that is not a key of this server.")
        response = JSONResponse({"needed": True, "known": True, "owner": owner.name})
        response.set_cookie(
            COOKIE,
            keys.opened(owner),
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @router.delete("/session")
    async def end(request: HttpRequest) -> JSONResponse:
        """End the session."""
        keys.close(request.headers.get("cookie", ""))
        response = JSONResponse({"needed": keys.needed, "known": not keys.needed, "owner": None})
        response.delete_cookie(COOKIE, samesite="strict", httponly=True)
        return response

    app.include_router(router)
