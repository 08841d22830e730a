"""`safelight models` as a user runs it."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from safelight.checkpoints.hashes import sha256
from safelight.cli.main import run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def embedding(home: Path) -> Path:
    path = home / "webui" / "embeddings" / "sty\x1ble.safetensors"
    path.parent.mkdir(parents=True)
    (home / "webui" / "models").mkdir()
    safetensors.torch.save_file({"emb_params": torch.zeros(2, 768)}, path)
    return path


def test_nothing_says_where_it_looked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert str(home / "home" / "models") in err
    assert "safelight download" in err


def test_a_table_names_kind_type_and_size(
    home: Path, embedding: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "--folder", str(home / "webui")]) == 0
    out = capsys.readouterr().out
    assert "sty\\x1ble.safetensors" in out, "control characters are escaped"
    assert "\x1b" not in out
    assert "textual inversion for SD 1" in out
    assert "fp32" in out
    assert sha256(embedding)[:10] not in out


def test_hash_computes_what_is_not_known(
    home: Path, embedding: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "--folder", str(home / "webui"), "--hash"]) == 0
    assert sha256(embedding)[:10] in capsys.readouterr().out
    assert run(["models", "--folder", str(home / "webui")]) == 0
    assert sha256(embedding)[:10] in capsys.readouterr().out


def test_json_holds_everything(
    home: Path, embedding: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedding.with_name("bad.ckpt").write_bytes(b"\x80\x02N.")
    assert run(["models", "--folder", str(home / "webui"), "--json"]) == 0
    bad, good = json.loads(capsys.readouterr().out)
    assert "bad.ckpt" in bad["fault"]
    assert good["path"] == str(embedding)
    assert good["bytes"] == embedding.stat().st_size
    assert (good["layout"], good["dtype"], good["fault"]) == ("file", "fp32", None)


def test_a_folder_that_does_not_exist_is_wrong_input(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "--folder", str(home / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
