"""Tiny families on disk, each written once and kept for the session; do not change them."""

from collections.abc import Callable

import pytest

import tiny
from on_disk import OnDisk


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
