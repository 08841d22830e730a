"""A server with a port, in a thread of its own: for clients that speak to nothing else."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn

from safelight.cli.options import SETTINGS
from safelight.server.app import create_app
from safelight.server.furnishing import Explained
from safelight.server.painter import FarPainter
from safelight.server.running import configured
from safelight.server.service import Service
from server_fake import FakePainter, settings

EXPLAINED = [Explained(one.field, one.help, one.panel) for one in SETTINGS]


@contextlib.contextmanager
def live(
    out: Path,
    painter: FakePainter | None = None,
    *,
    real: bool = False,
    replicas: Sequence[FarPainter] = (),
    **changes: object,
) -> Iterator[int]:
    """The port of a server on the loopback interface; it is closed at the end.

    real: it draws by itself, with models of its own. replicas: what draws in its place.
    """
    painter = painter or FakePainter()
    begun, port = threading.Event(), 0
    servers: list[uvicorn.Server] = []

    async def served() -> None:
        nonlocal port
        own = settings(out, **changes)
        alone = None if real or replicas else painter
        service = Service(own, painter=alone, replicas=replicas)
        await service.start(load=False)
        service.model = service.model or "plain"
        app = create_app(own, service=service, explained=EXPLAINED)
        config = configured(app)
        config.host, config.port = "127.0.0.1", 0
        server = uvicorn.Server(config)
        servers.append(server)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        begun.set()
        try:
            await serving
        finally:
            painter.go.set()
            await service.stop()

    thread = threading.Thread(target=lambda: asyncio.run(served()))
    thread.start()
    assert begun.wait(20), "the server began"
    try:
        yield port
    finally:
        servers[0].should_exit = True
        thread.join(20)
        assert not thread.is_alive()
