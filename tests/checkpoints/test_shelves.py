"""A name leads to one file, or to an error that says what there is."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safelight.checkpoints.shelves import Addon, find_addon, shelf_folders, shelved
from safelight.errors import FileError, RequestError


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no library but one of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def lora(path: Path, value: float = 1.0, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"lora_unet_x.lora_{n}.weight": torch.full((2, 2), value) for n in ("up", "down")}
    save_file(tensors, path, metadata=metadata or None)
    return path


SHELVES: dict[str, tuple[Addon, str, str]] = {
    "beside the model": ("lora", "models/sd/model.ckpt", "models/sd/loras/style.safetensors"),
    "as A1111 has them": (
        "lora",
        "models/Stable-diffusion/m.ckpt",
        "models/Lora/style.safetensors",
    ),
    "as ComfyUI has them": ("lora", "models/checkpoints/m.ckpt", "models/loras/style.safetensors"),
    "A1111's words": ("embedding", "models/Stable-diffusion/m.ckpt", "embeddings/style.pt"),
    "in a subfolder": ("embedding", "m.ckpt", "embeddings/a/b/style.pt"),
    "hypernetworks": ("hypernetwork", "models/sd/m.ckpt", "models/hypernetworks/style.pt"),
    "here": ("lora", "elsewhere/far/away/m.ckpt", "loras/style.safetensors"),
    "of the library": ("lora", "elsewhere/m.ckpt", "home/models/loras/style.safetensors"),
    "loose in this folder": ("lora", "elsewhere/m.ckpt", "style.safetensors"),
    "loose in the library": ("lora", "elsewhere/m.ckpt", "home/models/mine/style.safetensors"),
}


@pytest.mark.parametrize("where", SHELVES)
def test_names_are_found_where_other_programs_keep_them(where: str, place: Path) -> None:
    kind, model, file = SHELVES[where]
    lora(place / file)
    (place / model).parent.mkdir(parents=True, exist_ok=True)
    for name in ("style", Path(file).name, "STYLE"):
        found = find_addon(kind, name, place / model)
        assert found.resolve() == (place / file).resolve()


def test_a_path_is_taken_as_it_is_and_a_hub_folder_stands_for_its_weights(place: Path) -> None:
    file = lora(place / "far" / "away.safetensors")
    assert find_addon("lora", str(file)) == file
    inner = lora(place / "loras" / "lcm-lora" / "pytorch_lora_weights.safetensors")
    assert find_addon("lora", str(inner.parent)) == inner
    assert find_addon("lora", "lcm-lora").resolve() == inner


def test_a_folder_in_the_name_tells_files_of_one_name_apart(place: Path) -> None:
    first, second = (lora(place / f"loras/{n}/style.safetensors", i) for i, n in enumerate("ab"))
    with pytest.raises(RequestError, match=r"style may be loras/a/.* or loras/b/.*--lora FILE"):
        find_addon("lora", "style")
    assert find_addon("lora", "a/style").resolve() == first
    assert find_addon("lora", "b\\style").resolve() == second


def test_copies_of_one_file_are_no_two_and_case_tells_names_apart(place: Path) -> None:
    lora(place / "loras/a/style.safetensors")
    lora(place / "loras/b/style.safetensors")
    assert find_addon("lora", "style").name == "style.safetensors"
    upper = lora(place / "loras/Style.safetensors", 3.0)
    assert find_addon("lora", "Style").resolve() == upper


def test_a_lora_may_be_called_by_the_title_in_its_file(place: Path) -> None:
    file = lora(place / "loras/x-000012.safetensors", ss_output_name="watercolour")
    assert find_addon("lora", "watercolour").resolve() == file


def test_a_model_of_that_name_is_no_lora(place: Path) -> None:
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, "style.safetensors")
    with pytest.raises(FileError, match="there is no LoRA called style"):
        find_addon("lora", "style")
    there = lora(place / "loras/style.safetensors")
    assert find_addon("lora", "style").resolve() == there


def test_a_missing_name_lists_what_is_there(place: Path) -> None:
    with pytest.raises(FileError, match=r"no folder loras; put its file .* --lora FILE"):
        find_addon("lora", "style")
    for name in ("one", "deep/two"):
        lora(place / f"loras/{name}.safetensors")
    with pytest.raises(FileError, match=r"called style in loras; there are deep/two, one\."):
        find_addon("lora", "style")


def test_of_many_names_the_nearest_come_first(place: Path) -> None:
    for number in range(30):
        lora(place / f"loras/a{number:02}.safetensors")
    lora(place / "loras/watercolour.safetensors")
    with pytest.raises(FileError, match=r"there are watercolour, a.* and 19 more"):
        find_addon("lora", "watercolor")


def test_what_is_no_weight_is_told_from_a_name_that_is_not_there(place: Path) -> None:
    lora(place / "loras/style.safetensors")
    with pytest.raises(FileError, match="there is style, and 'much' is no weight"):
        find_addon("lora", "style:much")


def test_links_that_go_round_and_hidden_files_are_passed_by(place: Path) -> None:
    lora(place / "loras/one.safetensors")
    lora(place / "loras/.hidden.safetensors")
    (place / "loras/loop").symlink_to(place / "loras")
    (place / "Lora").symlink_to(place / "loras")
    assert [one.name for one in shelved("lora")] == ["one"]
    assert shelf_folders("lora") == [Path("loras")]
