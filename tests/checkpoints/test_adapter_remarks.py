"""What adapter files say of themselves: family, words, training, and LoRAs for few steps."""

import json
from pathlib import Path
from time import perf_counter

import pytest

from safelight.checkpoints.adapter_remarks import MOST_TRIGGERS, remarks_of, stated_family
from safelight.checkpoints.adapter_speed import speed_hint
from safelight.diffusion.samplers import SAMPLERS
from safelight.diffusion.schedules import SCHEDULES

DOG = {"10_sks dog": {"sks dog": 20, "grass": 12, "running": 7}}


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sd_v1"}, "Stable Diffusion 1.x"),
        ({"ss_base_model_version": "sd_1.5"}, "Stable Diffusion 1.x"),
        ({"ss_base_model_version": "sd_v2_v"}, "Stable Diffusion 2.x"),
        ({"ss_v2": "True"}, "Stable Diffusion 2.x"),
        ({"ss_v2": "False"}, ""),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "Stable Diffusion XL"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "Stable Diffusion 2.x"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "Stable Diffusion XL"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "Flux"),
        ({"ss_base_model_version": "None"}, ""),
        ({}, ""),
    ],
)
def test_the_stated_family_is_put_into_words(metadata: dict[str, str], family: str) -> None:
    assert stated_family(metadata) == family


def test_a_stated_trigger_stands_before_those_of_the_captions() -> None:
    metadata = {
        "modelspec.trigger_phrase": "sks dog, a photo",
        "ss_tag_frequency": json.dumps(DOG),
    }
    found = remarks_of(metadata)
    assert found.triggers == ("sks dog", "a photo")
    assert found.triggers_from == "the file names them"
    assert found.tags == (("sks dog", 20), ("grass", 12), ("running", 7))


def test_words_of_nearly_all_captions_are_triggers() -> None:
    metadata = {
        "ss_tag_frequency": json.dumps({**DOG, "5_cat": {"sks cat": 19, "sofa": 10}}),
        "ss_dataset_dirs": json.dumps(
            {"10_sks dog": {"img_count": 20}, "5_cat": {"img_count": 20}}
        ),
    }
    found = remarks_of(metadata)
    assert found.triggers == ("sks dog", "sks cat")
    assert found.triggers_from == "they stood in nearly all captions"


def test_pictures_without_captions_are_learned_under_their_folder_s_name() -> None:
    found = remarks_of({"ss_tag_frequency": json.dumps({"20_sks dog": {}, "img": {}})})
    assert found.triggers == ("sks dog",)
    assert "folders" in found.triggers_from


@pytest.mark.parametrize(
    ("beside", "values"),
    [
        ("a.json", {"activation text": "sks dog, snow", "notes": ""}),
        ("a.civitai.info", {"trainedWords": ["sks dog", "snow"]}),
    ],
)
def test_notes_beside_a_file_name_its_words(
    beside: str, values: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / beside).write_text(json.dumps(values))
    found = remarks_of({"ss_tag_frequency": json.dumps(DOG)}, tmp_path / "a.safetensors")
    assert found.triggers == ("sks dog", "snow") and "notes beside it" in found.triggers_from
    (tmp_path / beside).write_text("{broken")
    again = remarks_of({"ss_tag_frequency": json.dumps(DOG)}, tmp_path / "a.safetensors")
    assert again.triggers == ("sks dog",)


def test_network_and_training_are_told_in_the_trainer_s_words() -> None:
    found = remarks_of(
        {
            "ss_network_module": "lycoris.kohya",
            "ss_network_args": json.dumps({"algo": "lokr", "factor": "8"}),
            "ss_network_dim": "8",
            "ss_network_alpha": "4.0",
            "ss_noise_offset": "None",
            "ss_v_parameterization": "False",
            "modelspec.resolution": "1024x1024",
            "ss_resolution": "(512, 512)",
            "ss_sd_model_name": "base.safetensors",
            "modelspec.title": "A\n title",
        }
    )
    assert found.network == "lycoris.kohya, lokr"
    assert found.training == (("rank", "8"), ("alpha", "4.0"), ("resolution", "1024x1024"))
    assert (found.base_model, found.title) == ("base.safetensors", "A title")


