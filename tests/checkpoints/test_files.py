"""The door: one error for what is not a weights file, and the help it gives."""

import os
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from safelight.checkpoints.files import open_shards, open_weights
from safelight.checkpoints.finite import check_finite
from safelight.errors import FileError
from safelight.printable import shown


def write(path: Path, **tensors: torch.Tensor) -> Path:
    safetensors.torch.save_file(tensors, path)
    return path


def test_a_missing_file_suggests_the_nearest_names(tmp_path: Path) -> None:
    for name in ("dreamshaper_8.safetensors", "v1-5-pruned.ckpt", "other.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(FileError, match=r"does not exist; did you mean dreamshaper_8\.safeten"):
        open_weights(tmp_path / "DreamShaper8.safetensors")
    with pytest.raises(FileError, match=r"does not exist; did you mean v1-5-pruned\.ckpt"):
        open_weights(str(tmp_path / "v1-5-prune.safetensors"))
    with pytest.raises(FileError, match=r"does not exist$"):
        open_weights(tmp_path / "zzzzzz")
    with pytest.raises(FileError, match="neither does the folder"):
        open_weights(tmp_path / "no" / "model.ckpt")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, ""])
def test_an_impossible_name_is_a_file_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError):
        open_weights(f"{tmp_path}/{name}")


def test_a_file_without_permission_is_a_file_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", a=torch.zeros(1))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(FileError, match="cannot be opened: Permission denied"):
        open_weights(path)


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    """Nothing stays open after an error, so that a folder scan cannot run out of descriptors."""
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\0" * 100)
    open_files = Path("/proc/self/fd")
    if not open_files.exists():
        pytest.skip("no /proc")
    before = len(list(open_files.iterdir()))
    for _ in range(20):
        with pytest.raises(FileError):
            open_weights(path)
    assert len(list(open_files.iterdir())) == before


def test_shards_read_as_one_file(tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", a=torch.ones(2), b=torch.zeros(3))
    second = write(tmp_path / "b.safetensors", c=torch.full((2,), 2.0))
    with open_shards([first, second]) as weights:
        assert list(weights.header) == ["a", "b", "c"]
        assert weights.read("c").tolist() == [2, 2]
        assert weights.read("a", dtype=torch.float16).dtype == torch.float16
        assert weights.path == tmp_path
        with pytest.raises(FileError, match="no tensor named d"):
            weights.read("d")
    with open_shards([first]) as alone:
        assert alone.path == first


def test_shards_that_share_a_name_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", a=torch.ones(2))
    second = write(tmp_path / "b.safetensors", a=torch.ones(2))
    with pytest.raises(FileError, match=r"a is in a\.safetensors and again in b\.safetensors"):
        open_shards([first, second])
    with pytest.raises(FileError, match="no weights files"):
        open_shards([])


def test_threads_may_read_one_file_together(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((5000,), float(i)) for i in range(8)}
    path = write(tmp_path / "a.safetensors", **tensors)
    wrong: list[str] = []
    with open_weights(path) as weights:

        def work(name: str) -> None:
            for _ in range(20):
                if not torch.equal(weights.read(name, copy=True), tensors[name]):
                    wrong.append(name)

        threads = [threading.Thread(target=work, args=(name,)) for name in tensors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_names_are_printed_on_one_line_and_bounded() -> None:
    assert shown("a\nb\x1b[31m\u202e\udc80") == "a\\nb\\x1b[31m\\u202e\\udc80"
    assert shown("ünï code") == "ünï code"
    assert len(shown("x" * 10_000)) < 250
    assert shown(b"\0") == "b'\\x00'"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("full", [False, True])
def test_a_tensor_that_is_not_finite_is_named(value: float, full: bool) -> None:
    weights = {"good": torch.ones(10), "count": torch.arange(3), "bad": torch.ones(2, 3)}
    check_finite(weights.items(), "model.ckpt", full=full)
    weights["bad"][1, 2] = value
    with pytest.raises(FileError, match=r"model\.ckpt: tensor bad holds NaN or infinity \(1 of 6"):
        check_finite(weights.items(), "model.ckpt", full=full)


def test_a_sample_finds_a_damaged_region_and_the_full_check_a_single_number() -> None:
    large = torch.ones(3000, 1000)
    large[1234, 567] = torch.nan
    check_finite([("large", large)], "x")
    with pytest.raises(FileError, match="1 of 3000000 numbers"):
        check_finite([("large", large)], "x", full=True)
    large[1000:1010] = torch.nan  # a third of a percent
    with pytest.raises(FileError, match="of 4096 numbers sampled"):
        check_finite([("large", large)], "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_every_float_type_is_checked(dtype: torch.dtype) -> None:
    sound = torch.ones(4, 5).to(dtype)
    check_finite([("a", sound), ("t", sound.t()), ("none", sound[:0])], "x")
    broken = torch.tensor([1.0, torch.nan]).to(dtype)
    with pytest.raises(FileError):
        check_finite([("a", broken)], "x")
