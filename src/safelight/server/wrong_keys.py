"""Slows down whoever guesses keys: after some wrong ones an address has to wait.

Only that address waits, and it may try again as its wrong keys get old; sessions that are open go
on. Keys are remembered as digests under a secret of this process.
"""

import hashlib
import ipaddress
import secrets
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from safelight.server.logs import log
from safelight.server.refusals import TooMany

WRONG = 10  # different wrong keys that an address may give
SECONDS = 60.0  # within this time
ADDRESSES = 10_000  # that are remembered; beyond, those whose last wrong key is oldest are not


@dataclass(frozen=True, slots=True)
class Try:
    """A wrong key: when it was given, and its digest."""

    at: float
    digest: bytes


class WrongKeys:
    """The wrong keys of each address in the last minute."""

    def __init__(self) -> None:
        self._tries: OrderedDict[str, deque[Try]] = OrderedDict()
        self._secret = secrets.token_bytes(32)

    def check(self, address: str) -> None:
        """Raise TooMany (429, with retry_after) if an address has to wait before its next key."""
        tries = self._recent(source_of(address))
        if len(tries) >= WRONG:
            wait = tries[0].at + SECONDS - time.monotonic()
            raise TooMany(
                "too many wrong keys came from your address; try again later.", retry_after=wait
            )

    def add(self, address: str, key: str) -> None:
        """An address gave a wrong key. One that it gave within the minute counts once: a client
        with an old key tries it again and again, and guesses nothing."""
        source = source_of(address)
        digest = hashlib.blake2b(
            key.encode("utf-8", "surrogateescape"), key=self._secret, digest_size=16
        ).digest()
        tries = self._recent(source)
        if any(one.digest == digest for one in tries):
            return
        tries.append(Try(time.monotonic(), digest))
        self._tries[source] = tries
        self._tries.move_to_end(source)
        while len(self._tries) > ADDRESSES:
            self._tries.popitem(last=False)
        if len(tries) >= WRONG:
            log.warning("an address gave too many wrong keys", extra={"address": source})

    def _recent(self, source: str) -> deque[Try]:
        """The wrong keys of the last minute; older ones are forgotten."""
        tries = self._tries.get(source, deque[Try]())
        while tries and time.monotonic() - tries[0].at >= SECONDS:
            tries.popleft()
        if not tries:
            self._tries.pop(source, None)
        return tries


def source_of(address: str) -> str:
    """Whom an address stands for: of IPv6 the network of 64 bits, which one host has to itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    # not strict: the host's own bits are cut off, not complained of
    return str(ipaddress.ip_network((found, 64), strict=False))
