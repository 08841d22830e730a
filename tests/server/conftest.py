"""A place of its own for every server, far from the models of whoever runs the tests."""

from pathlib import Path

import pytest

from cli_tiny import tiny_model
from safelight.checkpoints.save import save
from safelight.server import service
from safelight.server.registry import Listed, Registry


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server-caches")


@pytest.fixture(autouse=True)
def far_from_home(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(caches / "home"))
    monkeypatch.setenv("SAFELIGHT_CACHE", str(caches / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(caches / "hub"))
    monkeypatch.delenv("SAFELIGHT_API_KEY", raising=False)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two tiny models: one.safetensors and two.safetensors."""
    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("one", "two")):
        save(tiny_model(number), folder / f"{name}.safetensors", "ldm")
    return folder


@pytest.fixture
def plain_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that lists one model, called "plain"."""
    item = Listed("plain", tmp_path / "plain.safetensors", "model", "SD 1.5", size=5)
    monkeypatch.setattr(service, "listed", lambda *args, **more: Registry([item]))
