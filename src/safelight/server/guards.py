"""What stands before every API: hosts, origins, keys, sizes, times, headers, and errors in words.

A pure ASGI layer, so that streams stay streams. What passes it finds its owner in
`scope["state"]["owner"]`.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safelight.server.jobs import LOCAL, Owner, new_id
from safelight.server.keys import Keys
from safelight.server.logs import log
from safelight.server.metrics import Metrics
from safelight.server.problems import Problem, Shapes, answer, problem_of
from safelight.server.refusals import (
    Forbidden,
    NotNow,
    Refused,
    TooLarge,
    TooMany,
    Unauthorised,
    WrongMedia,
)
from safelight.server.settings import LOCAL_HOSTS, ServerSettings

BODY_SECONDS = 60.0  # without a byte of a body
REST_SECONDS = 0.05  # for the rest of a body that nobody wants, before the answer
LINGER_SECONDS = 2.0  # and after it
HEAD_BYTES = 32 * 1024  # of a request's path and headers
HOST = re.compile(
    r"(?:\[([0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,40})\]|([A-Za-z0-9._-]{1,253}))(?::[0-9]{1,5})?"
)
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = frozenset({"/health", "/ready", "/api/session"})  # need no key
FORMS = ("/v1/images/edits", "/v1/images/variations", "/api/pictures", "/api/inspect")
RAW = ("/api/pictures", "/api/inspect")  # take a picture as the body itself
CSP = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS: Mapping[bytes, bytes] = {
    b"content-security-policy": CSP.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
}


class Misdirected(Refused):
    """The request is for a host that this server does not go by."""

    status, kind = 421, "misdirected"


class HeadTooLarge(Refused):
    """A path or headers beyond the limit."""

    status, kind = 431, "head_too_large"


@dataclass(frozen=True)
class Guards:
    """The layer; `app` is asked only if nothing speaks against it.

    public: paths below which files of the page lie, which need no key.
    """

    app: ASGIApp
    settings: ServerSettings
    keys: Keys
    metrics: Metrics
    shapes: Shapes
    public: Callable[[str], bool] = lambda path: False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no WebSockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        began = time.monotonic()
        body = _Bounded(receive, scope, self._most(scope))
        sent = _Sent(send, body, private=not self.public(scope["path"]))
        try:
            scope.setdefault("state", {})["owner"] = self._admitted(scope)
            self._check_media(scope)
            await self.app(scope, body, sent)
        except Exception as error:
            await self._refused(scope, sent, error)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = (sent.began or time.monotonic()) - began
            self.metrics.answer_seconds.labels(route, str(sent.status)).observe(seconds)

    def _admitted(self, scope: Scope) -> Owner:
        """Who asks, if they may. Raises Refused."""
        size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        if size + sum(len(k) + len(v) for k, v in scope["headers"]) > HEAD_BYTES:
            raise HeadTooLarge(f"the path and headers have more than {HEAD_BYTES} bytes.")
        headers = _headers(scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Misdirected(
                "this server does not go by that name; the owner may allow it with --allow-host."
            )
        if scope["method"] not in SAFE or "text/event-stream" in headers.get("accept", ""):
            self._check_origin(headers, scope.get("scheme", "http"), host)
        client = scope.get("client")
        address = client[0] if client else "local"
        if not self.settings.keys:
            return LOCAL if address in LOCAL_HOSTS else Owner(address)
        path = scope["path"]
        open_ = path in OPEN or (scope["method"] in SAFE and self.public(path))
        try:
            owner = self.keys.owner_of(headers, address)
        except TooMany:
            if not open_:
                raise
            owner = None
        if owner is None:
            if open_:
                return Owner("nobody", sees_all=False)
            raise Unauthorised("give the server's key: Authorization: Bearer KEY.")
        return owner

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names us: an address, a local name, or one that the owner gave.

        A page that has its own name lead to our address (DNS rebinding) still sends that name.
        """
        name = _name_of(host)
        if name is None:
            return False
        known = {*LOCAL_HOSTS, self.settings.host.lower(), *map(str.lower, self.settings.hosts)}
        return name in known or (not self.settings.is_local and _is_address(name))

    def _check_origin(self, headers: Mapping[str, str], scheme: str, host: str) -> None:
        """Raise Forbidden if another site's page asks."""
        origin = headers.get("origin")
        own = {f"{scheme}://{host}".lower(), f"https://{host}".lower()}
        allowed = own | {one.lower().rstrip("/") for one in self.settings.origins}
        foreign = origin is not None and origin.lower() not in allowed
        across = headers.get("sec-fetch-site") == "cross-site" and origin is None
        if foreign or across:
            raise Forbidden("pages of other sites may not ask this server.")

    def _check_media(self, scope: Scope) -> None:
        """Raise TooLarge or WrongMedia for a body that no endpoint of this path takes."""
        headers, path = _headers(scope), scope["path"].rstrip("/")
        length = _length(scope)
        if length is not None and length > self._most(scope):
            raise TooLarge(f"the body has {length} bytes; up to {self._most(scope)} are taken.")
        if scope["method"] in SAFE or (length in (None, 0) and "transfer-encoding" not in headers):
            return
        if headers.get("content-encoding", "identity") != "identity":
            raise WrongMedia("bodies are taken as they are, without Content-Encoding.")
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        form = media == "multipart/form-data" and path in FORMS
        raw = path in RAW and (media.startswith("image/") or media == "application/octet-stream")
        if media != "application/json" and not form and not raw:
            raise WrongMedia("the body must be JSON, with Content-Type: application/json.")

    def _most(self, scope: Scope) -> int:
        return self.settings.limits.body_bytes

    async def _refused(self, scope: Scope, send: "_Sent", error: Exception) -> None:
        """Answer with what went wrong, in the words and shape of the API that was asked."""
        problem = problem_of(error)
        if problem.status >= 500 and not isinstance(error, NotNow):
            problem = Problem(problem.status, problem.kind, problem.message, new_id())
            log.error(
                "a request failed", exc_info=error, extra={"id": problem.id, "path": scope["path"]}
            )
        self.metrics.errors.labels(problem.kind).inc()
        if send.status:  # the answer had begun: it can only be cut off
            return
        response = answer(problem, scope["path"], self.shapes)
        await response(scope, _no_body, send)


