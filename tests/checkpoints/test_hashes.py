"""Hashes of weights files: those of sha256sum, A1111 and kohya, and when they are remembered."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch

from safelight.checkpoints import hashes
from safelight.errors import FileError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAFELIGHT_CACHE", str(folder))
    return folder / "hashes.json"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.arange(500_000)}, path, {"note": "x"})
    return path


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects one entry for each file that is really hashed."""
    calls: list[int] = []
    real = hashes._digest
    monkeypatch.setattr(hashes, "_digest", lambda f, s: calls.append(s) or real(f, s))
    return calls


def test_the_hash_is_that_of_the_bytes(path: Path) -> None:
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashes.sha256(path) == expected
    assert hashes.short_hash(path) == expected[:10]


def test_the_content_hash_ignores_the_notes(path: Path, tmp_path: Path) -> None:
    """kohya's rule: everything behind the 8 bytes of length and the header."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    assert hashes.content_sha256(path) == hashlib.sha256(raw[start:]).hexdigest()
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.arange(500_000)}, other, {"note": "quite another"})
    assert hashes.content_sha256(other) == hashes.content_sha256(path)
    assert hashes.sha256(other) != hashes.sha256(path)
    text = tmp_path / "a.ckpt"
    text.write_text("no safetensors")
    with pytest.raises(FileError, match=r"a\.ckpt is not a safetensors file"):
        hashes.content_sha256(text)
    short = tmp_path / "short.safetensors"
    for size, fault in (
        (0, "is empty; download"),
        (40, "is truncated or not a safetensors file; "),
    ):
        short.write_bytes(raw[:size])
        with pytest.raises(FileError, match=rf"short\.safetensors .*{fault}"):
            hashes.content_sha256(short)


def test_the_old_hash_reads_64_kib_at_1_mib(path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    assert hashes.old_short_hash(path) == hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]
    small = tmp_path / "small"
    small.write_bytes(b"abc")
    # Nothing lies at 1 MiB of a small file: the hash of nothing.
    assert hashes.old_short_hash(small) == "e3b0c442"


def test_a_hash_is_computed_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    assert hashes.known_sha256(path) is None
    first = hashes.sha256(path)
    assert hashes.sha256(path) == hashes.known_sha256(path) == first
    assert len(calls) == 1
    hashes.content_sha256(path)
    assert len(calls) == 2
    assert hashes.sha256(path) == first


def test_a_changed_file_is_hashed_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    old = hashes.sha256(path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    before = path.stat()
    path.write_bytes(raw)  # same size, same inode
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert hashes.known_sha256(path) is None
    assert hashes.sha256(path) != old
    replaced = path.with_name("new")
    replaced.write_bytes(raw)
    os.utime(replaced, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    os.replace(replaced, path)  # same size and time, another inode
    assert hashes.known_sha256(path) is None
    hashes.sha256(path)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"x": 1}',
        b"[" * 100_000,
        "short",
        "number",
        "upper",
    ],
)
def test_a_damaged_cache_is_ignored(path: Path, cache: Path, damage: bytes | str) -> None:
    expected = hashes.sha256(path)
    if isinstance(damage, bytes):
        cache.write_bytes(damage)
    else:
        wrong: object = {"short": "abc", "number": 7, "upper": "Z" * 64}[damage]
        entries = {k: [*v[:-1], wrong] for k, v in json.loads(cache.read_text()).items()}
        cache.write_text(json.dumps(entries))
    assert hashes.known_sha256(path) is None
    assert hashes.sha256(path) == expected
    assert hashes.known_sha256(path) == expected


def test_a_cache_that_cannot_be_written_costs_only_time(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("SAFELIGHT_CACHE", str(blocked))
    assert hashes.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_cache_leaves_no_other_files(path: Path, cache: Path) -> None:
    hashes.sha256(path)
    assert [entry.name for entry in cache.parent.iterdir()] == ["hashes.json"]


def test_a_folder_hash_is_what_sha256sum_prints(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for name in ("model_index.json", "unet/config.json", "unet/a.safetensors", "vocab.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "README.md").write_text("not part of it")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "a.json").write_text("{}")
    names = ["model_index.json", "unet/a.safetensors", "unet/config.json", "vocab.txt"]
    listed = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)
    assert hashes.folder_sha256(folder) == hashlib.sha256(listed.stdout).hexdigest()
    before = hashes.folder_sha256(folder)
    (folder / "README.md").unlink()
    assert hashes.folder_sha256(folder) == before
    (folder / "vocab.txt").rename(folder / "vocab2.txt")
    assert hashes.folder_sha256(folder) != before
    with pytest.raises(FileError, match="no weights"):
        hashes.folder_sha256(tmp_path / "model" / ".cache" / "nothing")


def test_the_cache_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFELIGHT_CACHE")
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/b")
    monkeypatch.setattr("sys.platform", "linux")
    assert hashes.cache_folder() == Path("/var/b/safelight")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert hashes.cache_folder() == Path("/home/a/.cache/safelight")
    monkeypatch.setattr("sys.platform", "darwin")
    assert hashes.cache_folder() == Path("/home/a/Library/Caches/safelight")
