"""Runs what `safelight mcp` asks for."""

import asyncio
from importlib.util import find_spec
from pathlib import Path

from safelight.errors import RequestError


def serve_tools(
    out: Path, *, model: str | None, folders: tuple[Path, ...], device: str, dtype: str
) -> None:
    """Serve tools until standard input ends. Raises RequestError if the extra is missing."""
    if find_spec("mcp") is None:
        raise RequestError("tools need the library mcp; install it: pip install 'safelight[mcp]'")
    from safelight.cli.serving import check_extra

    check_extra()
    from safelight.server.mcp_tools import tools
    from safelight.server.service import Service
    from safelight.server.settings import ServerSettings

    settings = ServerSettings(out=out, model=model, folders=folders, device=device, dtype=dtype)
    service = Service(settings)

    async def served() -> None:
        await service.start()
        try:
            await tools(service).run_stdio_async()
        finally:
            await service.stop()

    asyncio.run(served())