async def _no_body() -> Message:
    return {"type": "http.disconnect"}


class _Sent:
    """Sends on, with our headers, and remembers when and with what status an answer began.

    An answer to a body that was not read to its end also ends the connection: nothing is read
    without a limit only to be thrown away.
    private: whether nobody on the way may keep the answer unless it says otherwise.
    """

    def __init__(self, send: Send, body: "_Bounded", *, private: bool) -> None:
        self._send, self._body, self._private = send, body, private
        self.status, self.began = 0, 0.0
        self._closes = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.began = message["status"], time.monotonic()
            given = {name.lower() for name, _ in message.get("headers", [])}
            own = [(k, v) for k, v in HEADERS.items() if k not in given]
            if self._private and b"cache-control" not in given:
                own.append((b"cache-control", b"no-store"))
            self._closes = not await self._body.thrown_away(REST_SECONDS)
            if self._closes:
                own.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", []), *own]}
        elif self._closes and not message.get("more_body", False):
            # who sends all before reading anything finds the answer if the rest is taken in
            await self._send({**message, "more_body": True})
            await self._body.thrown_away(LINGER_SECONDS)
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)


class _Bounded:
    """Receives on, no more bytes than the limit, and no slower than one message in a minute."""

    def __init__(self, receive: Receive, scope: Scope, most: int) -> None:
        self._receive, self._most, self._seen = receive, most, 0
        length = _length(scope)
        self._whole = length == 0 or (length is None and "transfer-encoding" not in _headers(scope))

    async def thrown_away(self, seconds: float) -> bool:
        """Read what nobody read, for so long and up to twice the limit; whether that was all."""
        until = time.monotonic() + seconds
        while not self._whole and self._seen <= 2 * self._most:
            try:
                left = max(until - time.monotonic(), 0)
                message = await asyncio.wait_for(self._receive(), left)
            except TimeoutError:
                return False
            self._seen += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
        return self._whole

    async def __call__(self) -> Message:
        if self._whole:  # only the end of the connection can follow, whenever that comes
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_SECONDS)
        except TimeoutError:
            raise Slow("the body did not arrive in time.") from None
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._seen > self._most:
                raise TooLarge(f"the body has more than {self._most} bytes.")
        return message


class Slow(Refused):
    """A body that did not arrive in time."""

    status, kind = 408, "slow"


def _headers(scope: Scope) -> dict[str, str]:
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}


def _length(scope: Scope) -> int | None:
    text = _headers(scope).get("content-length")
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _name_of(host: str) -> str | None:
    """The name in a Host header, without its port; None if it is none: no path, no user."""
    match = HOST.fullmatch(host)
    return None if match is None else (match[1] or match[2]).lower()


def _is_address(name: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
