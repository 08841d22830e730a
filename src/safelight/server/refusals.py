"""Why a server does not do what it was asked to, with the HTTP status that says so.

    Refused                 what all of them are
    ├── Unknown         404 there is no such job, picture or name, or it is somebody else's
    ├── Unauthorised    401 the key is missing or wrong
    ├── Forbidden       403 a foreign page or host asks
    ├── TooLarge        413 more bytes than the limit
    ├── WrongMedia      415 another content type than the endpoint takes
    ├── NotAllowed      422 a value beyond this server's limits, or a name that it does not list
    ├── TooMany         429 the queue is full, or its share for one owner
    ├── NotNow          503 the server is starting, stopping or short of memory
    └── NoSpace         507 the disk is full

The message is one line for the client: no path, no traceback, nothing of the request but a
shortened name.
"""

from safelight.errors import SafelightError


class Refused(SafelightError):
    """What was asked is not done. status: of HTTP; kind: a word for programs, in every API.

    retry_after: seconds after which asking again makes sense; None if it does not. param: the field
    that is wrong, if it is one.
    """

    status = 400
    kind = "refused"

    def __init__(
        self, message: str, param: str | None = None, *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.param, self.retry_after = param, retry_after


class Unknown(Refused):
    """There is no such job, picture or name, or it is somebody else's."""

    status, kind = 404, "unknown"


class Unauthorised(Refused):
    """The key is missing or wrong."""

    status, kind = 401, "unauthorised"


class Forbidden(Refused):
    """A foreign page or host asks."""

    status, kind = 403, "forbidden"


class TooLarge(Refused):
    """More bytes than the limit."""

    status, kind = 413, "too_large"


class WrongMedia(Refused):
    """Another content type than the endpoint takes."""

    status, kind = 415, "wrong_media"


class NotAllowed(Refused):
    """A value beyond this server's limits, or a name that it does not list."""

    status, kind = 422, "not_allowed"


class TooMany(Refused):
    """The queue is full, or its share for one owner."""

    status, kind = 429, "too_many"


class NotNow(Refused):
    """The server is starting, stopping or short of memory."""

    status, kind = 503, "not_now"


class NoSpace(Refused):
    """The disk is full."""

    status, kind = 507, "no_space"
