"""Errors in the shape that OpenAI's clients read: message, type, param, code."""

from collections.abc import Mapping

from safelight.server.refusals import Refused

# What the clients' classes are made of: the status decides, these are shown
KINDS: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
WITHHELD = "withheld"  # the kind of failure of a job whose every picture a judge withheld


class Wrong(Refused):
    """A field of a call cannot be."""

    status, kind = 400, "invalid_value"


def error_body(message: str, status: int, code: str, param: str | None = None) -> dict[str, object]:
    """The body of an answer that is an error."""
    usual = "invalid_request_error" if status < 500 else "server_error"
    kind = KINDS.get(status, usual)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def failed_body(message: str, status: int, kind: str) -> dict[str, object]:
    """The body for a job that failed; a picture that was withheld has OpenAI's own code for it."""
    if kind != WITHHELD:
        return error_body(message, status, kind)
    body = {"type": "image_generation_user_error", "param": None, "code": "moderation_blocked"}
    return {"error": {"message": message, **body}}
