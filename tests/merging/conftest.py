"""Tiny families on disk, each written once and kept for the session; do not change them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny
from on_disk import OnDisk


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OnDisk]:
    """A family with weights of a seed, in both layouts, and as NAME.ckpt beside."""
    root = tmp_path_factory.mktemp("families")
    written: dict[tuple[str, int], OnDisk] = {}

    def get(name: str, seed: int = 0) -> OnDisk:
        if (name, seed) not in written:
            made = tiny.oracle(name, seed)
            stem = f"{name}-{seed}"
            written[name, seed] = OnDisk(
                made,
                tiny.write_folder(made, root / stem),
                tiny.write_single(made, root / f"{stem}.safetensors"),
            )
            state = {"state_dict": tiny.original_state(made), "global_step": 7}
            torch.save(state, root / f"{stem}.ckpt")
        return written[name, seed]

    return get


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in; hashes are not remembered in the user's home."""
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
