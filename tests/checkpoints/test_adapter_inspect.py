"""Inspecting an adapter tells kind, family, ranks, strengths, words and keys without a place."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters_published import write
from safelight.checkpoints.adapter_names import layers_of
from safelight.checkpoints.inspect import Inspection, inspect
from safelight.cli.adapter_lines import adapter_lines
from safelight.families import SD2_BASE, SD15, SDXL, SDXL_REFINER, Family
from safelight.model import Model

State = dict[str, Tensor]


def attention(family: Family, ending: str = ".attn1.to_q", rank: int = 2) -> State:
    """A LoRA of some of a U-Net's layers, in the names of kohya's trainer."""
    layers = layers_of(family)
    state: State = {}
    for layer in layers.of("unet"):
        if layer.path.endswith((ending, ".attn2.to_k")):
            path = layers.original[layer.path] if family.text.vector != "none" else layer.path
            name = f"lora_unet_{path}".replace(".", "_")
            state[f"{name}.lora_up.weight"] = torch.zeros(layer.shape[0], rank)
            state[f"{name}.lora_down.weight"] = torch.zeros(rank, layer.shape[1])
            state[f"{name}.alpha"] = torch.tensor(1.0)
    return state


def seen(state: State, folder: Path, metadata: dict[str, str] | None = None) -> Inspection:
    return inspect(write(state, folder / "a.safetensors", metadata), hashes=False)


@pytest.mark.parametrize("family", [SD15, SD2_BASE, SDXL, SDXL_REFINER], ids=lambda f: f.name)
def test_the_family_is_that_of_the_layers(family: Family, tmp_path: Path) -> None:
    found = seen(attention(family), tmp_path)
    assert found.adapter is not None and found.problem is None
    width = family.backbone.context_width
    assert found.adapter.family == f"{family.label} (context width {width})"
    assert found.adapter.matched == found.adapter.total == len(attention(family))
    assert (found.adapter.kinds, found.adapter.unmatched) == (
        (("LoRA", found.adapter.matched // 3),),
        (),
    )
    assert [rank for rank, _ in found.adapter.ranks] == ["2"]
    assert [alpha for alpha, _ in found.adapter.alphas] == ["1"]
    (part,) = found.adapter.parts
    assert (part.name, part.layers) == ("unet", found.adapter.matched // 3)
    assert part.whole == sum(1 for _ in layers_of(family).of("unet"))


def test_layers_that_fit_two_families_are_of_the_one_that_is_stated(tmp_path: Path) -> None:
    shared = {n: t for n, t in attention(SD15).items() if "attn1" in n}
    for version, label in (("sd_v1", "Stable Diffusion 1.x"), ("sd_v2", "Stable Diffusion 2.x")):
        found = seen(shared, tmp_path, {"ss_base_model_version": version})
        assert found.adapter is not None
        assert found.adapter.family.startswith(label) and found.adapter.stated == label


def test_metadata_that_contradicts_the_layers_is_said(tmp_path: Path) -> None:
    found = seen(attention(SD15), tmp_path, {"ss_base_model_version": "sdxl_base_v1-0"})
    assert any("says Stable Diffusion XL, but its layers are of" in note for note in found.notes)


def test_every_kind_of_a_file_is_counted(tmp_path: Path) -> None:
    state = attention(SD15)
    conv, norm = "lora_unet_down_blocks_0_resnets_0_conv1", "lora_unet_conv_norm_out"
    state |= {
        f"{conv}.lora_up.weight": torch.zeros(320, 3, 1, 1),
        f"{conv}.lora_down.weight": torch.zeros(3, 320, 3, 3),
        f"{conv}.dora_scale": torch.zeros(320, 1, 1, 1),
        f"{norm}.w_norm": torch.zeros(320),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.diff": torch.zeros(3072, 768),
    }
    found = seen(state, tmp_path)
    assert found.adapter is not None
    kinds = dict(found.adapter.kinds)
    assert {k: n for k, n in kinds.items() if k != "LoRA"} == {
        "DoRA": 1,
        "LoCon": 1,
        "norm": 1,
        "full": 1,
    }
    assert {part.name for part in found.adapter.parts} == {"unet", "text_encoder"}
    assert found.adapter.ranks == (("2", kinds["LoRA"]), ("3", 1))


def test_unmatched_keys_and_words_are_in_the_lines_and_in_the_json(tmp_path: Path) -> None:
    odd = {"lora_unet_mystery.alpha": torch.tensor(1.0), "stray": torch.zeros(2)}
    beside = {"bundle_emb.cat.clip_l": torch.zeros(2, 768)}
    tags = {"10_sks dog": {"sks dog": 10, "grass": 3}}
    metadata = {"ss_tag_frequency": json.dumps(tags), "ss_output_name": "hyper-sd dog"}
    found = seen(attention(SD15) | odd | beside, tmp_path, metadata)
    assert found.adapter is not None
    assert set(found.adapter.unmatched) == set(odd)
    assert found.adapter.matched == found.adapter.total - 2
    lines = {name: value for name, value in adapter_lines(found.adapter) if value}
    assert lines["unmatched"] == "stray, lora_unet_mystery.alpha"
    assert lines["trigger words"].startswith("sks dog")
    assert lines["words of its captions"] == "sks dog (10), grass (3)"
    assert lines["embeddings beside it"] == "cat"
    assert lines["ranks"] == "2" and "100" not in lines["matched"]
    assert any("Hyper-SD" in note for note in found.notes)
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert again["adapter"]["unmatched"] == list(found.adapter.unmatched)
    assert again["adapter"]["remarks"]["triggers"] == ["sks dog"]
    assert again["adapter"]["speed"]["hint"]["sampler"] == "ddim"


def test_an_adapter_of_no_family_is_described_with_its_problem(tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    state = {
        f"{name}.lora_up.weight": torch.zeros(8, 2),
        f"{name}.lora_down.weight": torch.zeros(2, 8),
    }
    found = seen(state, tmp_path)
    assert (found.kind, found.problem) == ("lora", "it is for Flux")
    assert found.adapter is not None and found.adapter.matched == 0


def test_a_folder_of_diffusers_or_peft_is_its_file(tmp_path: Path) -> None:
    for stem in ("pytorch_lora_weights", "adapter_model"):
        folder = tmp_path / stem
        write(attention(SD15), folder / f"{stem}.safetensors")
        found = inspect(folder)
        assert found.kind == "lora" and found.adapter is not None and found.sha256 is not None
        assert found.adapter.matched == found.adapter.total


def test_the_embedded_model_s_family_is_known_too(
    small: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = small.family
    found = seen(attention(own), tmp_path)
    assert found.adapter is not None and not found.adapter.family
    assert found.problem is not None and "no family that is known here" in found.problem
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: folder)
    found = seen(attention(own), tmp_path)
    assert found.adapter is not None and found.adapter.family.startswith(own.label)
    assert found.adapter.matched == found.adapter.total
