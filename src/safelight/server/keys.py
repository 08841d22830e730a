"""Who may ask: keys in headers, and sessions of the page in a cookie."""

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, SimpleCookie

from safelight.server.jobs import Owner
from safelight.server.settings import Key
from safelight.server.wrong_keys import WrongKeys

COOKIE = "safelight"
SESSIONS = 1000
SESSION_SECONDS = 30 * 86400.0


class Keys:
    """The keys of a server, and the sessions that were opened with them."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)
        self._sessions: dict[str, tuple[Owner, float]] = {}
        self._wrong = WrongKeys()

    @property
    def needed(self) -> bool:
        """Whether a key must be given."""
        return bool(self._keys)

    def owner(self, secret: str, address: str) -> Owner | None:
        """The holder of a key; None if there is no such key. Takes as long for any answer.

        address: whence it comes. Raises TooMany if too many wrong keys came from there.
        """
        self._wrong.check(address)
        found = None
        given = secret.encode("utf-8", "surrogateescape")
        for key in self._keys:
            if hmac.compare_digest(given, key.secret.encode("utf-8", "surrogateescape")):
                found = Owner(key.name, sees_all=False)
        if found is None:
            self._wrong.add(address, secret)
        return found

    def owner_of(self, headers: Mapping[str, str], address: str) -> Owner | None:
        """Who asks, by `Authorization: Bearer KEY`, `Basic NAME:KEY`, `X-API-Key` or the cookie.

        The name of Basic is not looked at: clients of A1111 send any. Raises TooMany as `owner`.
        """
        given = headers.get("x-api-key")
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = rest.strip()
        elif scheme.lower() == "basic":
            given = _password(rest)
        if given is not None:
            return self.owner(given, address)
        return self._of_session(headers.get("cookie", ""))

    def opened(self, owner: Owner) -> str:
        """A new session's token, for the cookie."""
        token = secrets.token_urlsafe(32)
        while len(self._sessions) >= SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[token] = (owner, time.monotonic() + SESSION_SECONDS)
        return token

    def close(self, cookie: str) -> None:
        """End the session of a Cookie header."""
        self._sessions.pop(_token(cookie), None)

    def _of_session(self, cookie: str) -> Owner | None:
        token = _token(cookie)
        owner, until = self._sessions.get(token, (None, 0.0))
        if owner is not None and time.monotonic() > until:
            del self._sessions[token]
            return None
        return owner


def _password(rest: str) -> str:
    try:
        text = base64.b64decode(rest.strip(), validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return ""
    return text.partition(":")[2]


def _token(cookie: str) -> str:
    try:
        morsel = SimpleCookie(cookie).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value
