"""Files that a server lists and never opens."""

from pathlib import Path

import pytest

from safelight.server.registry import Listed, Registry


def lists(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let servers list two models and one add-on of every kind, as if they lay in a folder."""
    items = [
        Listed("plain", folder / "plain.safetensors", "model", "SD 1.5", size=5),
        Listed("other", folder / "other.safetensors", "model"),
        Listed("good-vae", folder / "good-vae.safetensors", "vae"),
        Listed("style", folder / "style.safetensors", "lora"),
        Listed("net", folder / "net.pt", "hypernetwork"),
        Listed("edges", folder / "edges.safetensors", "control"),
    ]
    monkeypatch.setattr("safelight.server.service.listed", lambda *_: Registry(items))
