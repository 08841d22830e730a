"""On a device other than the CPU, PyTorch's just-in-time compiler works in a private folder."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cli_tiny import tiny_model
from models_tiny import distance, random
from safelight.engines.compiled_on_device import CACHES, FOLDER, JustInTimeUNet
from safelight.errors import FileError, RequestError
from safelight.models.unet import UNet


def given() -> tuple[Tensor, ...]:
    return random(2, 4, 8, 8), torch.tensor([10.0, 900.0]), random(2, 7, 64, seed=2)


@pytest.fixture
def unet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UNet:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path))
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    return tiny_model().network.unet


def standing_in(monkeypatch: pytest.MonkeyPatch, seen: list[dict[str, str | None]]) -> None:
    """A compiler that does nothing but to note where it may put things."""

    def compile_(method: Any, *, dynamic: bool) -> Any:
        assert dynamic is False

        def work(*args: Any, **told: Any) -> Any:
            seen.append({name: os.environ.get(name) for name in CACHES})
            return method(*args, **told)

        return work

    monkeypatch.setattr(torch, "compile", compile_)


def test_its_products_lie_in_a_private_folder(
    unet: UNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str | None]] = []
    standing_in(monkeypatch, seen)
    runner = JustInTimeUNet(unet, "compiled", frozenset())
    with torch.no_grad():
        assert torch.equal(runner(*given(), level=None), unet(*given()))
    assert seen == [{name: str(tmp_path / FOLDER / inner) for name, inner in CACHES.items()}]
    assert not any(name in os.environ for name in CACHES)
    (tmp_path / FOLDER).chmod(0o755)
    with pytest.raises(FileError, match="open to other users"):
        runner(*given())


def test_a_folder_that_the_user_named_is_used(unet: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str | None]] = []
    standing_in(monkeypatch, seen)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    JustInTimeUNet(unet, "compiled", frozenset())(*given())
    assert seen[0]["TRITON_CACHE_DIR"] == "/mine" == os.environ["TRITON_CACHE_DIR"]


def test_a_new_size_is_told_once(
    unet: UNet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    standing_in(monkeypatch, [])
    runner = JustInTimeUNet(unet, "compiled", frozenset())
    for _ in range(2):
        runner(*given())
    assert [record.getMessage() for record in caplog.records] == [
        "compiling the U-Net for a size that was not asked before in this run; the second run is "
        "quicker"
    ]


def test_what_the_compiler_cannot_is_an_error_that_says_so(
    unet: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.exc import InternalTorchDynamoError

    def compile_(method: Any, *, dynamic: bool) -> Any:
        def work(*args: Any, **told: Any) -> Any:
            raise InternalTorchDynamoError("no such thing\nmore")

        return work

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(RequestError, match="could not compile this model: no such thing; draw"):
        JustInTimeUNet(unet, "compiled", frozenset())(*given())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of PyTorch's own making
def test_it_gives_what_the_modules_give(unet: UNet) -> None:
    runner = JustInTimeUNet(unet, "compiled", frozenset())
    with torch.no_grad():
        assert distance(runner(*given()), unet(*given())) < 1e-4
