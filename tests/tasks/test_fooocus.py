"""Fooocus' JSON and its A1111 scheme."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.errors import FileError, SafelightError
from safelight.tasks.addons import Lora
from safelight.tasks.metadata.fooocus import is_fooocus, read_fooocus
from safelight.tasks.metadata.infotext_request import read_infotext
from safelight.tasks.metadata.reading import StatedHash
from safelight.tasks.request import Request

# Keys and values as Fooocus 2.5 writes them.
MODERN: dict[str, object] = {
    "adm_guidance": "(1.5, 0.8, 0.3)",
    "base_model": "juggernautXL_v8Rundiffusion",
    "base_model_hash": "aeb7e9e689",
    "clip_skip": 2,
    "full_negative_prompt": ["(worst quality:1.2), anime"],
    "full_prompt": ["cinematic still A sunflower field . vignette", "A sunflower field, magic"],
    "guidance_scale": 4,
    "loras": [["sd_xl_offset_example-lora_1.0", 0.1, "4852686128"]],
    "lora_combined_1": "sd_xl_offset_example-lora_1.0 : 0.1",
    "metadata_scheme": "fooocus",
    "negative_prompt": "",
    "performance": "Speed",
    "prompt": "A sunflower field",
    "prompt_expansion": "A sunflower field, magic",
    "refiner_model": "None",
    "refiner_switch": 0.5,
    "resolution": "(1152, 896)",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "127589946317439009",
    "sharpness": 2,
    "steps": 30,
    "styles": "['Fooocus V2']",
    "vae": "Default (model)",
    "version": "Fooocus v2.5.5",
}
EXPECTED = Request(
    prompt="cinematic still A sunflower field . vignette",
    negative_prompt="(worst quality:1.2), anime",
    dialect="comfy",
    clip_skip=2,
    model="juggernautXL_v8Rundiffusion",
    width=1152,
    height=896,
    seed=127589946317439009,
    start="unit",
    loras=(Lora(file="sd_xl_offset_example-lora_1.0", weight=0.1),),
    steps=30,
    sampler="DPM++ 2M SDE",
    schedule="Karras",
    cfg_scale=4,
)


def modern(**changes: object) -> str:
    """The JSON with changed keys."""
    return json.dumps({**MODERN, **changes})


def test_the_json_is_read() -> None:
    reading = read_fooocus(modern())
    assert reading.request == EXPECTED
    assert (reading.source, reading.model_hash) == ("Fooocus", "aeb7e9e689")


def test_loras_are_read_with_their_hashes() -> None:
    reading = read_fooocus(modern(loras=[["style.safetensors", 0.5, "4852686128"], ["b", "x"], 3]))
    assert reading.request is not None and reading.request.loras == ()
    assert any("loras.weight must be" in note for note in reading.notes)
    reading = read_fooocus(modern())
    assert reading.request is not None
    assert reading.request.loras == (Lora(file="sd_xl_offset_example-lora_1.0", weight=0.1),)
    assert reading.hashes == (StatedHash("lora", "sd_xl_offset_example-lora_1.0", "4852686128"),)


def test_what_only_fooocus_does_is_said() -> None:
    told = "\n".join(read_fooocus(modern()).notes)
    for word in ("2 texts as one prompt", "adm_guidance", "sharpness"):
        assert word in told
    for word in ("refiner", "performance", "metadata_scheme", "lora_combined"):
        assert word not in told


def test_without_styles_the_typed_prompt_is_read() -> None:
    reading = read_fooocus(modern(full_prompt=None, full_negative_prompt=[]))
    assert reading.request is not None
    assert (reading.request.prompt, reading.request.negative_prompt) == ("A sunflower field", "")


def test_a_vae_and_a_refiner_are_told() -> None:
    reading = read_fooocus(modern(vae="fix.safetensors", refiner_model="xl.safetensors"))
    assert reading.request == EXPECTED.replace(vae="fix.safetensors")
    assert "xl.safetensors" in "\n".join(reading.notes)


def test_older_keys_with_blanks_and_capitals_are_read() -> None:
    old = {"Prompt": "a", "Seed": 3, "Resolution": "(640, 512)", "Guidance Scale": 5, "Steps": 9}
    request = read_fooocus(json.dumps(old)).request
    assert request is not None
    assert (request.prompt, request.seed, request.width, request.steps) == ("a", 3, 640, 9)


@pytest.mark.parametrize("resolution", ["big", "(1, 2, 3)", 7, "(9999999, 1)"])
def test_a_broken_size_is_left_out_with_a_note(resolution: object) -> None:
    reading = read_fooocus(modern(resolution=resolution))
    assert reading.request == EXPECTED.replace(width=None, height=None)
    assert "resolution" in "\n".join(reading.notes)


def test_the_a1111_scheme_is_read() -> None:
    text = """A sunflower field
Negative prompt: anime
Steps: 30, Sampler: DPM++ 2M SDE, Schedule type: Karras, Seed: 5, Size: 1152x896, CFG scale: 4, \
Sharpness: 2, ADM Guidance: "(1.5, 0.8, 0.3)", Model hash: aeb7e9e689, \
Model: juggernautXL_v8Rundiffusion, Performance: Speed, Version: Fooocus v2.5.5"""
    reading = read_infotext(text)
    assert reading.source == "Fooocus" and reading.request is not None
    assert (reading.request.dialect, reading.request.noise_source) == ("comfy", "cpu")
    assert (reading.request.width, reading.request.cfg_scale) == (1152, 4)
    told = "\n".join(reading.notes)
    assert "Sharpness" in told and "(1.5, 0.8, 0.3)" in told


def test_fooocus_json_is_told_from_other_texts() -> None:
    assert is_fooocus(modern())
    assert not is_fooocus("a cat\nSteps: 3") and not is_fooocus('{"1": {"class_type": "X"}}')


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 99_999])
def test_what_is_not_its_json_is_a_file_error(text: str) -> None:
    with pytest.raises(FileError):
        read_fooocus(text)


@given(
    st.dictionaries(
        st.sampled_from([*MODERN, "vae"]) | st.text(),
        st.none() | st.integers() | st.floats() | st.text() | st.lists(st.text() | st.integers()),
    )
)
def test_whatever_the_settings_only_our_errors_come_back(given_: dict[str, object]) -> None:
    try:
        reading = read_fooocus(json.dumps(given_))
    except SafelightError:
        return
    assert all("\n" not in note for note in reading.notes)
