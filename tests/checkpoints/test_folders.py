"""Diffusers folders: which files hold the weights, and whether all of them are there."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from safelight.checkpoints.folders import find_weights, open_folder, read_json
from safelight.errors import FileError

STEM = "diffusion_pytorch_model"


def found(folder: Path, variant: str | None = None, stem: str = STEM) -> list[str]:
    return [path.name for path in find_weights(folder, stem, variant)]


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def shards(folder: Path, variant: str = "", suffix: str = ".safetensors") -> dict[str, str]:
    dot = f".{variant}" if variant else ""
    index: dict[str, str] = {}
    for i in range(1, 4):
        name = f"{STEM}{dot}-{i:05d}-of-00003{suffix}"
        safetensors.torch.save_file({f"layer.{i}": torch.full((2,), float(i))}, folder / name)
        index[f"layer.{i}"] = name
    return index


def write_index(folder: Path, index: object, variant: str = "") -> None:
    dot = f".{variant}" if variant else ""
    path = folder / f"{STEM}.safetensors.index{dot}.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))


def test_safetensors_come_before_pickles_and_whole_files_before_shards(tmp_path: Path) -> None:
    make(tmp_path, f"{STEM}.bin", f"{STEM}-00001-of-00001.safetensors", "other.safetensors")
    assert found(tmp_path) == [f"{STEM}-00001-of-00001.safetensors"]
    make(tmp_path, f"{STEM}.safetensors")
    assert found(tmp_path) == [f"{STEM}.safetensors"]


def test_a_variant_is_taken_when_asked_or_alone(tmp_path: Path) -> None:
    make(tmp_path, f"{STEM}.fp16.safetensors")
    assert found(tmp_path) == found(tmp_path, "fp16") == [f"{STEM}.fp16.safetensors"]
    make(tmp_path, f"{STEM}.safetensors", f"{STEM}.non_ema.safetensors")
    assert found(tmp_path) == [f"{STEM}.safetensors"]
    assert found(tmp_path, "non_ema") == [f"{STEM}.non_ema.safetensors"]


def test_a_missing_variant_says_which_there_are(tmp_path: Path) -> None:
    make(tmp_path, f"{STEM}.safetensors", f"{STEM}.fp16.safetensors")
    with pytest.raises(FileError, match=r"no variant bf16 of .* found: without variant, fp16"):
        find_weights(tmp_path, STEM, "bf16")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileError, match="found: none"):
        find_weights(empty, STEM)
    with pytest.raises(FileError, match="cannot be listed"):
        find_weights(tmp_path / "absent", STEM)


def test_two_variants_and_no_plain_file_ask_for_a_choice(tmp_path: Path) -> None:
    make(tmp_path, f"{STEM}.bf16.safetensors", f"{STEM}.fp16.safetensors")
    with pytest.raises(FileError, match="found: bf16, fp16"):
        find_weights(tmp_path, STEM)


def test_a_pickled_text_encoder_goes_by_its_other_name(tmp_path: Path) -> None:
    make(tmp_path, "pytorch_model.bin", "pytorch_model.fp16.bin")
    assert found(tmp_path, stem="model") == ["pytorch_model.bin"]
    assert found(tmp_path, "fp16", stem="model") == ["pytorch_model.fp16.bin"]
    make(tmp_path, "model.safetensors")
    assert found(tmp_path, stem="model") == ["model.safetensors"]


def test_a_plain_pickle_comes_before_another_variant(tmp_path: Path) -> None:
    """The variant is the user's choice, the container is ours."""
    make(tmp_path, f"{STEM}.bin", f"{STEM}.fp16.safetensors")
    assert found(tmp_path) == [f"{STEM}.bin"]


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_shards_read_as_one_file(tmp_path: Path, variant: str) -> None:
    write_index(tmp_path, shards(tmp_path, variant), variant)
    with open_folder(tmp_path, STEM, variant or None) as weights:
        assert list(weights.header) == ["layer.1", "layer.2", "layer.3"]
        assert weights.read("layer.3").tolist() == [3, 3]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / f"{STEM}-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileError, match=r"2 of 3 shards; .*-00002-of-00003\.safetensors is lost"):
        find_weights(tmp_path, STEM)
    make(tmp_path, f"{STEM}-00002-of-00003.safetensors", f"{STEM}-00001-of-00002.safetensors")
    with pytest.raises(FileError, match="mixes shards"):
        find_weights(tmp_path, STEM)


@pytest.mark.parametrize(
    "elsewhere",
    ["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", "other.safetensors", 7, None],
)
def test_an_index_may_only_name_its_own_shards(tmp_path: Path, elsewhere: object) -> None:
    index: dict[str, object] = {**shards(tmp_path), "layer.1": elsewhere}
    write_index(tmp_path, index)
    with pytest.raises(FileError, match=r"index\.json puts layer\.1 in"):
        open_folder(tmp_path, STEM)


def test_an_index_and_its_shards_must_agree(tmp_path: Path) -> None:
    index = shards(tmp_path)
    write_index(tmp_path, {**index, "layer.9": index["layer.1"]})
    with pytest.raises(FileError, match=r"names layer\.9, which none"):
        open_folder(tmp_path, STEM)
    write_index(tmp_path, {k: v for k, v in index.items() if k != "layer.2"})
    with pytest.raises(FileError, match=r"does not name layer\.2"):
        open_folder(tmp_path, STEM)
    write_index(tmp_path, list(index))
    with pytest.raises(FileError, match="no weight_map"):
        open_folder(tmp_path, STEM)


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(tmp_path: Path) -> None:
    index = shards(tmp_path)
    write_index(tmp_path, {**index, "layer.1": index["layer.2"], "layer.2": index["layer.1"]})
    with pytest.raises(FileError, match=r"puts layer\.1 in .*-00002-of-"):
        open_folder(tmp_path, STEM)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "1", '{"a": NaN', "\udcff", '{"a":' * 100_000, '{"a": ' + "9" * 5000]
)
def test_a_damaged_settings_file_is_a_file_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FileError, match=r"config\.json"):
        read_json(path)


def test_a_settings_file_reads(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": [1, 2.5, "ü"], "b": null}', encoding="utf-8")
    assert read_json(path) == {"a": [1, 2.5, "ü"], "b": None}
