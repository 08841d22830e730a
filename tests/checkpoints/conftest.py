"""Tiny families on disk, each written once and kept for the session; do not change them."""

from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from on_disk import OnDisk
from own_model import model_of, small_family, vision_of
from safelight.checkpoints.save import save
from safelight.model import Model


@pytest.fixture(scope="session")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], OnDisk]:
    root = tmp_path_factory.mktemp("families")
    written: dict[str, OnDisk] = {}

    def get(name: str) -> OnDisk:
        if name not in written:
            made = tiny.oracle(name)
            written[name] = OnDisk(
                made,
                tiny.write_folder(made, root / name),
                tiny.write_single(made, root / f"{name}.safetensors"),
            )
        return written[name]

    return get


@pytest.fixture(scope="session")
def small() -> Model:
    """A small model with words of its own; not to be changed."""
    return model_of(small_family())


@pytest.fixture(scope="session")
def folder(small: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model in a folder, with a vision tower beside; not to be changed."""
    path = tmp_path_factory.mktemp("own") / "model"
    save(small, path, image_encoder=vision_of())
    return path
