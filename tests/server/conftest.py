"""A place of its own for every server, far from the models of whoever runs the tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_tiny import tiny_model
from safelight.checkpoints.save import save
from safelight.server import service
from safelight.server.registry import Listed, Registry
from safelight.text.bpe import Tokenizer
from server_fake import FakePainter
from server_live import live
from server_page import BROWSER, Visit


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


@pytest.fixture
def shelves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that lists a model, a LoRA and a control network, none of which can be read."""
    items = [
        Listed("plain", tmp_path / "plain.safetensors", "model", "SD 1.5", size=5),
        Listed("style", tmp_path / "style.safetensors", "lora"),
        Listed("edges", tmp_path / "edges.safetensors", "control"),
    ]
    monkeypatch.setattr(service, "listed", lambda *_: Registry(items))
    # nothing is read of a model that is not there
    monkeypatch.setattr("safelight.server.furnishing._tokenizer", lambda *_: Tokenizer())


@pytest.fixture(scope="module")  # its loop keeps others of the same thread from running
def browser() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def visit(browser: Any, shelves: None, tmp_path: Path) -> Iterator[Visit]:
    """The page of a server whose pictures cost nothing."""
    with live(tmp_path / "out", FakePainter(step=0.05)) as port:
        made = Visit(browser, port)
        yield made
        made.page.close()
