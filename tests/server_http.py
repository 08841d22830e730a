"""The whole application in this process, spoken to over HTTP."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from fastapi import FastAPI

from safelight.server.app import create_app
from safelight.server.service import Service
from server_fake import FakePainter, settings

BASE = "http://127.0.0.1:7860"


def client_of(app: FastAPI, *, address: str = "127.0.0.1", **headers: str) -> httpx.AsyncClient:
    """A client whose requests come from an address, with these headers."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 5))
    return httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers)


@contextlib.asynccontextmanager
async def http(
    out: Path, painter: FakePainter | None = None, **changes: object
) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """A client and the started service behind it, whose model is called "plain"."""
    painter = painter or FakePainter()
    own = settings(out, **changes)
    service = Service(own, painter=painter)
    await service.start(load=False)
    if service.model is None or service.registry.has("model", "plain"):
        service.model = "plain"
    app = create_app(own, service=service)
    try:
        async with client_of(app) as client:
            yield client, service
    finally:
        painter.go.set()
        await service.stop()