@pytest.mark.parametrize(
    "value",
    ["", "nonsense", "[1, 2]", "[" * 100_000, '{"a": 1}', '{"a": {"b": -3, "c": true, "d": "x"}}'],
    ids=["empty", "text", "list", "deep", "numbers", "counts"],
)
def test_tags_that_cannot_be_read_are_left_out(value: str) -> None:
    assert remarks_of({"ss_tag_frequency": value}).tags == ()


def test_many_folders_take_no_longer_than_many_words() -> None:
    tags = {f"1_{i}": {f"tag{i % 7}": 5} for i in range(30_000)}
    dirs = {name: {"img_count": 5} for name in tags}
    began = perf_counter()
    found = remarks_of({"ss_tag_frequency": json.dumps(tags), "ss_dataset_dirs": json.dumps(dirs)})
    assert perf_counter() - began < 10  # a second or less; minutes if the sums were made anew
    assert len(found.triggers) == 7


def test_remarks_are_bounded_and_printable() -> None:
    tags = {f"1_{i}": {f"tag{i}\x1b[31m\n": 5} for i in range(100)}
    found = remarks_of({"ss_tag_frequency": json.dumps(tags), "modelspec.title": "x\x07" * 10_000})
    assert len(found.triggers) == MOST_TRIGGERS
    assert all(word.isprintable() for word in found.triggers)
    assert found.title.isprintable() and len(found.title) < 2_000


# -- LoRAs for few steps ---------------------------------------------------------------------------

NAMES = {
    "lcm-lora-sdv1-5.safetensors": ("LCM", "lcm", None, 4, 1.0),
    "LCM_LoRA_Weights_SD15.safetensors": ("LCM", "lcm", None, 4, 1.0),
    "sdxl_lightning_8step_lora.safetensors": ("SDXL-Lightning", "euler", "trailing", 8, 1.0),
    "Hyper-SDXL-1step-lora.safetensors": ("Hyper-SD", "tcd", None, 1, 1.0),
    "Hyper-SD15-8steps-CFG-lora.safetensors": ("Hyper-SD", "ddim", "trailing", 8, 5.0),
    "Hyper-SDXL-4steps-lora.safetensors": ("Hyper-SD", "ddim", "trailing", 4, 1.0),
    "tcd-sdxl-lora.safetensors": ("TCD", "tcd", None, 4, 1.0),
    "dmd2_sdxl_4step_lora_fp16.safetensors": ("DMD2", "lcm", "trailing", 4, 1.0),
    "sd_xl_turbo_lora_v1.safetensors": ("Turbo", "euler_ancestral", "trailing", 4, 1.0),
    "flash-sdxl.safetensors": ("Flash Diffusion", "lcm", "trailing", 4, 1.0),
    "pcm_sd15_normalcfg_8step_converted.safetensors": ("PCM", "ddim", "trailing", 8, 7.5),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_lora_for_few_steps_is_known_by_its_name(name: str, tmp_path: Path) -> None:
    found = speed_hint(tmp_path / name, {})
    assert found is not None
    hint = found.hint
    got = (found.method, hint.sampler, hint.schedule, hint.steps, hint.guidance_scale)
    assert got == NAMES[name]
    assert hint.sampler in SAMPLERS and (hint.schedule is None or hint.schedule in SCHEDULES)
    assert f"--sampler {hint.sampler}" in found.note and "nothing was changed" in found.note
    assert not hint.stated


def test_a_hub_file_is_known_by_its_repository(tmp_path: Path) -> None:
    inner = tmp_path / "models--latent-consistency--lcm-lora-sdxl" / "snapshots" / "abc"
    found = speed_hint(inner / "pytorch_lora_weights.safetensors", {})
    assert found is not None and found.method == "LCM" and "folder" in found.seen_in


def test_a_title_tells_what_a_renamed_file_does_not(tmp_path: Path) -> None:
    found = speed_hint(tmp_path / "a.safetensors", {"modelspec.title": "My TCD distillation"})
    assert found is not None and found.method == "TCD" and "title" in found.seen_in


@pytest.mark.parametrize(
    "name",
    ["lightning_strike_style", "turbocharged_cars", "hyperrealism", "calcmachine", "flashlight"],
)
def test_a_style_is_not_taken_for_one(name: str) -> None:
    assert speed_hint(Path("/") / f"{name}.safetensors", {}) is None
