"""Errors as answers: one line that says what is wrong, in the shape that each API's clients read.

Never a traceback, a path or the value that was sent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from safelight.errors import InputError, OutputError, SafelightError
from safelight.printable import shown
from safelight.server.refusals import Refused
from safelight.server.registry import without_folders

SHOWN = 3
MESSAGE_LIMIT = 2000
HTTP_KINDS = {400: "invalid", 404: "unknown", 405: "method", 422: "invalid"}


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong. kind: a word for programs. id: of the log's entry. param: the field."""

    status: int
    kind: str
    message: str
    id: str | None = None
    retry_after: float | None = None
    headers: Mapping[str, str] | None = None
    param: str | None = None


Shape = Callable[[Problem], Mapping[str, object]]
Shapes = dict[str, Shape]  # by the beginning of the path; the longest that fits counts


def native(problem: Problem) -> Mapping[str, object]:
    """The shape of /api and of all that has none of its own."""
    error = {"kind": problem.kind, "message": problem.message, "id": problem.id}
    return {"error": error, "detail": problem.message}


def answer(problem: Problem, path: str, shapes: Shapes) -> JSONResponse:
    """The answer to a request of this path."""
    fitting = [prefix for prefix in shapes if path.startswith(prefix)]
    shape = shapes[max(fitting, key=len)] if fitting else native
    headers = dict(problem.headers or {})
    if problem.retry_after is not None:
        headers["Retry-After"] = str(max(ceil(problem.retry_after), 1))
    if problem.status == 401:
        basic = path.startswith(("/sdapi", "/controlnet", "/internal"))
        headers["WWW-Authenticate"] = 'Basic realm="safelight"' if basic else "Bearer"
    return JSONResponse(dict(shape(problem)), problem.status, headers)


def problem_of(error: BaseException) -> Problem:
    """What a client is told of an error."""
    match error:
        case Refused():
            return Problem(
                error.status,
                error.kind,
                _said(error),
                retry_after=error.retry_after,
                param=error.param,
            )
        case RequestValidationError():
            return Problem(422, "invalid", _invalid(error.errors()))
        case HTTPException():
            kind = HTTP_KINDS.get(error.status_code, "http")
            return Problem(error.status_code, kind, str(error.detail), headers=error.headers)
        case ClientDisconnect():
            return Problem(499, "gone", "the client went away.")
        case InputError():
            return Problem(422, "request", _said(error))
        case OutputError():
            return Problem(507, "disk", "the server could not write: its disk failed.")
        case SafelightError():
            return Problem(500, "failed", _said(error))
        case MemoryError():
            return Problem(507, "memory", "the server ran out of memory.")
        case RecursionError():
            return Problem(422, "invalid", "the body is nested too deeply.")
    return Problem(500, "internal", "something went wrong in the server; its log knows more.")


def _said(error: Exception) -> str:
    return shown(without_folders(str(error)), MESSAGE_LIMIT)


def _invalid(errors: Sequence[object]) -> str:
    """The first few faults of a body, by place and rule; what was sent is not repeated."""
    told = []
    for error in errors[:SHOWN]:
        assert isinstance(error, Mapping)
        places = [shown(str(part), 60) for part in error.get("loc", ()) if part != "body"]
        told.append(f"{'.'.join(places) or 'the body'}: {shown(str(error.get('msg')), 200)}")
    more = len(errors) - SHOWN
    return "; ".join(told) + (f" ({more} more problems)" if more > 0 else "")
