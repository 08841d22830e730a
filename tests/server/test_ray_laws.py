"""What the queue promises it promises when a replica draws, too: the same tests, over the wire."""

import pytest
from test_service_laws import *  # noqa: F403

from safelight.server import service
from safelight.server.painter import Painter
from safelight.server.ray_painters import RemotePainter
from server_replicas import ThreadLine

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def at_a_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever painter a server is given draws in a replica."""
    real = service.Service.__init__

    def removed(
        self: service.Service, *args: object, painter: Painter | None = None, **rest: object
    ) -> None:
        far = None if painter is None else RemotePainter(lambda: ThreadLine(painter))
        real(self, *args, painter=far, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(service.Service, "__init__", removed)
