"""What lies on this machine, and where a name leads."""

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from safelight.checkpoints import library
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.library import described, entries, find_model, places, short_name
from safelight.errors import FileError, RequestError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own: Safelight's folder, the Hugging Face cache and the hash cache."""
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def touch(path: Path, *, dtype: torch.dtype = torch.float16, name: str = "a") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({name: torch.zeros(4, dtype=dtype)}, path)
    elif path.suffix == ".json":
        path.write_text("{}")
    else:
        torch.save({name: torch.zeros(4, dtype=dtype)}, path)
    return path


def names(*folders: Path) -> list[tuple[str, str]]:
    return [(e.name, e.layout) for e in entries(places(folders))]


def test_an_empty_machine_holds_nothing() -> None:
    assert names() == []


def test_files_and_folders_of_parts_are_found_by_name(home: Path) -> None:
    ours = home / "home" / "models"
    touch(ours / "dream.safetensors")
    touch(ours / "sd15" / "old.ckpt")
    touch(ours / "owner" / "sdxl" / "model_index.json")
    touch(ours / "owner" / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors")
    touch(ours / "vae" / "config.json")
    touch(ours / "vae" / "diffusion_pytorch_model.bin")
    touch(ours / ".cache" / "hidden.safetensors")
    (ours / "notes.txt").write_text("no model")
    assert names() == [
        ("dream.safetensors", "file"),
        ("owner/sdxl", "folder"),
        ("sd15/old.ckpt", "file"),
        ("vae", "folder"),
    ]


def test_the_hugging_face_cache_gives_the_snapshot_of_main(home: Path) -> None:
    repository = home / "hub" / "models--owner--name"
    blob = touch(repository / "blobs" / "x.safetensors").rename(repository / "blobs" / "abc")
    for commit in ("111", "222"):
        snapshot = repository / "snapshots" / commit / "unet"
        snapshot.mkdir(parents=True)
        (snapshot / "diffusion_pytorch_model.safetensors").symlink_to(blob)
        (snapshot.parent / "model_index.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("111")
    touch(home / "hub" / "datasets--owner--data" / "snapshots" / "1" / "a.safetensors")
    touch(home / "hub" / "models--owner--files" / "snapshots" / "1" / "a.safetensors")
    found = list(entries(places()))
    assert [(e.name, e.layout) for e in found] == [
        ("owner/files/a.safetensors", "file"),
        ("owner/name", "folder"),
    ]
    assert found[1].path.name == "111"
    (repository / "refs" / "main").unlink()
    os.utime(repository / "snapshots" / "222", (2e9, 2e9))
    assert find_model("owner/name").name == "222"


def test_folders_of_other_programs_are_read_below_models_and_embeddings(home: Path) -> None:
    webui = home / "webui"
    touch(webui / "models" / "Stable-diffusion" / "a.ckpt")
    touch(webui / "models" / "Lora" / "b.safetensors")
    touch(webui / "embeddings" / "c.pt")
    touch(webui / "venv" / "lib" / "d.pt")
    assert names(webui) == [
        ("Lora/b.safetensors", "file"),
        ("Stable-diffusion/a.ckpt", "file"),
        ("c.pt", "file"),
    ]
    assert names(webui / "models") == names(webui)[:2]


def test_a_folder_of_parts_given_itself_is_one_entry(home: Path) -> None:
    touch(home / "mine" / "model_index.json")
    assert names(home / "mine") == [("mine", "folder")]


def test_loops_of_links_end(home: Path) -> None:
    ours = home / "home" / "models"
    touch(ours / "sub" / "a.safetensors")
    (ours / "sub" / "up").symlink_to(ours)
    (ours / "self").symlink_to("self")
    assert names() == [("sub/a.safetensors", "file")]


def test_a_path_is_itself(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = touch(home / "elsewhere" / "a.safetensors")
    assert find_model(str(path)) == path
    assert find_model(str(path.parent)) == path.parent
    monkeypatch.setenv("HOME", str(home))
    assert find_model("~/elsewhere/a.safetensors") == path


@pytest.mark.parametrize(
    "name",
    ["sd15/Dream.safetensors", "Dream.safetensors", "Dream", "dream", "SD15/dream", "sd15\\dream"],
)
def test_a_name_may_leave_out_folders_suffix_and_case(home: Path, name: str) -> None:
    path = touch(home / "home" / "models" / "sd15" / "Dream.safetensors")
    touch(home / "home" / "models" / "daydream.safetensors")
    assert find_model(name) == path


def test_a_name_that_fits_two_models_asks_which(home: Path) -> None:
    ours = home / "home" / "models"
    touch(ours / "a" / "x.safetensors")
    first = touch(ours / "b" / "x.safetensors")
    with pytest.raises(RequestError, match=r"x may be a/x\.safetensors or b/x\.safetensors"):
        find_model("x")
    assert find_model("b/x") == first


def test_of_equal_names_the_first_place_wins(home: Path) -> None:
    touch(home / "hub" / "models--owner--name" / "snapshots" / "1" / "model_index.json")
    ours = touch(home / "home" / "models" / "owner" / "name" / "model_index.json").parent
    assert find_model("owner/name") == ours


def test_an_unknown_name_suggests_the_nearest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(home / "home" / "models" / "sd15" / "dreamshaper_8.safetensors")
    with pytest.raises(FileError, match=r"did you mean sd15/dreamshaper_8\.safetensors\? Give"):
        find_model("dreamshaper8")
    touch(home / "elsewhere" / "realistic.ckpt")
    with pytest.raises(FileError, match=r"did you mean \S*elsewhere/realistic\.ckpt\?"):
        find_model(str(home / "elsewhere" / "realistc.ckpt"))
    with pytest.raises(FileError, match=r"there is no model zzz; give a file"):
        find_model("zzz")
    for impossible in ("a\0b", "x" * 5000):
        with pytest.raises(FileError):
            find_model(impossible)


def test_a_description_gives_size_type_kind_and_known_hash(home: Path) -> None:
    path = home / "home" / "models" / "style.safetensors"
    path.parent.mkdir(parents=True)
    state = {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (
            torch.zeros(4, 768, dtype=torch.float16)
        ),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (
            torch.zeros(320, 4, dtype=torch.float16)
        ),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.alpha": (
            torch.tensor(4.0)
        ),
    }
    safetensors.torch.save_file(state, path)
    (entry,) = entries(places())
    first = described(entry)
    assert (first.dtype, first.size, first.fault) == ("fp16", path.stat().st_size, None)
    assert first.what.startswith("lora for SD 1")
    assert first.sha256 is None
    assert sha256(path) == described(entry).sha256


def test_a_damaged_file_is_listed_with_its_fault(home: Path) -> None:
    path = touch(home / "home" / "models" / "bad.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    code = home / "home" / "models" / "code.ckpt"
    code.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    faults = [described(entry).fault or "" for entry in entries(places())]
    assert "truncated" in faults[0]
    assert "os.system" in faults[1]


def test_a_folder_without_weights_is_listed_with_its_fault(home: Path) -> None:
    index = touch(home / "home" / "models" / "empty" / "model_index.json")
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (entry,) = entries(places())
    assert described(entry).fault


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float16, "fp16"),
        (torch.bfloat16, "bf16"),
        (torch.float32, "fp32"),
        (torch.float8_e4m3fn, "fp8"),
        (torch.int64, "int64"),
        (torch.bool, "bool"),
    ],
)
def test_types_have_short_names(dtype: torch.dtype, name: str) -> None:
    assert short_name(dtype) == name


def test_the_folders_follow_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SAFELIGHT_HOME", "HF_HUB_CACHE", "HF_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert library.models_folder() == Path("/home/a/.local/share/safelight/models")
    assert library.hub_cache() == Path("/home/a/.cache/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/data/hf")
    assert library.hub_cache() == Path("/data/hf/hub")
    monkeypatch.setattr("sys.platform", "darwin")
    assert library.models_folder().parts[-4:-2] == ("Library", "Application Support")
