"""Tiny models on disk, and a place of its own for every command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cli_tiny import Cli, Ran, tiny_model
from safelight.checkpoints.save import save
from safelight.cli.main import run


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: sd15.safetensors in fp32, half.safetensors in fp16, the folder sd15."""
    folder = tmp_path_factory.mktemp("shelf")
    made = tiny_model()
    save(made, folder / "sd15.safetensors", "ldm")
    save(made, folder / "half.safetensors", "ldm", dtype=torch.float16)
    save(made, folder / "sd15", "diffusers")
    return folder


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hashes are remembered from test to test, but not in the user's home."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def place(tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to stand in, far from the models of whoever runs the tests."""
    monkeypatch.setenv("SAFELIGHT_HOME", str(caches / "home"))
    monkeypatch.setenv("SAFELIGHT_CACHE", str(caches / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(caches / "hub"))
    monkeypatch.delenv("SAFELIGHT_DEBUG", raising=False)
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    yield folder
    assert torch.get_num_threads() == threads, "a command line gives the threads back"


@pytest.fixture
def safelight(place: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line in this process."""

    def ran(*args: object) -> Ran:
        capsys.readouterr()
        code = run([str(arg) for arg in args])
        return Ran(code, *capsys.readouterr())

    return ran


@pytest.fixture
def model(shelf: Path) -> Path:
    return shelf / "sd15.safetensors"


@pytest.fixture
def drawn(safelight: Cli, model: Path, place: Path) -> Path:
    """A picture drawn in the folder out/."""
    ran = safelight(
        "generate", "a red apple", "-m", model, "--size", "64x64", "--steps", "2", "--seed", "5"
    )
    assert ran.code == 0, ran.err
    return place / "out" / "5-a-red-apple.png"
