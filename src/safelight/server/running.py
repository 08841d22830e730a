"""A server as a process: its socket, its signals, its end."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from safelight.errors import OutputError
from safelight.printable import shown
from safelight.server.guards import HEAD_BYTES
from safelight.server.logs import log
from safelight.server.service import Service
from safelight.server.settings import LOCAL_HOSTS, ServerSettings

HEAD_SECONDS = 20.0  # for a request's head to arrive
KEEP_ALIVE = 65  # seconds that an idle connection is kept
LAST_SECONDS = 3  # for answers that are on their way when all is drawn
CONNECTIONS = 2048
BACKLOG = 512


def listening(settings: ServerSettings) -> socket.socket:
    """A socket that listens. Raises OutputError if the port is taken or the address is not ours."""
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise OutputError(
            f"cannot listen on {shown(settings.host)}: {error.strerror or error}; give another "
            "--host."
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OutputError(
            f"cannot listen on {shown(settings.host)} port {settings.port}: "
            f"{error.strerror or error}; stop what uses it, or give another --port."
        ) from None
    return listener


def address_of(listener: socket.socket, settings: ServerSettings) -> str:
    """The URL that a browser on this machine takes."""
    port = listener.getsockname()[1]
    host = settings.host
    if host in ("0.0.0.0", "::", *LOCAL_HOSTS):
        # "localhost" may be either; who listens to one is not found at the other
        host = "::1" if listener.family == socket.AF_INET6 else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Patient(H11Protocol):
    """HTTP that does not wait for ever for a request's head (slow loris)."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._in_time()
        elif self._late is None:  # the head of a further request on this connection
            self._late = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._in_time()
        super().on_response_complete()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        self.transport.close()


class _Server(uvicorn.Server):
    """Uvicorn, with our own handling of signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def configured(app: FastAPI) -> uvicorn.Config:
    """How HTTP is spoken: bounds on heads, connections and waiting; no header names the server."""
    return uvicorn.Config(
        app,
        http=Patient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=LAST_SECONDS,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )


async def serve(
    app: FastAPI,
    service: Service,
    listener: socket.socket,
    *,
    told: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then end gracefully; a second signal ends the process at once.

    told: called once the service is open. Raises what `Service.start` raises.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def stop(number: int) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows has no handlers in loops
            loop.add_signal_handler(number, stop, number)
    server = _Server(configured(app))
    await service.start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        told()
        ending = asyncio.create_task(asked.wait())
        await asyncio.wait([serving, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        log.info("stopping")
    finally:
        await service.stop()
        server.should_exit = True
        await serving
        log.info("stopped")


def say(line: str) -> None:
    """Print a line at once: whoever waits for it may read through a pipe."""
    print(line, flush=True)
    sys.stdout.flush()
