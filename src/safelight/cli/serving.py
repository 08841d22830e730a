"""Runs what `safelight serve` asks for."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from safelight.errors import FileError, RequestError
from safelight.printable import shown

if TYPE_CHECKING:
    from safelight.server.painter import FarPainter
    from safelight.server.settings import Key, ServerSettings

VARIABLE = "SAFELIGHT_API_KEY"
NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
KEYS_LIMIT = 1000
KEY_FILE_LIMIT = 2**20  # bytes


def check_extra() -> None:
    """Raise RequestError, naming the extra to install, if a library of the server is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise RequestError(
            f"the server needs {', '.join(missing)}; install it with: pip install "
            '"safelight[serve]"'
        )


def keys_of(given: Sequence[str], file: Path | None) -> "tuple[Key, ...]":
    """The keys of options, a file and the environment; each NAME=KEY, or a key alone.

    Raises FileError for a file that cannot be read, RequestError for too many keys.
    """
    from safelight.server.settings import Key

    texts = [*given, *_lines(file)]
    if variable := os.environ.get(VARIABLE):
        texts.append(variable)
    if len(texts) > KEYS_LIMIT:
        raise RequestError(f"up to {KEYS_LIMIT} API keys can be given; got {len(texts)}.")
    keys = []
    for number, text in enumerate(texts, start=1):
        name, equals, secret = text.partition("=")
        named = bool(equals and secret) and name.replace("-", "").replace("_", "").isalnum()
        keys.append(Key(name, secret) if named else Key(f"key-{number}", text))
    return tuple(keys)


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        if file.stat().st_size > KEY_FILE_LIMIT:
            raise FileError(f"{shown(file)} is too large to be a file of API keys.")
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise FileError(f"the keys in {shown(file)} cannot be read: {error}.") from None
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise FileError(f"{shown(file)} holds no API key.")
    return found


def served(settings: "ServerSettings") -> None:
    """Serve until a signal ends it. Raises OutputError, FileError or RequestError before."""
    from safelight.cli.options import SETTINGS
    from safelight.server.app import create_app
    from safelight.server.furnishing import Explained
    from safelight.server.logs import log_to
    from safelight.server.running import address_of, listening, say, serve
    from safelight.server.service import Service

    explained = [Explained(one.field, one.help, one.panel) for one in SETTINGS]
    for folder in settings.folders:
        if not folder.is_dir():
            raise FileError(f"{shown(folder)} is not a folder.")
    listener = listening(settings)
    log_to()
    with closing(listener), _replicas(settings) as replicas:
        service = Service(settings, replicas=replicas)
        app = create_app(settings, service=service, explained=explained)
        url = address_of(listener, settings)

        def told() -> None:
            key = " with an API key" if settings.keys else ""
            say(f"Safelight serves {url}{key}; pictures go to {shown(settings.out)}/")

        asyncio.run(serve(app, service, listener, told=told))


def _replicas(settings: "ServerSettings") -> "AbstractContextManager[Sequence[FarPainter]]":
    """What draws in place of this process, if anything does."""
    if not settings.ray:
        return nullcontext(())
    from safelight.server.ray_painters import ray_painters

    return ray_painters(settings)
