"""Names of adapter files: every spelling of every layer leads to it, and to no other."""

from collections.abc import Iterator

import pytest

from adapters_published import original, pair
from safelight.checkpoints.adapter_keys import SLOTS, sort, split
from safelight.checkpoints.adapter_names import Layer, Layers, layers_of
from safelight.families import FAMILIES, SD2_BASE, SD15, SDXL, SDXL_REFINER, Family

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
QUERY = f"{BLOCK}.attn1.to_q"


def spellings(layer: Layer, layers: Layers, second: bool) -> Iterator[str]:
    if layer.part == "unet":
        for path in (layer.path, layers.original[layer.path]):
            flat = path.replace(".", "_")
            yield from (f"lora_unet_{flat}", f"oft_unet_{flat}", f"lycoris_{flat}")
            yield from (f"unet.{path}", f"base_model.model.{path}", f"diffusion_model.{path}")
        yield layer.path
        if ".attn" in layer.path:
            old = layer.path.replace(".to_", ".processor.to_").removesuffix(".0")
            yield from (f"unet.{old}", old)
        return
    number = "2" if layer.part.endswith("2") else "1"
    flat = layer.path.replace(".", "_")
    yield f"lora_te{number}_{flat}"
    yield f"{layer.part}.{layer.path}"
    yield f"{layer.part}.{layer.path.removeprefix('text_model.')}"
    if not second:
        yield from (f"lora_te_{flat}", layer.path, f"base_model.model.{layer.path}")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_every_spelling_of_every_layer_leads_to_it(family: Family) -> None:
    layers = layers_of(family)
    two = len(family.text.roles) > 1
    for part in ("unet", "text_encoder", "text_encoder_2"):
        for layer in layers.of(part):
            for spelled in spellings(layer, layers, two):
                assert layers.find(spelled) == (layer,), spelled


@pytest.mark.parametrize("family", [SD15, SD2_BASE, SDXL, SDXL_REFINER], ids=lambda f: f.name)
def test_no_two_layers_share_a_spelling(family: Family) -> None:
    layers = layers_of(family)
    paths = [layer.path for layer in layers.of("unet")]
    forms = {path.replace(".", "_") for path in paths}
    originals = {layers.original[path].replace(".", "_") for path in paths}
    assert len(forms) == len(originals) == len(paths)
    assert not forms & originals


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_original_names_are_those_of_another_translation(name: str) -> None:
    layers = layers_of(pair(name).model.family)
    for layer in layers.of("unet"):
        assert layers.original[layer.path] == original(name, layer.path)


def test_one_word_for_two_encoders_means_either() -> None:
    found = layers_of(SDXL).find("lora_te_text_model_encoder_layers_3_mlp_fc1")
    assert [layer.part for layer in found] == ["text_encoder", "text_encoder_2"]
    assert [layer.shape for layer in found] == [(3072, 768), (5120, 1280)]
    assert layers_of(SD15).find("lora_te2_text_model_encoder_layers_3_mlp_fc1") == ()


def test_the_refiner_s_encoder_is_its_files_second() -> None:
    name = "text_encoder_2.text_model.encoder.layers.3.mlp.fc1"
    (layer,) = layers_of(SDXL_REFINER).find(name)
    assert layer.part == "text_encoder" and layer.shape == (5120, 1280)


def test_a_block_that_is_never_run_is_told_from_one_that_does_not_exist() -> None:
    layers = layers_of(SD2_BASE)
    assert layers.beyond("lora_te_text_model_encoder_layers_23_mlp_fc1")
    assert not layers.beyond("lora_te_text_model_encoder_layers_22_mlp_fc1")
    assert not layers.beyond("lora_unet_down_blocks_9_resnets_0_conv1")
    assert not layers_of(SD15).beyond("lora_te2_text_model_encoder_layers_3_mlp_fc1")


def test_the_first_files_called_a_text_encoder_s_layers_as_the_unet_s() -> None:
    base = "text_encoder.text_model.encoder.layers.0.self_attn"
    for old, new in (("to_q", "q_proj"), ("to_out", "out_proj")):
        (layer,) = layers_of(SD15).find(f"{base}.{old}")
        assert layer.path == f"text_model.encoder.layers.0.self_attn.{new}"


@pytest.mark.parametrize("ending", SLOTS)
def test_every_ending_is_found_under_any_layer(ending: str) -> None:
    for module in (f"lora_unet_{BLOCK.replace('.', '_')}", f"unet.{BLOCK}", "text_model.x.1"):
        assert split(f"{module}.{ending}") == (module, SLOTS[ending])


def test_the_endings_of_diffusers_processors_and_of_named_adapters_are_known() -> None:
    old = f"unet.{BLOCK}.attn1.processor.to_q_lora.down.weight"
    assert split(old) == (f"unet.{BLOCK}.attn1.processor.to_q", "down")
    assert split(f"{QUERY}.lora_A.default.weight") == (QUERY, "down")
    assert split(f"{QUERY}.lora_B.my_style.weight") == (QUERY, "up")
    assert split(f"{QUERY}.lora_magnitude_vector.default.weight") == (QUERY, "magnitude")
    assert split(f"{QUERY}.lora_magnitude_vector.default") == (QUERY, "magnitude")
    assert split("position_ids") is None and split(f"{QUERY}.strange") is None


def test_a_weight_alone_is_no_change_of_a_layer() -> None:
    found = sort([f"{QUERY}.weight", "a.lora_up.weight", "a.alpha", "b.weight", "b.on_input"])
    assert [group.module for group in found.groups] == ["a", "b"]
    assert found.unknown == (f"{QUERY}.weight",)


def test_embeddings_beside_an_adapter_are_kept_apart() -> None:
    names = ["bundle_emb.cat.clip_l", "bundle_emb.cat.clip_g", "x.lora_up.weight"]
    found = sort(names)
    assert found.bundled == tuple(names[:2]) and len(found.groups) == 1


def test_a_slot_taken_twice_is_said() -> None:
    found = sort(["x.lora_up.weight", "x.lora_B.weight"])
    assert found.unknown == ("x.lora_B.weight",)
